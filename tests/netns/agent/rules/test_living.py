# SPDX-License-Identifier: GPL-2.0-or-later
"""A policy changes while connections flow: what keeps its counts, what the kernel says of a packet, and
which connections end."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from agent.adapters import connections, iproute
from agent.adapters.nftables import Nftables
from agent.adapters.process import ENVIRONMENT
from agent.config import loader
from agent.core.roles import RuleSet
from agent.model.pair import Pair
from agent.rules.compile import compile_pair
from agent.rules.connections import find_forbidden
from agent.rules.delta import model_of
from tests.checkout import ROOT
from tests.netns.firewall import PAIR_FILE, Firewall, start_firewall
from tests.netns.packets import accept, connect, echo, listen, receive, udp

pytestmark = pytest.mark.netns

SERVER = "192.168.0.10"
SERVER_6 = "fd00:0:0:a::10"
CLIENT = "192.168.2.10"
CLIENT_6 = "fd00:0:0:c::10"
ALLOWED = "allow: [https, ftp, icmp, {udp: 5353}, {tcp: 8000-8010}]"


@pytest.fixture
def firewall() -> Iterator[Firewall]:
    with start_firewall() as started:
        started.rules.load(RuleSet.PRIMARY)
        yield started


def pair_with(allow: str) -> Pair:
    assert ALLOWED in PAIR_FILE
    return loader.parse(PAIR_FILE.replace(ALLOWED, f"allow: {allow}"))


def counts(firewall: Firewall) -> dict[str, int]:
    """Packets by the comments of the rules."""
    listed = json.loads(firewall.nft("-j list table inet hafw"))["nftables"]
    rules = [entry["rule"] for entry in listed if "rule" in entry]
    return {
        rule["comment"]: expression["counter"]["packets"]
        for rule in rules
        for expression in rule["expr"]
        if "comment" in rule and isinstance(expression.get("counter"), dict)
    }


def test_counts_live_through_a_change(firewall: Firewall) -> None:
    assert echo(firewall.client, SERVER)
    assert echo(firewall.client, SERVER_6)
    assert connect(firewall.client, SERVER, 9) is None
    assert connect(firewall.client, "192.168.2.1", 9) is None
    before, dropped = counts(firewall), firewall.count("input")
    assert dropped > 0
    assert before["client to server: icmp"] > 0
    assert before["client to server: nothing else"] > 0
    # another rule before the ones that have counted, and one less behind them
    other = "[smtp, https, ftp, icmp, {tcp: 8000-8010}]"
    rules = firewall.rules.succeed(compile_pair(pair_with(other)))
    loaded = rules.load(RuleSet.PRIMARY)
    assert rules.verify(RuleSet.PRIMARY).drift is None
    after = counts(firewall)
    assert after == {
        **{name: count for name, count in before.items() if name != "client to server: udp 5353"},
        "client to server: smtp": 0,
    }
    assert firewall.count("input") == dropped
    # nothing differs from a table that is made as a whole, but the counts
    whole = replace(rules.read(), counters=())
    with firewall.node.entered():
        assert (
            Nftables(compile_pair(pair_with("[smtp, https, ftp, icmp, {tcp: 8000-8010}]"))).load(
                RuleSet.PRIMARY
            )
            == loaded
        )
    assert replace(rules.read(), counters=()) == whole
    assert counts(firewall)["client to server: icmp"] == 0


def test_dynamic_elements_live_through_a_change(firewall: Firewall) -> None:
    def limited(allow: str) -> Pair:
        line = "allow: [{tcp: 8000-8010}], name: few, connections: 2 per source}\n"
        return loader.parse(
            PAIR_FILE.replace(f"{ALLOWED}}}\n", f"{line}  - {{from: client, to: server, {allow}}}\n")
        )

    rules = firewall.rules.succeed(compile_pair(limited("allow: [https]")))
    rules.load(RuleSet.PRIMARY)
    with listen(firewall.server, SERVER, 8001):
        first = connect(firewall.client, SERVER, 8001)
        second = connect(firewall.client, SERVER, 8001)
        assert first is not None
        assert second is not None
        listed = firewall.nft("list set inet hafw connections/few/4")
        assert CLIENT in listed
        assert rules.verify(RuleSet.PRIMARY).drift is None, (
            "elements that the packets bring are nobody's change"
        )
        after = rules.succeed(compile_pair(limited("allow: [https, smtp]")))
        after.load(RuleSet.PRIMARY)
        assert after.verify(RuleSet.PRIMARY).drift is None
        assert CLIENT in firewall.nft("list set inet hafw connections/few/4")
        assert connect(firewall.client, SERVER, 8001) is None, "the third one of a source"
        first.close()
        second.close()


def test_a_change_also_changes_the_role(firewall: Firewall) -> None:
    rules = firewall.rules.succeed(compile_pair(pair_with("[https]")))
    rules.load(RuleSet.BACKUP)
    assert rules.verify(RuleSet.BACKUP).drift is None
    assert connect(firewall.client, SERVER, 443) is None
    # back to the first policy by way of one that was never loaded
    again = rules.succeed(compile_pair(pair_with("[smtp]"))).succeed(compile_pair(firewall.pair))
    again.load(RuleSet.PRIMARY)
    assert again.verify(RuleSet.PRIMARY).drift is None


def test_an_external_change_goes_with_a_change_of_the_policy(firewall: Firewall) -> None:
    firewall.node.run("nft", "insert rule inet hafw forward accept")
    assert "chain forward has more: everything: accept" in str(firewall.rules.verify(RuleSet.PRIMARY).drift)
    rules = firewall.rules.succeed(compile_pair(pair_with("[smtp]")))
    rules.load(RuleSet.PRIMARY)
    assert rules.verify(RuleSet.PRIMARY).drift is None
    assert connect(firewall.client, SERVER, 443) is None


@pytest.mark.parametrize(
    ("command", "keeps"),
    [
        ("insert rule inet hafw forward accept", True),
        ("flush chain inet hafw-gate closed", True),
        ("add chain inet hafw-gate role { type filter hook forward priority -1; policy drop; }", True),
        ("add chain inet hafw-gate gate", False),
        ("delete table inet hafw-gate", True),
        ("delete element inet hafw data { eth1 }", True),
        ("add element inet hafw data { eth9 }", True),
        ("add chain inet hafw mine", False),
        ("add chain inet hafw input { policy accept; }", True),
        ("flush chain inet hafw from/eth1/to/eth0", False),
        ("delete table inet hafw", False),
    ],
)
def test_a_repair_touches_only_what_was_edited(firewall: Firewall, command: str, *, keeps: bool) -> None:
    """`keeps`: a rule that nobody has edited keeps counting."""
    assert echo(firewall.client, SERVER_6)
    firewall.node.run("nft", command)
    assert firewall.rules.verify(RuleSet.PRIMARY).drift is not None
    firewall.rules.load(RuleSet.PRIMARY)
    assert firewall.rules.verify(RuleSet.PRIMARY).drift is None
    assert counts(firewall)["client to server: icmp"] == (1 if keeps else 0)
    assert echo(firewall.client, SERVER_6)
    assert connect(firewall.client, SERVER, 9) is None


def test_what_comes_in_between_look_and_change_does_not_stay(
    firewall: Firewall, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = firewall.rules.succeed(compile_pair(pair_with("[smtp]")))
    run = rules._run

    def meddle_and_run(text: str, purpose: str) -> None:
        if purpose == "change the rules":
            firewall.node.run("nft", "add rule inet hafw input accept")
        run(text, purpose)

    monkeypatch.setattr(rules, "_run", meddle_and_run)
    rules.load(RuleSet.PRIMARY)
    assert rules.verify(RuleSet.PRIMARY).drift is None
    last = firewall.nft("list chain inet hafw input").strip().splitlines()[-3].strip()
    assert last == 'counter name "input" drop'


# -- show and trace --


def rules_command(firewall: Firewall, *arguments: str) -> Any:
    with firewall.node.entered():
        done = subprocess.run(
            [sys.executable, "-P", "-m", "agent", "rules", *arguments, "--json"],
            env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def trace(firewall: Firewall, saddr: str, daddr: str, *more: str, ingress: str = "eth1") -> Any:
    return rules_command(firewall, "trace", "--from", ingress, "--saddr", saddr, "--daddr", daddr, *more)


@pytest.mark.parametrize(
    ("saddr", "daddr", "more", "verdict", "rule"),
    [
        (CLIENT, SERVER, ("--dport", "443"), "accept", "client to server: https"),
        (CLIENT_6, SERVER_6, ("--dport", "443"), "accept", "client to server: https"),
        (CLIENT, SERVER, ("--dport", "23"), "drop", "client to server: nothing else"),
        (CLIENT, SERVER, ("--proto", "udp", "--dport", "5353"), "accept", "client to server: udp 5353"),
        (CLIENT_6, SERVER_6, ("--proto", "icmp"), "accept", "client to server: icmp"),
        (CLIENT, "192.168.2.1", ("--dport", "22"), "accept", "management: ssh"),
        (CLIENT, "192.0.2.1", ("--dport", "443"), None, "has no route"),
        ("192.168.0.77", SERVER, ("--dport", "443"), "drop", "spoofed source"),
        ("fd00:0:0:a::77", SERVER_6, ("--dport", "443"), "drop", "spoofed source"),
    ],
)
def test_the_kernel_says_which_rule_decides(
    firewall: Firewall, saddr: str, daddr: str, more: tuple[str, ...], verdict: str | None, rule: str
) -> None:
    before = firewall.nft("list table inet hafw")
    traced = trace(firewall, saddr, daddr, *more)
    assert traced["verdict"] == verdict, traced
    assert rule in traced["reason"]
    assert traced["not_copied"] == []
    # the node itself has seen nothing of it
    assert firewall.nft("list table inet hafw") == before
    assert "hafw-peer" not in firewall.node.run("ip", "link")


def test_a_table_of_another_program_is_asked_too(firewall: Firewall) -> None:
    chain = "chain c {\n type filter hook forward priority 10\n ip daddr 192.168.0.10 drop\n }"
    theirs = f"table ip theirs {{\n {chain}\n}}\n"
    firewall.node.run("nft", theirs)
    traced = trace(firewall, CLIENT, SERVER, "--dport", "443")
    assert traced["verdict"] == "drop"
    assert "table ip theirs (not ours)" in traced["reason"]


@pytest.mark.parametrize("name", ["a b", "hafw; flush ruleset", "handle", "1a", "\u00e4"])
def test_a_table_whose_name_is_none_to_nft_is_left_out_and_is_no_command(
    firewall: Firewall, name: str
) -> None:
    made = {"nftables": [{"add": {"table": {"family": "inet", "name": name}}}]}
    firewall.node.run("nft", "--json", json.dumps(made))
    before = firewall.nft("list tables")
    assert f"table inet {name}\n" in before
    traced = trace(firewall, CLIENT, SERVER, "--dport", "443")
    assert (traced["verdict"], traced["not_copied"]) == ("accept", [f"inet {name}"])
    assert firewall.nft("list tables") == before


def test_a_comment_cannot_leave_its_quotes_in_the_copy(firewall: Firewall) -> None:
    place = {"family": "inet", "table": "theirs"}
    theirs = [
        {"add": {"table": {"family": "inet", "name": "theirs"}}},
        {
            "add": {
                "chain": {
                    **place,
                    "name": "c",
                    "type": "filter",
                    "hook": "forward",
                    "prio": 9,
                    "policy": "accept",
                }
            }
        },
        # as nft lists it, there is one more rule
        {
            "add": {
                "rule": {
                    **place,
                    "chain": "c",
                    "comment": 'a"; drop comment "b',
                    "expr": [{"counter": None}],
                }
            }
        },
    ]
    firewall.node.run("nft", "--json", json.dumps({"nftables": theirs}))
    traced = trace(firewall, CLIENT, SERVER, "--dport", "443")
    assert (traced["verdict"], traced["not_copied"]) == ("accept", ["inet theirs"])


def test_a_closed_gate_decides_before_all_rules(firewall: Firewall) -> None:
    firewall.rules.flip(RuleSet.BACKUP)
    traced = trace(firewall, CLIENT, SERVER, "--dport", "443")
    assert traced["verdict"] == "drop"
    assert traced["reason"].startswith("chain closed: ")
    assert traced["reason"].endswith("(backup: the gate is closed)")


def test_show_has_what_applies_to_a_packet_of_one_interface_with_its_counts(firewall: Firewall) -> None:
    assert echo(firewall.client, SERVER)
    lines = {line["text"]: line for line in rules_command(firewall, "show", "eth1")["lines"]}
    icmp = lines["icmp type echo-request: accept (client to server: icmp)"]
    assert icmp["packets"] == 1
    assert icmp["nft"].startswith("icmp type echo-request counter packets 1 ")
    assert icmp["chain"] == "from/eth1/to/eth0"
    of_server = [line["text"] for line in rules_command(firewall, "show", "eth0")["lines"]]
    assert not [text for text in of_server if "client to server" in text]
    assert any("the gate is open" in text for text in of_server)


# -- connections that are not allowed any more --


def test_exactly_the_forbidden_connections_end(firewall: Firewall) -> None:
    with listen(firewall.server, SERVER, 443) as web, listen(firewall.server, SERVER_6, 8001) as other:
        kept, cut = connect(firewall.client, SERVER, 443), connect(firewall.client, SERVER_6, 8001)
        assert kept is not None
        assert cut is not None
        with kept, cut, accept(web) as kept_end, accept(other) as cut_end:
            question = udp(firewall.client, CLIENT, 0)
            answers = udp(firewall.server, SERVER, 5353)
            question.sendto(b"?", (SERVER, 5353))
            assert receive(answers, 3) == b"?"
            new = pair_with("[https]")
            found = forbidden(firewall, new)
            assert sorted((state.protocol, state.target_port) for state in found) == [(6, 8001), (17, 5353)]
            # the kernel agrees: they continue, because nobody asks the rules about them
            rules = firewall.rules.succeed(compile_pair(new))
            rules.load(RuleSet.PRIMARY)
            cut.send(b"still")
            assert cut_end.recv(5) == b"still"
            with firewall.node.entered():
                assert connections.end_states(found) == 2
                assert connections.end_states(found) == 0
            assert forbidden(firewall, new) == []
            kept.send(b"and on")
            assert kept_end.recv(6) == b"and on"
            cut.send(b"lost")
            question.sendto(b"lost", (SERVER, 5353))
            assert receive(cut_end, 0.5) is None
            assert receive(answers, 0.5) is None
            question.close()
            answers.close()


def test_data_that_was_announced_ends_with_its_control_connection(firewall: Firewall) -> None:
    with listen(firewall.server, SERVER, 21) as ftp, listen(firewall.server, SERVER, 5000) as passive:
        control = connect(firewall.client, SERVER, 21)
        assert control is not None
        with control, accept(ftp) as served:
            # the helper reads commands from the second line of each side on
            served.sendall(b"220 welcome\r\n")
            control.sendall(control.recv(100) and b"USER somebody\r\n")
            served.sendall(served.recv(100) and b"227 Entering Passive Mode (192,168,0,10,19,136).\r\n")
            assert control.recv(100).startswith(b"227")
            data = connect(firewall.client, SERVER, 5000)
            assert data is not None
            with data, accept(passive) as sent:
                assert forbidden(firewall, pair_with("[ftp]")) == []
                found = forbidden(firewall, pair_with("[https]"))
                assert [state.target_port for state in found] == [21, 5000]
                firewall.rules.succeed(compile_pair(pair_with("[https]"))).load(RuleSet.PRIMARY)
                sent.sendall(b"still")
                assert data.recv(5) == b"still"
                with firewall.node.entered():
                    assert connections.end_states(found) == 2
                sent.sendall(b"lost")
                assert receive(data, 0.5) is None


@pytest.mark.parametrize(("own", "client"), [("192.168.2.1", CLIENT), ("fd00:0:0:c::1", CLIENT_6)])
def test_connections_to_the_firewall_itself_end_but_for_management(
    firewall: Firewall, own: str, client: str
) -> None:
    to_self = "  - {from: client, to: self, allow: [{tcp: 8080}, {udp: 5300}]}\n"
    old = loader.parse(PAIR_FILE.replace("policy:\n", f"policy:\n{to_self}"))
    rules = firewall.rules.succeed(compile_pair(old))
    rules.load(RuleSet.PRIMARY)
    with listen(firewall.node, own, 22) as ssh, listen(firewall.node, own, 8080) as other:
        kept, cut = connect(firewall.client, own, 22), connect(firewall.client, own, 8080)
        assert kept is not None
        assert cut is not None
        with kept, cut, accept(ssh) as kept_end, accept(other) as cut_end:
            with udp(firewall.client, client, 0) as asking, udp(firewall.node, own, 5300) as answering:
                asking.sendto(b"?", (own, 5300))
                assert receive(answering, 3) == b"?"
            # begun here, and allowed whatever the rules say
            with udp(firewall.node, own, 0) as ours:
                ours.sendto(b"out", (client, 9))
            assert forbidden(firewall, old) == []
            found = forbidden(firewall, firewall.pair)
            assert sorted((state.protocol, state.target_port) for state in found) == [(6, 8080), (17, 5300)]
            rules.succeed(compile_pair(firewall.pair)).load(RuleSet.PRIMARY)
            with firewall.node.entered():
                assert connections.end_states(found) == 2
            kept.send(b"and on")
            assert kept_end.recv(6) == b"and on"
            cut.send(b"lost")
            assert receive(cut_end, 0.5) is None


def forbidden(firewall: Firewall, pair: Pair) -> list[Any]:
    with firewall.node.entered():
        every, ways = connections.read_states(), iproute.read_ways()
    assert every
    return find_forbidden(model_of(compile_pair(pair).objects(RuleSet.PRIMARY)), every, ways)
