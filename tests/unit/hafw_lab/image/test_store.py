# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes into a guest: archives for the kernel, modules in order, the files of a node, sources of apt."""

import dataclasses
import os
import shutil
import stat
import subprocess
import sys
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from agent.config import loader
from hafw_lab import long_command
from hafw_lab.compose import pair_file
from hafw_lab.errors import LabError
from hafw_lab.image import cpio, seed, store
from hafw_lab.image.boot import order_modules
from hafw_lab.image.debian import Release, Source, sources_from
from hafw_lab.long_command import run_shown
from hafw_lab.model.options import AgentKind, LabOptions
from hafw_lab.model.topology import DEFAULT, Link, NodeSpec, Route, compute_mac

KEY = "what both nodes have\n"


def spec_of(name: str) -> NodeSpec:
    spec = DEFAULT.node(name)
    assert spec is not None
    return spec


def files_of(name: str, options: LabOptions = LabOptions()) -> dict[str, seed.SeedFile]:  # noqa: B008 - frozen
    text = pair_file.compose(DEFAULT, options)
    spec = spec_of(name)
    pair = loader.parse(text, "the test's pair file")
    return {one.path: one for one in seed.plan_files(spec, DEFAULT, options, pair, text, KEY)}


# -- archives --


def test_an_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    """By another program's reader, with all kinds of entries and every remainder of a length by four."""
    entries = [
        *(cpio.file(f"a/b/{size}", bytes(size), 0o640) for size in range(5)),
        cpio.link("a/link", "b/3"),
        cpio.directory("a/empty", 0o700),
    ]
    packed = cpio.pack(entries)
    reader = [shutil.which("cpio") or "", "--extract", "--quiet", "--make-directories"]
    if not reader[0]:
        reader = ["busybox", "cpio", "-i", "-d"]
    subprocess.run(reader, input=packed, cwd=tmp_path, check=True)
    for size in range(5):
        path = tmp_path / "a" / "b" / str(size)
        assert path.read_bytes() == bytes(size)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.readlink(tmp_path / "a" / "link") == "b/3"
    assert stat.S_IMODE((tmp_path / "a" / "empty").stat().st_mode) == 0o700
    assert len(packed) % 4 == 0


def test_modules_come_after_what_they_need() -> None:
    dependencies = """kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz
kernel/fs/jbd2/jbd2.ko.xz: kernel/lib/base.ko.xz
kernel/lib/crc16.ko.xz:
kernel/lib/base.ko.xz:
kernel/drivers/other.ko.xz:
kernel/drivers/virtio-blk.ko.xz: kernel/lib/base.ko.xz
"""
    order = order_modules(dependencies, ["built_in", "virtio_blk", "ext4"])
    assert [path.rsplit("/", 1)[-1] for path in order] == [
        "base.ko.xz",
        "virtio-blk.ko.xz",
        "crc16.ko.xz",
        "jbd2.ko.xz",
        "ext4.ko.xz",
    ]


# -- seeds --


def test_a_firewall_gets_what_setup_writes() -> None:
    files = files_of("fw-1")
    assert files["/etc/hostname"].text == "fw-1\n"
    assert "vrrp_instance" in files["/etc/keepalived/keepalived.conf"].text
    assert "192.168.1.1" in files["/etc/conntrackd/conntrackd.conf"].text
    assert "192.168.0.1/24" in files["/etc/systemd/network/60-hafw-eth0.network"].text
    assert files["/etc/hafw/hafw.yaml"].mode == 0o640
    link = files["/etc/systemd/network/10-hafw-lab-eth2.link"].text
    assert f"MACAddress={compute_mac('fw-1', 'eth2')}" in link
    assert "Name=eth2" in link


def test_nodes_differ_and_stay_the_same() -> None:
    first, second = files_of("fw-1"), files_of("fw-2")
    assert first["/etc/machine-id"].text != second["/etc/machine-id"].text
    assert len(first["/etc/machine-id"].text.strip()) == 32
    assert first == files_of("fw-1")


def test_both_firewalls_have_the_same_key_for_root_alone() -> None:
    for name in ("fw-1", "fw-2"):
        assert files_of(name)["/etc/hafw/pair.pem"] == seed.SeedFile("/etc/hafw/pair.pem", KEY, 0o600)


def test_a_host_is_no_firewall() -> None:
    files = files_of("client")
    assert "/etc/hafw/hafw.yaml" not in files  # with it conntrackd and nftables would start
    assert "/etc/hafw/pair.pem" not in files
    network = files["/etc/systemd/network/60-hafw-lab-eth0.network"].text
    assert "Address=192.168.2.10/24" in network
    assert "Destination=0.0.0.0/0\nGateway=192.168.2.100" in network


@pytest.mark.parametrize("wanted", [True, False])
def test_the_server_knows_the_way_to_the_clients_when_asked(wanted: bool) -> None:
    network = files_of("omarine", LabOptions(server_route=wanted))[
        "/etc/systemd/network/60-hafw-lab-eth0.network"
    ].text
    assert ("Destination=192.168.2.0/24\nGateway=192.168.0.100" in network) is wanted


def test_routes_and_sysctls_of_a_firewall() -> None:
    spec = dataclasses.replace(
        spec_of("fw-1"), routes=(Route(ip_network("10.0.0.0/8"), ip_address("192.168.0.3")),)
    )
    options = LabOptions(sysctls={"net.ipv4.tcp_syncookies": "0"})
    text = pair_file.compose(DEFAULT, options)
    pair = loader.parse(text, "the test's pair file")
    files = {one.path: one.text for one in seed.plan_files(spec, DEFAULT, options, pair, text, KEY)}
    assert "Gateway=192.168.0.3" in files["/etc/systemd/network/60-hafw-eth0.network.d/hafw-lab.conf"]
    assert "/etc/systemd/network/60-hafw-eth1.network.d/hafw-lab.conf" not in files
    assert files["/etc/sysctl.d/70-hafw-lab.conf"] == "net/ipv4/tcp_syncookies = 0\n"


def test_addresses_of_both_families() -> None:
    addresses = (ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64"))
    spec = dataclasses.replace(spec_of("client"), links=(Link("eth0", "br1", addresses),))
    options = LabOptions()
    text = pair_file.compose(DEFAULT, options)
    files = seed.plan_files(spec, DEFAULT, options, loader.parse(text, "the pair file"), text, KEY)
    network = next(one.text for one in files if one.path.endswith("60-hafw-lab-eth0.network"))
    assert "Address=2001:db8::1/64" in network
    assert "LinkLocalAddressing=ipv6" in network


def test_machines_have_our_agent_only() -> None:
    with pytest.raises(LabError, match="fw-1 cannot be a machine with --agent stock"):
        files_of("fw-1", LabOptions(agent=AgentKind.STOCK))


# -- Debian --


def test_sources_of_another_release() -> None:
    listing = """http://mirror.test/debian/|bookworm|main|bookworm
http://mirror.test/debian/|bookworm|contrib|bookworm
http://mirror.test/debian/|bookworm-updates|main|bookworm-updates
http://mirror.test/debian-security/|stable-security|main|bookworm-security
http://mirror.test/debian/|bookworm-backports|main|bookworm-backports
http://other.test/|nodistro|main|
http://mirror.test/debian/|bookworm|main|
"""
    assert sources_from(listing, Release.TRIXIE) == (
        Source("http://mirror.test/debian/", "trixie", "main"),
        Source("http://mirror.test/debian/", "trixie-updates", "main"),
        Source("http://mirror.test/debian-security/", "trixie-security", "main"),
    )
    assert sources_from("http://other.test/|nodistro|main|\n", Release.TRIXIE) == ()


def test_releases_have_two_names() -> None:
    assert Release.parse("13") is Release.parse("trixie") is Release.TRIXIE
    with pytest.raises(LabError, match="bookworm, trixie"):
        Release.parse("sid")


def test_dependencies_of_a_package(tmp_path: Path) -> None:
    control = tmp_path / "tree" / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
        "Pre-Depends: first:any\nDepends: second (>= 1:2.0), third | fourth\n"
    )
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", "tree", "x.deb"], cwd=tmp_path, check=True)
    assert store.read_depends(tmp_path / "x.deb") == ["first", "second", "third"]


# -- long programs --


def test_progress_and_failure_of_a_long_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_command, "SAY_EVERY_S", 0.1)
    heard = tmp_path / "heard"
    os.mkfifo(heard)
    said: list[str] = []

    def say(text: str) -> None:
        if "begun" in text and not any("begun" in line for line in said):
            heard.write_text("")  # it waits for a writer
        said.append(text)

    program = f"import sys; print('begun', flush=True); open('{heard}').read(); print('oh'); sys.exit(3)"
    argv = [sys.executable, "-c", program]
    with pytest.raises(LabError, match=r"(?s)making x: .*ended with status 3: begun; oh; .*log"):
        run_shown(argv, say, "making x", log=tmp_path / "log", timeout_s=60)
    assert any("begun" in line for line in said)
    assert (tmp_path / "log").read_text() == "begun\noh\n"


def test_a_long_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    argv = ["sh", "-c", "sleep 600 & wait"]
    with pytest.raises(LabError, match=r"sh did not end within 0\.5 s"):
        run_shown(argv, lambda _: None, "x", log=tmp_path / "log", timeout_s=0.5)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="/no/such is not there"):
        run_shown(["/no/such"], lambda _: None, "x", log=tmp_path / "log", timeout_s=5)


# -- the cache --


def test_prune_keeps_the_image_of_each_release_that_was_used_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAFW_CACHE", str(tmp_path))
    names = ("bookworm-1", "bookworm-2", "trixie-1", "trixie-half")
    for age, name in enumerate(names):
        home = tmp_path / "images" / name
        home.mkdir(parents=True)
        (home / "disk.raw").write_bytes(b"x")
        if name != "trixie-half":
            (home / "image.json").write_text(f'{{"tree": "{name}.tar"}}')
        os.utime(home, (1000 + age, 1000 + age))
        (tmp_path / "debian").mkdir(exist_ok=True)
        (tmp_path / "debian" / f"{name}.tar").write_bytes(b"x")
    assert [one.key for one in store.find_images()] == ["1", "2", "1"]
    assert store.prune_images(lambda _: None) > 0
    assert {one.disk.parent.name for one in store.find_images()} == {"bookworm-2", "trixie-1"}
    assert not (tmp_path / "images" / "trixie-half").exists()
    assert {path.stem for path in (tmp_path / "debian").glob("*.tar")} == {"bookworm-2", "trixie-1"}
    store.prune_images(lambda _: None, every=True)
    assert store.find_images() == []
    assert not list((tmp_path / "debian").glob("*.tar"))
