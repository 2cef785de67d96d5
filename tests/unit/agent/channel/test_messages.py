# SPDX-License-Identifier: GPL-2.0-or-later
"""The peer's bytes: what they say, and what they cannot do."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.channel.messages import MAX_MESSAGE, Hello, MessageError, PeerMessage, decode, encode
from agent.core.calls import Ask, Reply
from agent.core.comparison import (
    LIST_BYTES,
    MAX_LIST_PARTS,
    AskStates,
    StatesPart,
    StatesRefused,
    StatesTouched,
)
from agent.core.facts import Misfit, NodeFacts
from agent.core.peer import Handover, HandoverStep, NodeStatus
from agent.core.roles import Role

FULL = NodeStatus(
    role=Role.BACKUP,
    role_s=12.5,
    gate_open=False,
    clock_s=1_800_000_000.25,
    ready=True,
    problems=("sync-link",),
    keepalived=("BACKUP",),
    states={"tcp": 300_000, "udp": 2},
    pair_file="8a89607e4dd8",
    rules="669af8a3f0a20301",
    generation=7,
    versions={"hafw": "1.0"},
    heard=("eth2", "eth0"),
    ceased_s=3.5,
    handover=Handover("0a1b2c", HandoverStep.REFUSED, "it has not got all states yet"),
    served_s=9.0,
    sets_lost=True,
    sets_differ="it is too old",
)
LEAST = {"kind": "status", "role": "primary", "role_s": 0, "clock_s": 1}

FACTS = NodeFacts(
    {"net/netfilter/nf_conntrack_max": "262144"}, (Misfit("rules", "a sentence", "hafw rules apply"),), 2
)


def as_bytes(**fields: Any) -> bytes:
    return json.dumps({**LEAST, **fields}).encode()


LARGEST = StatesPart(
    10**13, MAX_LIST_PARTS - 1, MAX_LIST_PARTS, bytes(LIST_BYTES), 60_000, {"icmpv6": 10**9}
)


def as_part(**fields: Any) -> bytes:
    least = {"kind": "states-part", "number": 1, "part": 0, "parts": 1, "hashes": "", "per_second": 0}
    return json.dumps({**least, **fields}).encode()


@pytest.mark.parametrize(
    "message",
    [
        FULL,
        FACTS,
        NodeFacts({}),
        NodeStatus(Role.PRIMARY, 0.0, True, 1.0),
        Hello("fw-1", "G1"),
        Hello("a", "b", (1, 9)),
        Ask("a", 3, 7, bytes(range(256))),
        Reply("a", 3),
        Reply("a", 7, b""),
        Reply("a", 0, busy=True),
        AskStates(1),
        StatesPart(1, 0, 1, b""),
        LARGEST,
        StatesTouched(1, 300_000),
        StatesRefused(1, "it is not the primary"),
    ],
    ids=str,
)
def test_what_is_said_is_what_is_heard(message: PeerMessage) -> None:
    assert decode(encode(message)) == message


def test_what_an_earlier_version_leaves_out_says_nothing() -> None:
    assert decode(as_bytes()) == NodeStatus(Role.PRIMARY, 0.0, False, 1.0)


def test_what_a_later_version_adds_is_skipped() -> None:
    assert decode(as_bytes(mood="good", role="observer")) == NodeStatus(Role.UNKNOWN, 0.0, False, 1.0)
    later = as_bytes(handover={"id": "1", "step": "sung"})
    assert decode(later) == NodeStatus(Role.PRIMARY, 0.0, False, 1.0)
    assert decode(b'{"kind": "song", "text": 7}') is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b"{}",
        b'{"kind": 7}',
        b'{"kind": "hello", "node": "fw-1"}',
        b'{"kind": "hello", "node": "fw-1", "pair": "G1", "lowest": -1, "highest": 1}',
        b"[" * MAX_MESSAGE,
        b" " * (MAX_MESSAGE + 1),
        as_bytes(role_s="1"),
        as_bytes(role_s=True),
        as_bytes(role_s=1e300),
        as_bytes(role_s=10**400),
        b'{"kind": "status", "role": "primary", "role_s": NaN, "clock_s": 1}',
        b'{"kind": "status", "role": "primary", "role_s": 1e999, "clock_s": 1}',
        as_bytes(ceased_s="once"),
        as_bytes(gate_open="yes"),
        as_bytes(problems="all"),
        as_bytes(problems=["x"] * 65),
        as_bytes(problems=["x" * 257]),
        as_bytes(problems=["\x1b[2J"]),
        as_bytes(states={"tcp": -1}),
        as_bytes(states={"tcp": 1.5}),
        as_bytes(states=[1]),
        as_bytes(versions={"hafw": 1}),
        as_bytes(generation=10**40),
        as_bytes(rules="one\ntwo"),
        as_bytes(kind="facts", equal=[]),
        as_bytes(kind="facts", misfits=[["a", "b"]]),
        as_bytes(kind="facts", misfits=[["a", "b", 7]]),
        as_bytes(kind="facts", misfits=[["a", "b", "c" * 513]]),
        as_bytes(kind="facts", misfits=[["a", "b", "\x1b"]]),
        as_bytes(kind="facts", misfits=[["a", "b", "c"]] * 65),
        as_bytes(kind="facts", more=-1),
        as_bytes(compares="yes"),
        as_bytes(kind="states-ask"),
        as_bytes(kind="states-ask", number=-1),
        as_bytes(kind="states-touched", number=1, count=1.5),
        as_bytes(kind="states-refused", number=1, reason="\x1b[2J"),
        as_part(hashes="?"),
        as_part(hashes=7),
        as_part(hashes="AAAA"),
        as_part(hashes="A" * 60_000),
        as_part(part=1),
        as_part(parts=MAX_LIST_PARTS + 1),
        as_part(protocols={"tcp": -1}),
        as_part(per_second="fast"),
        as_bytes(handover="now"),
        as_bytes(handover={"id": "1"}),
        as_bytes(handover={"id": "x" * 257, "step": "asked"}),
        as_bytes(handover={"id": "1", "step": "asked", "reason": ["why"]}),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(data)


def test_facts_are_cut_to_what_a_message_may_have() -> None:
    """They name files and settings, which may have any name."""
    long = NodeFacts({"\x1b": "\u00fc" * 999}, (Misfit("\n", "\U0001f525" * 999, "x" * 999),) * 20)
    data = encode(long)
    assert len(data) <= MAX_MESSAGE
    found = decode(data)
    assert isinstance(found, NodeFacts)
    assert len(found.misfits) == 20
    assert found.misfits[0].what == "?"
    assert found.misfits[0].text.startswith("\\U0001f525")


def test_a_message_that_would_be_too_long_is_not_sent() -> None:
    with pytest.raises(MessageError, match="longer than"):
        encode(NodeStatus(Role.PRIMARY, 0.0, True, 1.0, problems=("x" * MAX_MESSAGE,)))


@settings(deadline=None)  # a machine under load
@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except MessageError:
        return


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)


@settings(deadline=None)
@given(st.sampled_from([*LEAST, "states", "problems", "ready", "generation", "versions", "handover"]), _JSON)
def test_any_value_of_a_key_is_read_or_refused(key: str, value: object) -> None:
    try:
        found = decode(json.dumps({**LEAST, key: value}).encode())
    except MessageError:
        return
    assert found is None or decode(encode(found)) == found
