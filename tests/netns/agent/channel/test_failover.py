# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing of a failover waits for the channel: with its process dead, hung, flooded or lied to, a failover
is measured as with a good one, in the same lab."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import pytest

from hafw_lab.client.lab import Lab
from hafw_lab.measure.failover import run_failover, start_lab
from hafw_lab.measure.result import FailoverResult, Setup
from tests.netns.agent.channel.as_peer import FLOOD, LIES, arguments, said, speaking, wait_well
from tests.netns.pair_checks import LINK_FAULT, find, records, until, wait_record

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces here need root")]

SETUP = Setup(states=200, connections=20)
OF_A_LINK = replace(SETUP, fault=LINK_FAULT)
"""Of a node that has failed so, the rest lives on: it can say and send what it likes."""
MAX_RATIO = 2.0
"""So many times as long as with a good channel the silence may last. The next word of the peer, or that
there is none, would take longer."""
RECORD_S = 30.0

Trouble = Callable[[Lab, str, str], AbstractContextManager[None]]


@contextmanager
def dead(lab: Lab, victim: str, survivor: str) -> Iterator[None]:
    for name in (victim, survivor):
        lab.node(name).stop_service("channel", signal.SIGKILL)
    wait_problem(lab, survivor, "peer-key")
    try:
        yield
    finally:
        lab.heal(survivor)


@contextmanager
def hung(lab: Lab, victim: str, survivor: str) -> Iterator[None]:
    for name in (victim, survivor):
        lab.node(name).signal_service("channel", signal.SIGSTOP)
    wait_problem(lab, survivor, "peer-key")
    try:
        yield
    finally:
        lab.node(survivor).signal_service("channel", signal.SIGCONT)


@contextmanager
def flooded(lab: Lab, victim: str, survivor: str) -> Iterator[None]:
    """From the addresses of the peer, with its key and without."""
    since_ns = time.monotonic_ns()
    with speaking(lab.node(victim), FLOOD, arguments(lab, victim)):
        wait_record(lab.node(survivor), since_ns, RECORD_S, event="refused")
        yield


@contextmanager
def lied_to(lab: Lab, victim: str, survivor: str) -> Iterator[None]:
    """The peer says that it is primary all the time, that it is well, and that all is different with it."""
    lab.node(victim).signal_service("channel", signal.SIGSTOP)
    lies = arguments(
        lab,
        victim,
        ahead_s=1000,
        role="primary",
        gate_open=True,
        ready=True,
        problems=[],
        keepalived=["MASTER"],
        states={"all": 10**9},
        pair_file="0",
        rules="0",
        generation=10**9,
        versions={"hafw": "99"},
    )
    try:
        with speaking(lab.node(victim), LIES, lies):
            wait_problem(lab, survivor, "clocks-differ")
            yield
    finally:
        lab.node(victim).signal_service("channel", signal.SIGCONT)


def wait_problem(lab: Lab, name: str, condition: str) -> None:
    until(lambda: condition in said(lab, name)["problems"], RECORD_S, lambda: said(lab, name)["problems"])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with start_lab(SETUP, lambda _: None) as lab:
        yield lab


@pytest.fixture(scope="module")
def good(lab: Lab) -> dict[Setup, FailoverResult]:
    return {setup: fail_over(lab, setup) for setup in (SETUP, OF_A_LINK)}


def make_well(lab: Lab) -> None:
    """Also after a test that has failed."""
    for name in lab.firewalls:
        lab.heal(name)
    for name in lab.firewalls:
        wait_well(lab, name)


def fail_over(lab: Lab, setup: Setup, trouble: Trouble | None = None) -> FailoverResult:
    """All comes through, and is well in the end."""

    def meanwhile(victim: str, survivor: str) -> AbstractContextManager[None]:
        return trouble(lab, victim, survivor) if trouble else nullcontext()

    make_well(lab)
    result = run_failover(lab, setup, lambda _: None, trouble=meanwhile)
    assert result.problems == ()
    assert result.nothing_lost
    return result


@pytest.mark.parametrize(
    ("setup", "trouble"),
    [(SETUP, dead), (SETUP, hung), (OF_A_LINK, flooded), (OF_A_LINK, lied_to)],
    ids=["dead", "hung", "flooded", "lied to"],
)
def test_a_failover_waits_for_no_word_of_the_peer(
    lab: Lab, good: dict[Setup, FailoverResult], setup: Setup, trouble: Trouble
) -> None:
    usual, result = good[setup], fail_over(lab, setup, trouble)
    assert result.blackout_ms < MAX_RATIO * usual.blackout_ms
    assert result.longest_stall_ms is not None
    assert usual.longest_stall_ms is not None
    assert result.longest_stall_ms < MAX_RATIO * usual.longest_stall_ms
    assert result.agent.notified_to_open_ms is not None
    assert result.agent.notified_to_open_ms < usual.detection_bound_ms


def test_the_gate_is_open_before_the_peer_is_missed(lab: Lab) -> None:
    """It is no news of the channel that a takeover begins with."""
    make_well(lab)
    victim = lab.wait_primary(None, 10)
    result = run_failover(lab, SETUP, lambda _: None, heal=False)
    node = lab.node(result.survivor)
    since_ns = int(str(records(node)[0]["mono_ns"]))
    opened = find(records(node, since_ns), event="transition", to="primary", result="done")[-1]
    missed = wait_record(node, int(str(opened["mono_ns"])), RECORD_S, event="alarm", condition="peer")
    assert int(str(opened["mono_ns"])) < int(str(missed["mono_ns"]))
    lab.heal(victim)
