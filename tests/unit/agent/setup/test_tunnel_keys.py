# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnels over the sync links: their keys, made of the key of the pair, the rendered files, whether the
kernel has WireGuard, and what the pair file may not have beside them."""

import base64
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters import wireguard
from agent.adapters.openssl import make_pair_key
from agent.cli.kernel_check import judge_wireguard
from agent.config import loader
from agent.engine.peer import find_paths
from agent.errors import HafwError, ToolError
from agent.paths import Paths
from agent.render import conntrackd, networkd
from agent.setup.plan import plan_setup
from agent.setup.tunnel_keys import TunnelKeys, x25519
from tests.checkout import GOLDEN
from tests.unit.agent.setup.setup_run import write
from tests.unit.agent.small_pair import SMALL, changed, problems_of

ENCRYPTED = SMALL + "sync: {encrypt: wireguard}\n"
PAIR = loader.parse(ENCRYPTED)
TWO = loader.load(GOLDEN / "render" / "encrypted" / "hafw.yaml")
TUNNEL = "hafw-wg0"
PATHS = Paths()
X25519_DER = bytes.fromhex("302e020100300506032b656e04220420")


@pytest.fixture(scope="module")
def key() -> str:
    return make_pair_key()


def test_x25519_is_that_of_rfc_7748() -> None:
    """Section 5.2, and a whole exchange."""
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    u = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    wanted = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert x25519(scalar, int.from_bytes(u, "little")).hex() == wanted
    one, other = bytes(range(32)), bytes(range(100, 132))
    ends = ((one, other), (other, one))
    shared = {x25519(mine, int.from_bytes(x25519(theirs, 9), "little")) for mine, theirs in ends}
    assert len(shared) == 1


def test_a_public_key_is_the_one_that_openssl_makes(key: str) -> None:
    keys = TunnelKeys(PAIR, key)
    private = base64.b64decode(keys.private("fw-1", TUNNEL))
    assert private == bytes((private[0] & 248, *private[1:31], private[31] & 127 | 64))
    argv = ("openssl", "pkey", "-inform", "DER", "-pubout", "-outform", "DER")
    made = subprocess.run(argv, input=X25519_DER + private, capture_output=True, check=True).stdout
    assert base64.b64decode(keys.public("fw-1", TUNNEL)) == made[-32:]


def test_each_node_each_tunnel_each_pair_and_each_key_has_others(key: str) -> None:
    sources = (
        (PAIR, key),
        (replace(PAIR, name="G2"), key),
        (PAIR, make_pair_key()),
    )
    made = [
        TunnelKeys(pair, text).private(node, tunnel)
        for pair, text in sources
        for node in ("fw-1", "fw-2")
        for tunnel in ("hafw-wg0", "hafw-wg1")
    ]
    assert len(set(made)) == len(made) == 12


def test_a_key_that_was_carried_with_other_ends_of_lines_makes_the_same(key: str) -> None:
    carried = TunnelKeys(PAIR, key.replace("\n", "\r\n"))
    assert carried.private("fw-1", TUNNEL) == TunnelKeys(PAIR, key).private("fw-1", TUNNEL)


@pytest.mark.parametrize(
    "text", ["", "hello", "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_makes_none(text: str) -> None:
    with pytest.raises(HafwError, match="no private key"):
        TunnelKeys(PAIR, text)


def test_the_nodes_know_each_other_by_what_each_has_made(key: str) -> None:
    """The addresses, ports and keys that one node sends to are those that the other one has."""
    for mine, theirs in (("fw-1", "fw-2"), ("fw-2", "fw-1")):
        here, there = (
            {file.path.name: file.text for file in plan_setup(TWO, node, PATHS, pair_key=key)}
            for node in (mine, theirs)
        )
        for number, tunnel in enumerate(TWO.tunnels):
            own = there[f"{tunnel.inside.name}.key"].strip()
            lines = here[f"60-hafw-{tunnel.inside.name}.netdev"].splitlines()
            public = base64.b64encode(x25519(base64.b64decode(own), 9)).decode()
            assert f"PublicKey={public}" in lines
            assert f"ListenPort={51900 + number}" in there[f"60-hafw-{tunnel.inside.name}.netdev"]
            _, far = conntrackd.sync_addresses(TWO, tunnel.wire, mine)
            host = f"[{far.ip}]" if far.version == 6 else str(far.ip)
            assert f"Endpoint={host}:{51900 + number}" in lines
            (inside,) = tunnel.inside.own(theirs)
            assert f"AllowedIPs={inside.ip}/128" in lines
            assert f"Address={inside}" in there[f"60-hafw-{tunnel.inside.name}.network"]


def test_conntrackd_and_nothing_of_the_wires_is_in_the_tunnel() -> None:
    text = conntrackd.render(TWO, "fw-1", PATHS)
    assert [line.split()[1] for line in text.splitlines() if line.startswith("        Interface ")] == [
        "hafw-wg0",
        "hafw-wg1",
    ]
    assert "Destination_Address 192.168.1.2" not in text


def test_a_tunnel_beside_another_one_is_down_while_its_wire_has_no_carrier() -> None:
    """conntrackd leaves a link without one; a tunnel alone has to have its address also then."""
    two, alone = dict(networkd.files(TWO, "fw-1")), dict(networkd.files(PAIR, "fw-1"))
    for tunnel in TWO.tunnels:
        text = two[f"60-hafw-{tunnel.inside.name}.network"]
        assert f"\nBindCarrier={tunnel.wire.name}\n" in text
        assert "\nRequiredForOnline=off\n" in text
    assert "BindCarrier" not in alone["60-hafw-hafw-wg0.network"]


def test_the_agents_talk_by_the_tunnels_and_not_past_them() -> None:
    paths = find_paths(TWO, "fw-1")
    assert [path.interface for path in paths] == ["hafw-wg0", "hafw-wg1", "eth0", "eth1"]
    ends = (TWO.tunnels[0].inside.own(name)[0].ip for name in ("fw-1", "fw-2"))
    assert (paths[0].own, paths[0].peer) == tuple(map(str, ends))


# -- the kernel --


@pytest.mark.parametrize(
    ("status", "words", "there"),
    [
        (0, "", True),
        (2, "Error: Unknown device type.", False),
        (2, "RTNETLINK answers: Operation not supported", False),
    ],
)
def test_the_kernel_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, words: str, there: bool
) -> None:
    fake = write(tmp_path, "unshare", f"#!/bin/sh\necho '{words}' >&2\nexit {status}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(wireguard, "_APART", (str(fake),))
    assert wireguard.has_wireguard() is there


def test_what_cannot_be_tried_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = write(
        tmp_path, "unshare", "#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(wireguard, "_APART", (str(fake),))
    with pytest.raises(ToolError, match="not permitted"):
        wireguard.has_wireguard()


def test_a_kernel_without_it_is_bad_for_those_who_want_it() -> None:
    assert judge_wireguard(True, wanted=True).good
    assert "CONFIG_WIREGUARD" in judge_wireguard(False, wanted=True).text
    assert not judge_wireguard(False, wanted=False).wanted


# -- the pair file --


def test_a_tunnel_shares_neither_name_nor_addresses() -> None:
    inside = PAIR.tunnels[0].inside
    vip = f"{inside.own('fw-1')[0].ip + 99}/64"
    own = ", ".join(f"{name}: '{own[0].ip + 8}/64'" for name, own in inside.addresses)
    eth1 = "addresses: {fw-1: 192.168.2.1/24, fw-2: 192.168.2.2/24}}"
    with_both = changed(
        eth1,
        eth1 + f"\n  eth3: {{zone: lab, vip: '{vip}', vrid: 7, addresses: {{{own}}}}}",
    )
    (found,) = problems_of(with_both + "sync: {encrypt: wireguard}\n")
    assert found.path == "interfaces.eth3"
    assert "has the addresses of the tunnel over eth2" in found.message
    (found,) = problems_of(ENCRYPTED.replace("eth1:", "hafw-wg0:"))
    assert found.path == "interfaces.hafw-wg0"
    assert loader.parse(with_both)
