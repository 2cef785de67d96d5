# SPDX-License-Identifier: GPL-2.0-or-later
"""FTP through one firewall: the helper is bound by a rule and by nothing else, and what it expects comes in
once, as `related`, or not at all."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Timer

import pytest

from agent.adapters.ctnetlink import Conntrack
from agent.adapters.expectations import announce_again
from agent.adapters.nfnetlink import EXPECTATIONS, attribute, nest, parse_attributes
from agent.adapters.nftables import Nftables
from agent.config import loader
from agent.core.roles import RuleSet
from agent.errors import ToolError
from agent.model.pair import Pair, PortRange, Protocol, Rule, Service
from agent.model.services import HELPERS
from agent.rules.compile import compile_pair
from tests.checkout import ROOT
from tests.netns.failover.helped_ends import (
    LINES,
    Program,
    Start,
    end,
    start_ftp_client,
    start_ftp_server,
    start_tftp_server,
    tftp_argv,
)
from tests.netns.failover.sip_ends import start_phone
from tests.netns.firewall import PAIR_FILE, Firewall, start_firewall
from tests.netns.namespaces import Namespace, start_namespaces
from tests.netns.packets import connect, listen

pytestmark = pytest.mark.netns
CLIENT, SERVER, VIP = "192.168.2.10", "192.168.0.10", "192.168.0.100"
NO_HELPER = re.compile("this kernel has no helper ([^:]*): load its module")
PATIENCE_S = 60.0


def start_in(node: Namespace) -> Start:
    def start(argv: Sequence[str]) -> "subprocess.Popen[bytes]":
        with node.entered():
            return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    return start


@contextmanager
def start_session(firewall: Firewall, directory: Path) -> Iterator[Program]:
    with (
        start_ftp_server(start_in(firewall.server), str(directory / "ftp"), SERVER),
        start_ftp_client(start_in(firewall.client)) as session,
    ):
        assert session.ask("opened", SERVER).startswith("230")
        yield session


@contextmanager
def watch_expectations(node: Namespace) -> Iterator[Callable[[str], str]]:
    """A function that waits for the next line with a word in it, as `conntrack -E expect` prints them."""
    process = start_in(node)(["stdbuf", "-oL", "conntrack", "-E", "expect"])
    limit = Timer(PATIENCE_S, process.kill)
    limit.start()
    try:
        wait_until(partial(listens, process.pid), "conntrack does not begin to listen")

        def wait_for(word: str) -> str:
            assert process.stdout
            for line in process.stdout:
                if word in line.decode():
                    return line.decode()
            pytest.fail(f"conntrack ended, or was ended, before it said {word}")

        yield wait_for
    finally:
        limit.cancel()
        end(process)


def listens(pid: int) -> bool:
    """Whether new expectations are reported to a process: others in its network namespace may be as well."""
    try:
        own = {os.readlink(handle) for handle in Path(f"/proc/{pid}/fd").iterdir()}
    except FileNotFoundError:
        return False  # it closes some of its files just now
    rows = [row.split() for row in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]]
    listeners = (row[9] for row in rows if row[1] == "12" and int(row[3], 16) & 0x8)
    return any(f"socket:[{inode}]" in own for inode in listeners)


def wait_until(what: Callable[[], bool], words: str) -> None:
    """What can only be asked, because nothing reports its change."""
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, words
        time.sleep(0.02)


def port_of(expectation: str) -> int:
    found = re.search(r"dport=(\d+) ", expectation)
    assert found
    return int(found[1])


def test_both_modes_work_through_nat(tmp_path: Path) -> None:
    with start_firewall() as firewall:
        firewall.rules.load(RuleSet.PRIMARY)
        with start_session(firewall, tmp_path) as session:
            for active in (False, True):
                assert session.ask("listed", active) == ["lines"]
            session.ask("announced_active")
            assert session.ask("fetched_active") == len(LINES)
        assert "helper=ftp" in firewall.node.run("conntrack", "-L", "-p", "tcp", "--orig-port-dst", "21")


def test_an_expectation_is_used_once_and_its_end_is_reported(tmp_path: Path) -> None:
    with start_firewall() as firewall:
        firewall.rules.load(RuleSet.PRIMARY)
        with start_session(firewall, tmp_path) as session, watch_expectations(firewall.node) as wait_for:
            port = session.ask("announced_passive")[1]
            assert port_of(wait_for("[NEW]")) == port
            assert session.ask("fetched_passive", PATIENCE_S) == len(LINES)
            assert port_of(wait_for("[DESTROY]")) == port
            with listen(firewall.server, SERVER, port):
                assert connect(firewall.client, SERVER, port) is None, "an expectation is good for once"


def test_what_is_announced_again_is_the_same_and_still_good_for_once(tmp_path: Path) -> None:
    with start_firewall() as firewall:
        firewall.rules.load(RuleSet.PRIMARY)
        with (
            start_session(firewall, tmp_path) as session,
            watch_expectations(firewall.node) as wait_for,
            firewall.node.entered(),
            closing(Conntrack(expectations=True)) as ear,
        ):
            session.ask("announced_active")
            (one,) = ear.announced()
            port = port_of(wait_for("[NEW]"))
            assert announce_again(one.family, one.expected)
            assert port_of(wait_for("[NEW]")) == port
            assert not ear.announced(), "the kernel has not made it by itself"
            assert session.ask("fetched_active") == len(LINES)
            assert not announce_again(one.family, one.expected)


def test_without_the_rule_that_binds_it_nothing_is_expected(tmp_path: Path) -> None:
    """The same port, allowed without the helper: the kernel does not bind it by itself."""
    pair = loader.parse(PAIR_FILE.replace("ftp", "{tcp: 21}"))
    with start_firewall() as firewall:
        with firewall.node.entered():
            Nftables(compile_pair(pair)).load(RuleSet.PRIMARY)
            automatic = Path("/proc/sys/net/netfilter/nf_conntrack_helper")
            assert not automatic.exists() or automatic.read_text().strip() == "0"
        with start_session(firewall, tmp_path) as session:
            session.ask("announced_passive")
            assert session.ask("fetched_passive", 1) == "nobody answers"
            assert not firewall.node.run("conntrack", "-L", "expect")


def test_tftp_answers_from_another_port_through_nat(tmp_path: Path) -> None:
    pair = loader.parse(PAIR_FILE.replace("ftp", "tftp"))
    (tmp_path / "lines").write_text(LINES)
    fetched, pid_file = tmp_path / "fetched", tmp_path / "pid"
    with start_firewall() as firewall:
        with firewall.node.entered():
            Nftables(compile_pair(pair)).load(RuleSet.PRIMARY)
        with start_tftp_server(start_in(firewall.server), str(tmp_path), str(pid_file)):
            wait_until(pid_file.exists, "the TFTP server does not listen")
            firewall.client.run(*tftp_argv(SERVER, str(tmp_path / "lines"), str(fetched)))
            assert fetched.read_text() == LINES


def test_a_call_opens_what_it_announces_through_nat() -> None:
    pair = loader.parse(PAIR_FILE.replace("ftp", "sip"))
    with start_firewall() as firewall:
        with firewall.node.entered():
            Nftables(compile_pair(pair)).load(RuleSet.PRIMARY)
        with (
            start_phone(start_in(firewall.server), SERVER) as callee,
            start_phone(start_in(firewall.client), CLIENT) as caller,
        ):
            callee.ask("opened", 9010)
            caller.ask("opened", 7078)
            caller.ask("said", 7078, SERVER, 9010)
            callee.ask("said", 9010, VIP, 7078)
            assert callee.ask("heard", 9010, 1) is None
            assert caller.ask("heard", 7078, 0) is None

            callee.ask("answers", VIP)
            caller.ask("dialled", SERVER, 7078)
            call = caller.ask("connected")
            callee.ask("said", 9010, VIP, 7078)
            assert caller.ask("heard", 7078, PATIENCE_S) == [SERVER, 9010]
            caller.ask("said", 7078, SERVER, 9010)
            assert callee.ask("heard", 9010, PATIENCE_S) == [VIP, 7078]
            assert caller.ask("hung_up", call) == 0


def test_an_unused_expectation_times_out_and_is_reported(tmp_path: Path) -> None:
    with start_firewall() as firewall:
        firewall.rules.load(RuleSet.PRIMARY)
        with start_session(firewall, tmp_path) as session, watch_expectations(firewall.node) as wait_for:
            port = session.ask("announced_passive")[1]
            assert port_of(wait_for("[NEW]")) == port
            with firewall.node.entered():
                shorten_expectations()
            assert port_of(wait_for("[DESTROY]")) == port
            assert session.ask("fetched_passive", 1) == "nobody answers"


def shorten_expectations() -> None:
    """A helper's last five minutes, which is too long for a test: a second is left to each."""
    tracking = Conntrack()
    found = list(tracking.dump(EXPECTATIONS | 1, 0x301))
    assert found
    for family, body in found:
        kept = b"".join(nest(kind, value) for kind, value in parse_attributes(body) if kind in (1, 2, 3))
        assert tracking.ask(EXPECTATIONS, family, kept + attribute(4, bytes((0, 0, 0, 1))), 0x5) is not None
    tracking.close()


def pair_with(services: Iterable[Service]) -> Pair:
    pair = loader.parse(PAIR_FILE)
    return replace(pair, policy=(Rule("client", "server", tuple(services)),))


def test_every_helper_is_one_of_the_kernels() -> None:
    """But for those in modules that are not there, and they are named."""
    ways = {(name, protocol) for name, helper in HELPERS.items() for protocol in helper.protocols}
    pair = pair_with(Service(name, protocol, (PortRange(9, 9),), name) for name, protocol in ways)
    lacking: set[str] = set()
    with start_namespaces("fw-1") as (node,), node.entered():
        adapter = Nftables(compile_pair(pair))
        try:
            adapter.load(RuleSet.PRIMARY)
        except ToolError as error:
            lacking |= set(NO_HELPER.findall(str(error.hint))[0].split(", "))
        listed = node.run("nft", "list", "ruleset")
    assert lacking < HELPERS.keys()
    there = set(re.findall(r'type "(.*)" protocol (tcp|udp)', listed))
    assert there == ({(name, protocol.value) for name, protocol in ways} if not lacking else set())


def test_a_helper_that_the_kernel_does_not_have_is_named() -> None:
    services = (Service(name, Protocol.TCP, (PortRange(9, 9),), name) for name in ("ftp", "gopher"))
    with start_namespaces("fw-1") as (node,), node.entered():
        adapter = Nftables(compile_pair(pair_with(services)))
        with pytest.raises(ToolError, match="No such file") as failed:
            adapter.check(RuleSet.PRIMARY)
        assert NO_HELPER.findall(str(failed.value.hint)) == ["gopher"]
        assert adapter.read().present is False


def test_the_kernel_keeps_the_helper_of_a_replicated_connection() -> None:
    done = subprocess.run(
        ["/usr/bin/python3", "-P", "-m", "agent", "check", "--kernel"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "keeps its helper" in done.stdout
