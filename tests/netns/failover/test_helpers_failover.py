# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that announce others, over a failover: FTP with a real client and server, through NAT."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from agent.model.pair import SyncMode
from agent.model.records import RecordKind
from hafw_lab.client.lab import POWER, Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.states import count_replicated, wait_replicated
from tests.netns.failover.helped_ends import (
    LINES,
    Program,
    Start,
    start_ftp_client,
    start_ftp_server,
    start_tftp_server,
    tftp_argv,
)
from tests.netns.failover.sip_ends import start_phone

pytestmark = pytest.mark.netns
CONFIG = "/etc/conntrackd/conntrackd.conf"
CLIENT, SERVER, VIP = "192.168.2.10", "192.168.0.3", "192.168.0.100"
TFTP_PID = "/run/tftp.pid"
PATIENCE_S = 60.0


def start_in(node: Node) -> Start:
    def start(argv: Sequence[str]) -> "subprocess.Popen[bytes]":
        return node.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    return start


@contextmanager
def start_pair(sync: SyncMode, *services: str) -> Iterator[tuple[Lab, str, str]]:
    policy = ({"from": "client", "to": "server", "allow": services},) if services else ()
    with Lab.start(LabOptions(sync=sync, policy=policy)) as lab:
        primary = lab.wait_settled(PATIENCE_S)
        yield lab, primary, next(name for name in lab.firewalls if name != primary)


def wait_for(what: Callable[[], bool], words: str) -> None:
    """Tables can only be asked, nothing reports their change."""
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, words
        time.sleep(0.05)


def expectations(node: Node, sync: SyncMode) -> str:
    """Those of the peer that a backup has: in its kernel, or in conntrackd's external cache."""
    command = ["conntrack", "-L", "expect"] if sync is SyncMode.DIRECT else ["conntrackd", "-e", "expect"]
    return node.run(command).stdout


def states(node: Node, sync: SyncMode) -> str:
    command = ["conntrack", "-L", "-p", "udp"] if sync is SyncMode.DIRECT else ["conntrackd", "-e"]
    return node.run(command).stdout


def switch_expectations_off(lab: Lab, primary: str, backup: str) -> None:
    for name in (backup, primary):
        node = lab.node(name)
        before = node.read_text(CONFIG)
        after = re.sub(r"^\s*ExpectationSync \{[^}]*\}\n", "", before, flags=re.MULTILINE)
        assert after != before
        node.write_text(CONFIG, after)
        node.stop_service("conntrackd")
        node.start_service("conntrackd")
    lab.wait_settled(PATIENCE_S)


@pytest.mark.parametrize("sync", SyncMode)
def test_an_open_ftp_session_continues_after_a_failover(sync: SyncMode) -> None:
    """It lists and transfers, and what was announced before the power went is accepted after it."""
    with (
        start_pair(sync) as (lab, primary, backup),
        start_ftp_server(start_in(lab.node("omarine")), "/srv/ftp", SERVER),
        start_ftp_client(start_in(lab.node("client"))) as passive,
        start_ftp_client(start_in(lab.node("client"))) as active,
    ):
        for session in (passive, active):
            assert session.ask("opened", SERVER).startswith("230")
            assert session.ask("listed", False) == ["lines"]
            # PORT grows by a byte on its way through NAT, and so does the distance of all that follows
            assert session.ask("listed", True) == ["lines"]
        passive.ask("announced_passive")
        active.ask("announced_active")
        wait_for(
            lambda: expectations(lab.node(backup), sync).count("proto=6") >= 2,
            "the expectations do not reach the backup",
        )

        lab.fail(primary, POWER)
        lab.wait_primary(backup, PATIENCE_S)
        assert active.ask("fetched_active") == len(LINES)
        assert passive.ask("fetched_passive", PATIENCE_S) == len(LINES)
        for session in (passive, active):
            assert session.ask("listed", False) == ["lines"]
            assert session.ask("listed", True) == ["lines"]
        controls = lab.node(backup).run(["conntrack", "-L", "-p", "tcp", "--orig-port-dst", "21"]).stdout
        assert controls.count("helper=ftp") == 2
        steps = [one for one in lab.node(backup).agent_records() if one["event"] == RecordKind.STEP.value]
        names = [one["step"] for one in steps]
        opened = max(number for number, name in enumerate(names) if name == "SwitchRules")
        completed = steps[opened - 1]
        assert (completed["step"], completed["result"]) == ("CompleteExpectations", "done")
        # the one of active mode; the rules themselves translate those of passive mode
        assert str(completed["message"]).endswith(": 1")
        assert "CompleteRemaining" in names[opened:]


def test_without_their_replication_what_was_announced_is_refused() -> None:
    """The same with ExpectationSync switched off must fail, or the test above shows nothing."""
    sync = SyncMode.DIRECT  # what is not sent is missing in both
    with (
        start_pair(sync) as (lab, primary, backup),
        start_ftp_server(start_in(lab.node("omarine")), "/srv/ftp", SERVER),
        start_ftp_client(start_in(lab.node("client"))) as session,
        start_ftp_client(start_in(lab.node("client"))) as fence,
    ):
        switch_expectations_off(lab, primary, backup)
        assert session.ask("opened", SERVER).startswith("230")
        session.ask("announced_passive")
        # replication keeps the order: when this one has come, the expectation would have come as well
        before = count_replicated(lab.node(backup), sync)
        assert fence.ask("opened", SERVER).startswith("230")
        wait_replicated(lab.node(backup), sync, before + 1, lambda _: None)
        assert expectations(lab.node(primary), SyncMode.DIRECT).count("proto=6") == 1

        lab.fail(primary, POWER)
        lab.wait_primary(backup, PATIENCE_S)
        assert session.ask("fetched_passive", 2) == "nobody answers"
        assert session.ask("listed", False) == ["lines"], "the session continues and keeps its helper"


@pytest.mark.parametrize("sync", SyncMode)
def test_what_a_first_packet_has_announced_is_let_in_after_a_failover(sync: SyncMode) -> None:
    """A file that was asked for before the power went is sent after it. A call continues, and one that was
    dialled before is answered after it."""
    with (
        start_pair(sync, "tftp", "sip") as (lab, primary, backup),
        start_tftp_server(start_in(lab.node("omarine")), "/srv", TFTP_PID),
        start_phone(start_in(lab.node("omarine")), SERVER) as callee,
        start_phone(start_in(lab.node("client")), CLIENT) as talking,
        start_phone(start_in(lab.node("client")), CLIENT) as ringing,
    ):
        server, client, peer = lab.node("omarine"), lab.node("client"), lab.node(backup)
        for phone, port in ((callee, 9010), (callee, 9020), (talking, 7100), (ringing, 7200)):
            phone.ask("opened", port)
        callee.ask("answers", VIP)
        talking.ask("dialled", SERVER, 7100)
        calls = [talking.ask("connected")]
        talk(talking, 7100, callee, 9010)
        callee.ask("asleep")
        ringing.ask("dialled", SERVER, 7200)
        wait_for(lambda: "sport=7202 " in states(peer, sync), "the call does not reach the backup")

        server.write_text("/srv/lines", LINES)
        wait_for(lambda: server.run(["test", "-s", TFTP_PID], check=False).returncode == 0, "no TFTP server")
        server.run(["sh", "-c", f"kill -STOP $(cat {TFTP_PID})"])
        download = client.popen(tftp_argv(SERVER, "/srv/lines", "/run/lines"), stdout=subprocess.DEVNULL)
        wait_for(lambda: "helper=tftp" in expectations(peer, sync), "the file's does not reach the backup")

        lab.fail(primary, POWER)
        lab.wait_primary(backup, PATIENCE_S)
        server.run(["sh", "-c", f"kill -CONT $(cat {TFTP_PID})"])
        assert download.wait(PATIENCE_S) == 0
        assert client.read_text("/run/lines") == LINES
        talk(talking, 7100, callee, 9010)
        callee.ask("awake")
        calls.append(ringing.ask("connected"))
        talk(ringing, 7200, callee, 9020)
        assert [one.ask("hung_up", call) for one, call in zip((talking, ringing), calls, strict=True)] == [
            0,
            0,
        ]


def talk(caller: Program, port: int, callee: Program, callee_port: int) -> None:
    caller.ask("said", port, SERVER, callee_port)
    assert callee.ask("heard", callee_port, PATIENCE_S) == [VIP, port]
    callee.ask("said", callee_port, VIP, port)
    assert caller.ask("heard", port, PATIENCE_S) == [SERVER, callee_port]
