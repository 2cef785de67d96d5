# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw setup`: what it shows, asks, writes and keeps; and that it can be cut off anywhere."""

import json
import os
import pty
import stat
import subprocess
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import pytest

from agent.setup.changes import FileChange, diff_of
from agent.setup.notes import live_commands, rival_notes
from agent.setup.plan import PlannedFile, plan_setup
from agent.setup.write import write_change
from tests.unit.agent.setup.setup_run import (
    FILES,
    HAND_MADE,
    LIMIT_S,
    NOW,
    PAIR,
    PAIR_FILE,
    PATHS,
    WRITTEN,
    changes_below,
    files_in,
    install,
    needs_root,
    setup,
    write,
)


@pytest.mark.parametrize("start", [True, False])
def test_everything_a_node_needs_is_written(tmp_path: Path, start: bool) -> None:
    install(tmp_path, start=start)
    found = files_in(tmp_path)
    assert tuple(sorted(found)) == WRITTEN
    planned = {str(file.path)[1:]: file for file in plan_setup(PAIR, "fw-1", PATHS, FILES)}
    assert found == {name: file.text for name, file in planned.items()}
    for name, file in planned.items():
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == file.mode


def test_a_second_run_has_nothing_to_do_and_needs_no_file_named(tmp_path: Path) -> None:
    install(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = setup(tmp_path, "--node", "fw-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "Nothing to do: every file of fw-1 is as the pair file wants it."
    assert setup(tmp_path, "--node", "fw-1", "--dry-run").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_dry_run_speaks_like_diff_and_writes_nothing(tmp_path: Path) -> None:
    done = setup(tmp_path, "--file", PAIR_FILE, "--node", "fw-1", "--dry-run")
    assert (done.returncode, done.stderr) == (1, "")
    assert "--- /dev/null\n+++ /etc/sysctl.d/60-hafw.conf\n" in done.stdout
    assert f"fw-1: {len(WRITTEN)} new.\n" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert setup(tmp_path, "--file", tmp_path / "none", "--dry-run").returncode == 2
    assert setup(tmp_path, "--file", PAIR_FILE, "--node", "fw-3", "--dry-run").returncode == 2


def test_the_diff_can_be_given_to_patch(tmp_path: Path) -> None:
    """With and without a line feed at the end, from nothing and to nothing."""
    texts = (None, b"a\nb\nc\n", b"a\nc", b"a\nb\nc\nx", b"x")
    for old in texts:
        for new in texts:
            if old == new:
                continue
            place = tmp_path / "file"
            place.unlink(missing_ok=True)
            if old is not None:
                place.write_bytes(old)
            change = FileChange(Path("/file"), place, old, new, 0o644)
            subprocess.run(
                ("git", "apply", "-p1", "--whitespace=nowarn"),
                input=git_form(diff_of(change)),
                cwd=tmp_path,
                check=True,
                text=True,
                timeout=LIMIT_S,
            )
            assert (place.read_bytes() if place.exists() else None) == new


def git_form(diff: str) -> str:
    lines = diff.split("\n")
    lines[:2] = [line.replace(" /file", " a/file") for line in lines[:2]]
    return "\n".join(lines)


def test_a_diff_does_not_move_the_cursor() -> None:
    change = FileChange(Path("/file"), Path("/file"), b"\x1b[2J\r\xff\xc2\x9b\n", None, 0)
    assert "-\\x1b[2J\\r\\xff\\x9b\n" in diff_of(change)


@pytest.mark.parametrize(
    ("answer", "status"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("\x04", 1)]
)
def test_it_asks_once_on_a_terminal(tmp_path: Path, answer: str, status: int) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        done = setup(tmp_path, "--file", PAIR_FILE, "--node", "fw-1", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == status, done.stderr
    assert done.stdout.count(f"Write these {len(WRITTEN)} files? [y/N] ") == 1
    assert bool(files_in(tmp_path)) == (status == 0)
    assert ("Nothing was written." in done.stdout) == (status == 1)


def test_without_a_terminal_it_says_what_to_add(tmp_path: Path) -> None:
    done = setup(tmp_path, "--file", PAIR_FILE, "--node", "fw-1")
    assert done.returncode == 1
    assert "--yes" in done.stderr
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize(
    "arguments", [("--json",), ("--restart", "--yes"), ("--replace", "hosts"), ("--root", "/nonexistent")]
)
def test_arguments_that_do_not_go_together(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = setup(tmp_path, "--file", PAIR_FILE, "--node", "fw-1", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert files_in(tmp_path) == {}


def test_json_is_one_document(tmp_path: Path) -> None:
    write(tmp_path, "etc/sysctl.d/60-hafw.conf", "old\n")
    values = json.loads(install(tmp_path, "fw-1", "--json").stdout)
    assert (values["schema"], values["node"], values["written"]) == (1, "fw-1", True)
    changes = {change["path"]: change for change in values["changes"]}
    assert changes["/etc/sysctl.d/60-hafw.conf"]["change"] == "change"
    assert changes["/etc/sysctl.d/60-hafw.conf"]["backup"].endswith("/60-hafw.conf.before-hafw")
    assert changes["/etc/hafw/hafw.yaml"]["backup"] is None
    assert ["systemctl", "restart", "keepalived.service"] in values["commands"]


@pytest.mark.parametrize("name", ["keepalived", "conntrackd"])
def test_a_hand_made_file_of_another_package_stays(tmp_path: Path, name: str) -> None:
    place = write(tmp_path, f"etc/{name}/{name}.conf", HAND_MADE)
    done = install(tmp_path)
    assert place.read_text() == HAND_MADE
    assert f"note: /etc/{name}/{name}.conf was made by hand and stays as it is" in done.stdout
    wanted = {"keepalived": 'notify "/usr/libexec/hafw/notify"', "conntrackd": "HashSize 65536"}
    assert wanted[name] in done.stdout
    assert f"--replace {name}.conf" in done.stdout
    # not said to be done, and not written behind anybody's back later on
    again = setup(tmp_path, "--node", "fw-1", "--yes")
    assert f"but for /etc/{name}/{name}.conf" in again.stdout
    assert place.read_text() == HAND_MADE
    install(tmp_path, "fw-1", "--replace", f"{name}.conf", "--both-together", "--drop-others")
    assert place.read_text().startswith("# hafw render ")
    assert place.with_name(f"{name}.conf.before-hafw").read_text() == HAND_MADE


def test_a_file_as_its_package_brought_it_is_replaced(tmp_path: Path) -> None:
    place = write(tmp_path, "etc/conntrackd/conntrackd.conf", "as packaged\n")
    checksum = md5(b"as packaged\n", usedforsecurity=False).hexdigest()
    status = f"Package: conntrackd\nConffiles:\n /etc/conntrackd/conntrackd.conf {checksum}\n"
    write(tmp_path, "var/lib/dpkg/status", status)
    install(tmp_path)
    assert place.read_text().startswith("# hafw render ")
    assert place.with_name("conntrackd.conf.before-hafw").read_text() == "as packaged\n"


def test_the_first_backup_is_never_written_again(tmp_path: Path) -> None:
    place = write(tmp_path, "etc/sysctl.d/60-hafw.conf", "first\n")
    place.chmod(0o600)
    for text in ("first\n", "second\n", "third\n", "third\n"):
        place.write_text(text)
        for change in changes_below(tmp_path):
            write_change(change, NOW)
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
    names = ("before-hafw", "before-hafw-20260102-030405", "before-hafw-20260102-030405.2")
    backups = {path.name: path for path in place.parent.glob("*before*")}
    assert [backups.pop(f"60-hafw.conf.{name}").read_text() for name in names] == [
        "first\n",
        "second\n",
        "third\n",
    ]
    assert not backups
    assert list(place.parent.glob(".*")) == []


def test_files_of_interfaces_that_have_gone_are_removed(tmp_path: Path) -> None:
    install(tmp_path)
    ours = write(tmp_path, "etc/systemd/network/60-hafw-eth9.network", "# hafw render networkd --node x\n")
    vlan = write(tmp_path, "etc/systemd/network/60-hafw-eth9.7.netdev", "# hafw render networkd --node x\n")
    theirs = write(tmp_path, "etc/systemd/network/60-hafw-wan.network", "[Match]\nName=wan\n")
    other = write(tmp_path, "etc/systemd/network/50-eth9.network", "# hafw render networkd --node x\n")
    done = install(tmp_path)
    assert "--- /etc/systemd/network/60-hafw-eth9.network\n+++ /dev/null\n" in done.stdout
    assert (ours.exists(), vlan.exists(), theirs.exists(), other.exists()) == (False, False, True, True)
    assert ours.with_name(f"{ours.name}.before-hafw").exists()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = write(tmp_path, "etc/kept-in-git/keepalived.conf", "")
    link = tmp_path / "etc/keepalived/keepalived.conf"
    link.parent.mkdir()
    link.symlink_to("../kept-in-git/keepalived.conf")
    install(tmp_path)
    assert link.is_symlink()
    assert real.read_text().startswith("# hafw render keepalived")


@pytest.mark.parametrize("make", ["outside", "fifo", "directory", "null"])
def test_what_is_no_file_below_root_is_refused(tmp_path: Path, make: str) -> None:
    root, outside = tmp_path / "root", write(tmp_path, "outside", "theirs\n")
    place = root / "etc/sysctl.d/60-hafw.conf"
    place.parent.mkdir(parents=True)
    makers: dict[str, Callable[[], None]] = {
        "outside": lambda: place.symlink_to(outside),
        "fifo": lambda: os.mkfifo(place),
        "directory": place.mkdir,
        "null": lambda: place.symlink_to("/dev/null"),
    }
    makers[make]()
    done = setup(root, "--file", PAIR_FILE, "--node", "fw-1", "--yes")
    assert done.returncode == 1
    assert "60-hafw.conf" in done.stderr
    assert outside.read_text() == "theirs\n"
    assert [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()] == []


def test_files_that_the_pair_file_names_come_along(tmp_path: Path) -> None:
    source = write(tmp_path, "mine/pair.yaml", PAIR_FILE.read_text() + "include: policy.d/more.yaml\n")
    write(tmp_path, "mine/policy.d/more.yaml", "policy:\n  - {from: server, to: client, allow: [ping]}\n")
    root = tmp_path / "root"
    root.mkdir()
    done = setup(root, "--file", source, "--node", "fw-1", "--yes")
    assert done.returncode == 0, done.stderr
    assert (root / "etc/hafw/hafw.yaml").read_text() == source.read_text()
    assert setup(root, "--node", "fw-1", "--dry-run").returncode == 0


@needs_root
@pytest.mark.parametrize("failing", ["none", "conntrackd"])
def test_restart_runs_the_commands_that_it_would_print(tmp_path: Path, failing: str) -> None:
    answer = f"case $* in *restart*{failing}*) echo broken >&2; exit 1;; esac"
    script = f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n{answer}\n'
    fake = write(tmp_path, "systemctl", script)
    fake.chmod(0o755)
    own = f"""mount -t tmpfs none /run && mkdir -p /run/systemd/system && mount -t tmpfs none /etc &&
        mount --bind {fake} /usr/bin/systemctl && exec "$@" """
    arguments = ("--file", PAIR_FILE, "--node", "fw-1", "--yes", "--restart")
    done = setup(
        Path("/"), *arguments, prefix=("unshare", "-m", "--propagation", "private", "sh", "-c", own, "sh")
    )
    asked = (tmp_path / "asked").read_text().splitlines()
    planned = (
        FileChange(file.path, file.path, None, b"", 0) for file in plan_setup(PAIR, "fw-1", PATHS, FILES)
    )
    wanted = [" ".join(argv[1:]) for argv in live_commands(tuple(planned), PATHS)]
    if failing == "none":
        assert (done.returncode, asked) == (0, wanted), done.stderr
    else:
        assert (done.returncode, asked) == (1, wanted[: len(asked)])
        assert asked[-1] == "restart conntrackd.service"
        assert "systemctl restart conntrackd.service failed: broken" in done.stderr


def test_commands_come_in_an_order_that_works() -> None:
    every = tuple(
        FileChange(file.path, file.path, None, b"", file.mode) for file in plan_setup(PAIR, "fw-1", PATHS)
    )
    commands = [" ".join(argv) for argv in live_commands(every, PATHS)]
    assert commands[0] == "systemctl daemon-reload"
    assert commands[1].startswith("systemctl enable ")
    assert [command.split()[-1].removesuffix(".service") for command in commands[2:]] == [
        "systemd-modules-load",
        "systemd-sysctl",
        "systemd-networkd",
        "conntrackd",
        "hafw-agent",
        "keepalived",
    ]
    assert live_commands((), PATHS) == ()
    only = tuple(change for change in every if change.path == PATHS.sysctl_file)
    assert not any("keepalived" in " ".join(argv) for argv in live_commands(only, PATHS))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("etc/systemd/network/10-lan.network", "[Match]\nName=en* eth[01]\n[Network]\nDHCP=yes\n", True),
        ("run/systemd/network/10-netplan-eth0.network", "[Match]\nName=eth0\n", True),
        ("usr/lib/systemd/network/80-eth0.network", "[Match]\nName=eth0\n", False),
        ("etc/systemd/network/10-lan.network", "[Match]\nName=wlan0\n", False),
        ("etc/systemd/network/10-lan.network", "[Match]\nType=wlan\n[Network]\nName=eth0\n", False),
        ("etc/network/interfaces", "auto eth0\niface eth0 inet dhcp\n", True),
        ("etc/network/interfaces.d/lan", "  iface eth0 inet dhcp\n", True),
        ("etc/network/interfaces", "iface lo inet loopback\n# iface eth0 inet dhcp\n", False),
    ],
)
def test_others_that_configure_the_same_interface_are_named(
    tmp_path: Path, name: str, text: str, said: bool
) -> None:
    write(tmp_path, name, text)
    notes = [note for note in rival_notes(PAIR, tmp_path) if "eth0" in note]
    assert bool(notes) == said
    assert all(note.startswith(f"/{name} ") for note in notes)


def test_a_plan_can_be_taken_apart() -> None:
    """The lab seeds its guests with it."""
    plan = plan_setup(PAIR, "fw-1", PATHS)
    assert all(PlannedFile(*one) in plan for one in plan)
    assert PATHS.pair_file not in {file.path for file in plan}
