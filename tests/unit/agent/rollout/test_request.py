# SPDX-License-Identifier: GPL-2.0-or-later
"""What one node asks the other to do with its rules: read as if it came from anybody."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rollout import request as requests
from agent.rollout.request import (
    Request,
    RequestError,
    RulesAnswer,
    RulesVerb,
    pack_answer,
    pack_request,
    unpack_answer,
    unpack_request,
)

FILES = (("hafw.yaml", 'include: ["policy.d/a.yaml"]\n'), ("policy.d/a.yaml", "é\n"))
GOOD: dict[str, Any] = {"verb": "apply", "who": "root on fw-1", "number": 7, "files": FILES, "why": "apply"}


def packed(**fields: object) -> bytes:
    return zlib.compress(json.dumps({**GOOD, **fields}).encode())


@pytest.mark.parametrize(
    "request_",
    [
        Request(RulesVerb.APPLY, "root", 3, FILES, 60, "x"),
        Request(RulesVerb.ADD, "root", set_name="blocked", elements=("192.0.2.1", "2001:db8::1")),
        *(Request(verb, "root", files=FILES) for verb in RulesVerb),
    ],
)
def test_a_request_arrives(request_: Request) -> None:
    assert unpack_request(pack_request(request_)) == request_


@pytest.mark.parametrize(
    "answer",
    [
        RulesAnswer(),
        RulesAnswer("no", 7, True, 6, "ab", 3),
        RulesAnswer(text="handed over", took_ms=1800, gap_ms=0),
    ],
)
def test_an_answer_arrives(answer: RulesAnswer) -> None:
    assert unpack_answer(pack_answer(answer)) == answer


def test_an_answer_of_a_version_that_hands_nothing_over_is_understood() -> None:
    fields = {"error": None, "newest": 7, "same": True, "waits": None, "rules": "ab", "ended": None}
    found = unpack_answer(zlib.compress(json.dumps(fields).encode()))
    assert found == RulesAnswer(newest=7, same=True, rules="ab")


def test_what_a_later_version_adds_is_skipped() -> None:
    assert unpack_request(packed(mood="good")).number == 7


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"verb": "reboot"}, "cannot 'reboot' for the other node; upgrade it"),
        ({"verb": None}, "`verb`"),
        ({"who": "a\x1b[2J"}, "`who`"),
        ({"who": "x" * 5000}, "`who`"),
        ({"number": -1}, "`number`"),
        ({"number": True}, "`number`"),
        ({"number": 10**12}, "`number`"),
        ({"confirm_s": 86_401}, "`confirm_s`"),
        ({"confirm_s": 1.5}, "`confirm_s`"),
        ({"elements": "x"}, "`elements`"),
        (
            {"elements": ["fe80::1%eth0"]},
            "`elements` of what the other node sent: 'fe80::1%eth0' names an interface",
        ),
        ({"elements": ["; flush ruleset"]}, "`elements`"),
        ({"elements": ["192.168.0.1"] * 1001}, "`elements`"),
        ({"set_name": 7}, "`set_name`"),
        ({"who": "a\nb"}, "`who`"),
        ({"files": []}, "sent no pair file"),
        ({"files": [["a", "\ud800"]]}, "is not text"),
        ({"files": "x"}, "`files`"),
        ({"files": [["a"]]}, "`files`"),
        ({"files": [["a", 7]]}, "`files`"),
        ({"files": [["a", ""]] * 999}, "`files`"),
        ({"files": [["a", ""], ["../b", ""]]}, "not below the pair file"),
        ({"files": [["a", ""], ["/etc/passwd", ""]]}, "not below the pair file"),
    ],
)
def test_what_is_no_request_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(RequestError) as refused:
        unpack_request(packed(**fields))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "data", [b"", b"x", packed()[:-4], zlib.compress(b"[]"), zlib.compress(b"{" * 9999)]
)
def test_what_is_not_packed_json_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match="what the other node sent"):
        unpack_request(data)


def test_a_little_that_unpacks_to_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_REQUEST", 1000)
    with pytest.raises(RequestError, match="too long"):
        unpack_request(packed(mood="x" * 2000))


@given(st.binary())
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for one in (data, zlib.compress(data)):
        for unpack in (unpack_request, unpack_answer):
            with pytest.raises(RequestError):
                unpack(one)
