# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnels over the sync links: what `hafw setup` writes and refuses, and what is said of the files that
are installed."""

import grp
import json
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters.openssl import make_pair_key
from agent.config import loader
from agent.errors import HafwError
from agent.model.pair import Pair
from agent.paths import Paths
from agent.render import conntrackd
from agent.rollout.apply import require_same_wires
from agent.setup.changes import FileChange
from agent.setup.installed import InstalledFiles
from agent.setup.notes import live_commands
from agent.setup.plan import plan_setup
from agent.setup.tunnel_keys import TunnelKeys
from tests.unit.agent.setup.setup_run import files_in, needs_root, setup, write
from tests.unit.agent.small_pair import SMALL

ENCRYPTED = SMALL + "sync: {encrypt: wireguard}\n"
PAIR = loader.parse(ENCRYPTED)
TUNNEL = "hafw-wg0"
PATHS = Paths()
KEY_FILE = "etc/hafw/hafw-wg0.key"
NETDEV = "etc/systemd/network/60-hafw-hafw-wg0.netdev"


@pytest.fixture(scope="module")
def key() -> str:
    return make_pair_key()


def node_with(root: Path, key: str, text: str = ENCRYPTED) -> Path:
    write(root, "etc/hafw/pair.pem", key)
    return write(root, "new.yaml", text)


def run(root: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return setup(root, "--node", "fw-1", *arguments)


def test_setup_writes_the_tunnel_and_shows_no_secret(tmp_path: Path, key: str) -> None:
    file = node_with(tmp_path, key)
    shown = [run(tmp_path, "--file", file, "--dry-run"), run(tmp_path, "--file", file, "--yes")]
    assert shown[1].returncode == 0, shown[1].stderr
    found = files_in(tmp_path)
    keys = TunnelKeys(PAIR, key)
    assert found[KEY_FILE] == keys.private("fw-1", TUNNEL) + "\n"
    assert f"PublicKey={keys.public('fw-2', TUNNEL)}\n" in found[NETDEV]
    assert f"PrivateKeyFile=/{KEY_FILE}\n" in found[NETDEV]
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o640
    for done in shown:
        assert found[KEY_FILE].strip() not in done.stdout + done.stderr
        assert f"/{KEY_FILE}: a private key, which is not shown\n" in done.stdout
    again = run(tmp_path, "--file", file)
    assert again.stdout.startswith("Nothing to do"), again.stdout


def test_a_renewed_key_of_the_pair_makes_other_keys_and_keeps_none(tmp_path: Path, key: str) -> None:
    file = node_with(tmp_path, key)
    assert run(tmp_path, "--file", file, "--yes").returncode == 0
    old = files_in(tmp_path)
    (tmp_path / "etc/hafw/pair.pem").write_text(make_pair_key())
    assert "tunnel hafw-wg0: key of the other node: " in refused_alone(tmp_path, file)
    done = run(tmp_path, "--file", file, "--yes", "--json", "--both-together")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [one["path"] for one in said["changes"]] == [f"/{KEY_FILE}", f"/{NETDEV}"]
    assert ["systemctl", "restart", "systemd-networkd.service"] in said["commands"]
    new = files_in(tmp_path)
    assert old[KEY_FILE] != new[KEY_FILE]
    assert not any(old[KEY_FILE] in text for text in new.values())
    assert old[KEY_FILE].strip() not in done.stdout
    assert new[KEY_FILE].strip() not in done.stdout


def test_without_encrypt_again_nothing_of_it_is_left(tmp_path: Path, key: str) -> None:
    file = node_with(tmp_path, key)
    assert run(tmp_path, "--file", file, "--yes").returncode == 0
    file.write_text(SMALL)
    done = run(tmp_path, "--file", file, "--yes", "--both-together", "--json")
    assert done.returncode == 0, done.stderr
    assert not [name for name in files_in(tmp_path) if TUNNEL in name and not name.endswith(".before-hafw")]
    assert KEY_FILE + ".before-hafw" not in files_in(tmp_path)
    said = json.loads(done.stdout)["commands"]
    gone = said.index(["ip", "link", "delete", "dev", TUNNEL])
    assert gone < said.index(["systemctl", "restart", "conntrackd.service"])


def test_an_image_gets_no_keys_and_setup_says_so(tmp_path: Path) -> None:
    file = write(tmp_path, "new.yaml", ENCRYPTED)
    done = run(tmp_path, "--file", file, "--yes")
    assert done.returncode == 0, done.stderr
    assert "their files stay as they are: run hafw setup again, on the node itself" in done.stdout
    assert not {KEY_FILE, NETDEV} & files_in(tmp_path).keys()
    assert "hafw-wg0" in files_in(tmp_path)["etc/conntrackd/conntrackd.conf"]


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_setup_gives_a_key_its_rights_again(tmp_path: Path, key: str, mode: int) -> None:
    """Nobody else reads it, and systemd-networkd does."""
    file = node_with(tmp_path, key)
    assert run(tmp_path, "--file", file, "--yes").returncode == 0
    (tmp_path / KEY_FILE).chmod(mode)
    done = run(tmp_path, "--file", file, "--yes", "--json")
    said = json.loads(done.stdout)
    assert [one["diff"] for one in said["changes"]] == [
        f"/{KEY_FILE}: a private key, which is not shown, and has other rights than root and"
        " systemd-networkd need\n"
    ]
    assert ["systemctl", "restart", "systemd-networkd.service"] in said["commands"]
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o640
    assert not (tmp_path / f"{KEY_FILE}.before-hafw").exists()
    assert run(tmp_path, "--file", file).stdout.startswith("Nothing to do")


def test_where_only_the_key_is_missing_the_tunnels_stay(tmp_path: Path, key: str) -> None:
    file = node_with(tmp_path, key)
    assert run(tmp_path, "--file", file, "--yes").returncode == 0
    before = files_in(tmp_path)
    (tmp_path / "etc/hafw/pair.pem").unlink()
    done = run(tmp_path, "--file", file, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["changes"], said["commands"]) == ([], [])
    assert any("so that their files stay as they are" in note for note in said["notes"])
    assert files_in(tmp_path) == {name: text for name, text in before.items() if name != "etc/hafw/pair.pem"}


def test_one_node_alone_is_not_changed_to_tunnels_by_accident(tmp_path: Path, key: str) -> None:
    """The other one would send past them."""
    file = node_with(tmp_path, key, SMALL)
    assert run(tmp_path, "--file", file, "--yes").returncode == 0
    before = files_in(tmp_path)
    file.write_text(ENCRYPTED)
    done = run(tmp_path, "--file", file, "--yes")
    assert done.returncode == 1
    assert "no state goes between a node with the new conntrackd.conf and one with the old" in done.stderr
    assert files_in(tmp_path) == {**before, "new.yaml": ENCRYPTED}


def refused_alone(root: Path, file: Path) -> str:
    """What is said of a change that one node alone must not have."""
    before = files_in(root)
    done = run(root, "--file", file, "--yes")
    assert done.returncode == 1
    assert done.stderr.startswith("hafw: no state goes between a node with the new sync links and one with")
    assert "--both-together" in done.stderr
    assert files_in(root) == before
    return done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "{encrypt: wireguard}",
            "{encrypt: wireguard, wireguard_port: 51900}",
            "tunnel hafw-wg0: UDP port: 51820 in the existing file, 51900 in the new one",
        ),
        (
            "fw-2: 192.168.1.2/24",
            "fw-2: 192.168.1.7/24",
            "tunnel hafw-wg0: other node at: 192.168.1.2:51820 in the existing file, 192.168.1.7:51820 in",
        ),
        (
            "fw-1: 192.168.1.1/24",
            "fw-1: 192.168.1.7/24",
            "eth2: 192.168.1.1 is in the existing file only, and the other node sends to it",
        ),
    ],
)
def test_other_ends_of_a_tunnel_are_a_hazard(
    tmp_path: Path, key: str, old: str, new: str, said: str
) -> None:
    """conntrackd.conf has the inside of the tunnel alone to replicate over, before and after."""
    file = node_with(tmp_path, key)
    assert run(tmp_path, "--file", file, "--yes").returncode == 0
    file.write_text(ENCRYPTED.replace(old, new))
    assert said in refused_alone(tmp_path, file)
    shown = run(tmp_path, "--file", file, "--dry-run")
    assert f"note: {HEARD_NO_MORE}" in shown.stdout
    done = run(tmp_path, "--file", file, "--yes", "--both-together")
    assert done.returncode == 0, done.stderr


HEARD_NO_MORE = "conntrackd on the other node would not be heard over the sync links any more:"


def test_another_length_of_the_network_is_none(tmp_path: Path, key: str) -> None:
    file = node_with(tmp_path, key)
    assert run(tmp_path, "--file", file, "--yes").returncode == 0
    file.write_text(ENCRYPTED.replace("192.168.1.1/24", "192.168.1.1/25").replace("1.2/24", "1.2/25"))
    done = run(tmp_path, "--file", file, "--yes")
    assert done.returncode == 0, done.stderr


def test_tunnels_below_a_conntrackd_conf_of_ones_own_are_a_hazard(tmp_path: Path, key: str) -> None:
    """It stays as it is and replicates over the wire, past which the rules then let nothing."""
    plain, encrypted = (conntrackd.render(pair, "fw-1", PATHS) for pair in (loader.parse(SMALL), PAIR))
    by_hand = "etc/conntrackd/conntrackd.conf"
    write(tmp_path, by_hand, plain.replace("# hafw", "# by hand\n# hafw", 1))
    file = node_with(tmp_path, key, SMALL)
    assert run(tmp_path, "--file", file, "--yes").returncode == 0
    file.write_text(ENCRYPTED)
    assert "tunnel hafw-wg0 is new, and the rules let nothing past it" in refused_alone(tmp_path, file)
    write(tmp_path, by_hand, encrypted.replace("# hafw", "# by hand\n# hafw", 1))
    assert run(tmp_path, "--file", file, "--yes").returncode == 0, "it is prepared for the tunnel"
    file.write_text(SMALL)
    assert "tunnel hafw-wg0 goes, and conntrackd.conf has UDP" in refused_alone(tmp_path, file)


def test_only_the_file_with_the_tunnels_makes_commands_for_them() -> None:
    gone = FileChange(PATHS.network_dir / "60-hafw-eth9.7.netdev", Path("x"), b"", None, 0)
    assert not any("delete" in argv for argv in live_commands((gone,), PATHS))


def setup_here(
    tmp_path: Path,
    unshare: str,
    *arguments: str | Path,
    node: str = "fw-1",
    there: Mapping[str, str] | None = None,
) -> tuple["subprocess.CompletedProcess[str]", dict[str, str]]:
    """On this machine, with nothing but `there` in /etc, and with another unshare(1), which makes the trial.
    Gives what is in /etc afterwards."""
    fake = write(tmp_path, "unshare", f"#!/bin/sh\n{unshare}\n")
    fake.chmod(0o755)
    file = write(tmp_path, "new.yaml", ENCRYPTED)
    left = tmp_path / "left"
    left.mkdir()
    before = tmp_path / "before"
    before.mkdir()
    for name, text in (there or {}).items():
        write(before, name, text)
    own = f"""cp /etc/group /etc/passwd {tmp_path} && mount -t tmpfs none /etc && cp {tmp_path}/group /etc &&
        cp {tmp_path}/passwd /etc && cp -a {before}/. /etc && mount --bind {fake} /usr/bin/unshare || exit 9
        "$@"; status=$?; cp -a /etc/. {left}; exit $status"""
    apart = ("unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", own, "sh")
    done = setup(Path("/"), "--file", file, "--node", node, *arguments, prefix=apart)
    return done, files_in(left)


@needs_root
def test_a_new_pair_gets_its_key_and_those_of_the_tunnels(tmp_path: Path) -> None:
    done, found = setup_here(tmp_path, "exit 0", "--yes")
    assert done.returncode == 0, done.stderr
    keys = TunnelKeys(PAIR, found["hafw/pair.pem"])
    assert found["hafw/hafw-wg0.key"].strip() == keys.private("fw-1", TUNNEL)
    assert f"PublicKey={keys.public('fw-2', TUNNEL)}\n" in found["systemd/network/60-hafw-hafw-wg0.netdev"]
    there = (tmp_path / "left" / "hafw" / "hafw-wg0.key").stat()
    assert (stat.S_IMODE(there.st_mode), grp.getgrgid(there.st_gid).gr_name) == (0o640, "systemd-network")


@needs_root
def test_the_other_node_is_not_set_up_by_half_without_that_key(tmp_path: Path) -> None:
    """conntrackd would be on tunnels that are not there."""
    done, found = setup_here(tmp_path, "exit 0", "--yes", node="fw-2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "hafw: the tunnels over the sync links are made of the key of the pair, and /etc/hafw/pair.pem"
        " is not on this node; nothing was written; `hafw setup` on fw-1 makes it, then type here:"
        " ssh root@fw-1 cat /etc/hafw/pair.pem | hafw pair join -; then run hafw setup again here\n"
    )
    assert found.keys() == {"group", "passwd"}


@needs_root
def test_it_may_look_at_what_it_would_be(tmp_path: Path) -> None:
    done, found = setup_here(tmp_path, "exit 0", "--dry-run", node="fw-2")
    assert (done.returncode, done.stderr) == (1, "")
    assert "cat /etc/hafw/pair.pem | hafw pair join -" in " ".join(done.stdout.split())
    assert found.keys() == {"group", "passwd"}


INSTALLED = "systemd/network/60-hafw-hafw-wg0.netdev"


@needs_root
@pytest.mark.parametrize(("node", "peer"), [("fw-1", "fw-2"), ("fw-2", "fw-1")])
def test_tunnels_at_work_stay_when_the_key_of_the_pair_is_lost(
    tmp_path: Path, key: str, node: str, peer: str
) -> None:
    """Nor is another key made, which the other node has not."""
    keys = TunnelKeys(PAIR, key)
    plan = plan_setup(PAIR, node, PATHS, [("hafw.yaml", ENCRYPTED)], key)
    before = {str(one.path.relative_to("/etc")): one.text for one in plan}
    done, found = setup_here(tmp_path, "exit 0", "--yes", node=node, there=before)
    assert done.returncode == 1
    assert f"type here: ssh root@{peer} cat /etc/hafw/pair.pem | hafw pair join -" in done.stderr
    assert {name: found[name] for name in before} == before
    assert keys.public(peer, TUNNEL) in found[INSTALLED]
    assert "hafw/pair.pem" not in found


@needs_root
def test_where_the_kernel_has_no_tunnels_nothing_is_written(tmp_path: Path) -> None:
    done, found = setup_here(tmp_path, "echo 'Error: Unknown device type.' >&2; exit 2", "--yes")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("hafw: this kernel has no WireGuard (CONFIG_WIREGUARD), and sync.encrypt")
    assert found.keys() == {"group", "passwd"}


# -- what is installed --


def test_files_of_another_key_are_outdated(tmp_path: Path, key: str) -> None:
    pair_file = tmp_path / "pair.pem"
    paths = replace(PATHS, pair_key=pair_file, network_dir=tmp_path)
    pair_file.write_text(key)
    for file in plan_setup(PAIR, "fw-1", paths, pair_key=key):
        if file.path.parent == tmp_path:
            file.path.write_text(file.text)
            file.path.chmod(file.mode)
    installed = InstalledFiles("fw-1", paths)
    assert find_outdated_here(installed, PAIR, tmp_path) == []
    pair_file.write_text(make_pair_key())
    (said,) = find_outdated_here(installed, PAIR, tmp_path)
    assert "60-hafw-hafw-wg0.netdev was rendered from another pair file" in said
    assert "PublicKey" in said
    pair_file.unlink()
    assert find_outdated_here(installed, PAIR, tmp_path) == [], "what is not known is not told"


def test_a_key_that_others_may_read_is_named(tmp_path: Path, key: str) -> None:
    paths = replace(PATHS, pair_key=tmp_path / "pair.pem", network_dir=tmp_path)
    installed = InstalledFiles("fw-1", paths)
    there = tmp_path / "hafw-wg0.key"
    there.write_text(TunnelKeys(PAIR, key).private("fw-1", TUNNEL))
    for mode in (0o600, 0o640):
        there.chmod(mode)
        assert find_outdated_here(installed, PAIR, tmp_path) == []
    for mode in (0o644, 0o660, 0o604):
        there.chmod(mode)
        said = (
            f"{there}, the private key of a tunnel, has mode {mode:04o}, so that others than its owners may"
        )
        assert find_outdated_here(installed, PAIR, tmp_path) == [f"{said} use it"]
        assert (f"{said} use it", "hafw setup") in list(installed.find_unfit(PAIR))


def find_outdated_here(installed: InstalledFiles, pair: Pair, here: Path) -> list[str]:
    """The rest of the files is that of the machine that runs the test."""
    return [one for one in installed.find_outdated(pair) if str(here) in one]


def test_other_tunnels_are_not_put_in_force_while_networkd_has_the_old_ones() -> None:
    """Their port is in no other file, and the rules would close it."""
    other = loader.parse(SMALL + "sync: {encrypt: wireguard, wireguard_port: 51000}\n")
    with pytest.raises(HafwError, match="needs other tunnels than those in force") as refused:
        require_same_wires(PAIR, other, PATHS)
    assert "hafw setup" in str(refused.value.hint)
    with pytest.raises(HafwError, match=r"another conntrackd\.conf"):
        require_same_wires(PAIR, loader.parse(SMALL), PATHS)
    require_same_wires(PAIR, loader.parse(ENCRYPTED), PATHS)
