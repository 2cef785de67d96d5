# SPDX-License-Identifier: GPL-2.0-or-later
"""What qemu and viewers are told for a machine with a desktop."""

from pathlib import Path

import pytest

from hafw_lab.arguments.desktops import choose_desktops
from hafw_lab.arguments.machines import choose_machines
from hafw_lab.client.desktop import Remote, Ticket
from hafw_lab.desktop.connection_file import compose_local, compose_remote
from hafw_lab.errors import LabError
from hafw_lab.model.topology import DEFAULT
from hafw_lab.plan.values import Machine
from hafw_lab.verbs import view
from hafw_lab.vm.display import plan_screen, write_by_hand

SOCKET = Path("/var/tmp/lab/omarine/spice.sock")
HERE = Ticket("secret", SOCKET, None)
OPEN = Ticket("secret", SOCKET, Remote("0.0.0.0", 5930, "-----BEGIN\nabc\n-----END\n"))
NAMES = [node.name for node in DEFAULT.nodes]


def make_machine(video: str, remote: str = "") -> Machine:
    return Machine(
        release="bookworm",
        kernel="k",
        initrd="i",
        disk="d",
        disk_format="raw",
        image_key="",
        ssh_key="",
        seed="",
        video=video,
        remote=remote,
    )


def test_a_machine_without_a_desktop_has_no_screen() -> None:
    assert plan_screen(make_machine(""), None) == ()
    assert write_by_hand(make_machine("")) == ""


@pytest.mark.parametrize("remote", ["", "0.0.0.0"])
def test_qemu_opens_no_port_and_no_password_is_in_its_command_line(remote: str) -> None:
    words = plan_screen(make_machine("qxl", remote), 7)
    spice = words[words.index("-spice") + 1].split(",")
    assert "password-secret=spice" in spice
    assert "disable-agent-file-xfer=on" in spice
    assert not {"disable-ticketing=on"} & set(spice)
    assert not [word for word in spice if word.startswith("port=")]
    # a TLS port makes the server read its certificate; it is one of a UNIX socket
    assert ("unix=on" in spice) == ("tls-port=1" in spice) == bool(remote)
    assert "secret,id=spice,file=/proc/self/fd/7" in words
    assert sum(word.endswith("name=usbredir") for word in words) == 3


@pytest.mark.parametrize(("video", "device"), [("qxl", "qxl-vga"), ("virtio", "virtio-vga")])
def test_the_screen_is_what_was_chosen(video: str, device: str) -> None:
    assert any(word.startswith(f"{device},") for word in plan_screen(make_machine(video), 7))


def test_a_viewer_here_uses_the_socket_without_sharing_devices_by_itself() -> None:
    lines = compose_local("omarine", HERE, SOCKET).splitlines()
    assert lines[0] == "[virt-viewer]"
    assert {"type=spice", f"unix-path={SOCKET}", "password=secret"} < set(lines)
    assert {"enable-usbredir=1", "enable-usb-autoshare=0"} < set(lines)
    assert not [line for line in lines if line.startswith(("host=", "port=", "tls-port="))]


def test_a_viewer_elsewhere_uses_tls_only_and_knows_whom_to_believe() -> None:
    lines = compose_remote("omarine", OPEN, "lab.example").splitlines()
    assert {"host=lab.example", "tls-port=5930", "host-subject=O=hafw-lab,CN=omarine"} < set(lines)
    assert "ca=-----BEGIN\\nabc\\n-----END" in lines
    assert not [line for line in lines if line.startswith(("port=", "unix-path="))]


def test_ssh_comes_first_without_a_door_to_the_network() -> None:
    forward, show = view.compose_elsewhere("omarine", "lab", SOCKET, remote=False).splitlines()
    assert f"-L /tmp/hafw-omarine.sock:{SOCKET}" in forward
    assert show.endswith("hafw-lab view omarine --print | remote-viewer -")
    (only,) = view.compose_elsewhere("omarine", "mine", SOCKET, remote=True).splitlines()
    assert "hafw-lab view --name mine omarine --print" in only
    printed = view.compose_for_others("omarine", HERE, 30, f"{forward}\n{show}")
    assert "unix-path=/tmp/hafw-omarine.sock" in printed.splitlines()
    assert all(line.startswith("#") for line in printed.partition("[virt-viewer]")[0].splitlines())


def test_desktops_are_machines_and_firewalls_have_none_unless_named() -> None:
    chosen = choose_desktops("hosts", None, None, DEFAULT)
    assert chosen == {"client": "qxl", "omarine": "qxl"}
    assert choose_machines(None, None, NAMES, chosen) == {"client": "trixie", "omarine": "trixie"}
    named = choose_desktops("fw-1", "virtio", None, DEFAULT)
    assert named == {"fw-1": "virtio"}
    machines = choose_machines("client", "bookworm", NAMES, named)
    assert machines == {"client": "bookworm", "fw-1": "bookworm"}
    assert choose_machines(None, None, NAMES) == {}


@pytest.mark.parametrize(
    ("wanted", "video", "remote", "said"),
    [
        ("nobody", None, None, "no node 'nobody'"),
        (None, "qxl", None, "--video"),
        (None, None, "0.0.0.0", "--remote"),
    ],
)
def test_what_does_not_go_together_is_said(
    wanted: str | None, video: str | None, remote: str | None, said: str
) -> None:
    with pytest.raises(LabError, match=said):
        choose_desktops(wanted, video, remote, DEFAULT)


def test_what_is_missing_for_a_viewer_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="apt-get install virt-viewer"):
        view.require_viewer("ssh somewhere")
    viewer = tmp_path / "remote-viewer"
    viewer.touch(mode=0o755)
    assert view.require_viewer("ssh somewhere") == str(viewer)
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(LabError, match=r"(?s)no graphical session.*ssh somewhere"):
        view.require_viewer("ssh somewhere")
