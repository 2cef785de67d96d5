# SPDX-License-Identifier: GPL-2.0-or-later
"""The elements of one node for the other: read as if they came from anybody."""

import json
import zlib
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters import sets_work
from agent.adapters.dynamic_sets import Element
from agent.adapters.sets_work import PUT, SetsDone, SetsJob, pack_elements, unpack_elements, work
from agent.errors import HafwError

CONTENTS = {"blocked": [Element(ip_address("192.0.2.1"), 7), Element(ip_address("2001:db8::1"))], "none": []}


def packed(found: object) -> bytes:
    return zlib.compress(json.dumps(found).encode())


def test_they_arrive() -> None:
    assert unpack_elements(pack_elements(CONTENTS)) == CONTENTS


@pytest.mark.parametrize("element", [["fe80::1%eth0", None], ["2001:db8::1%eth0", 7]])
def test_an_address_on_an_interface_of_the_other_node_is_none(element: object) -> None:
    with pytest.raises(HafwError) as refused:
        unpack_elements(packed({"blocked": [element]}))
    assert "%eth0' names an interface behind %; write the address alone" in str(refused.value)


def test_what_it_is_given_and_what_it_answers_come_whole() -> None:
    job = SetsJob("put", ("a", "b"), b"\n\0any", b"\nother")
    assert SetsJob.from_bytes(job.to_bytes()) == job
    done = SetsDone(3, b"\n\0any", "a reason\n")
    assert SetsDone.from_bytes(done.to_bytes()) == done


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"sets",
        pack_elements(CONTENTS)[:-1],
        packed([]),
        packed(7),
        packed({"a": 7}),
        packed({"a": ["192.0.2.1"]}),
        packed({"a": [["192.0.2.1", -1]]}),
        packed({"a": [["192.0.2.1", True]]}),
        packed({"a": [["192.0.2.1", 1e3]]}),
        packed({"a": [["192.0.2.1", 1 << 33]]}),
        packed({"a": [["192.0.2.1/24", 1]]}),
        packed({"a": [[3221225985, 1]]}),
        zlib.compress(b"[" * 100_000),
        zlib.compress(b" " * (sets_work.MAX_TEXT + 1) + b"{}"),
    ],
)
def test_what_are_no_elements_changes_nothing(data: bytes) -> None:
    with pytest.raises(HafwError):
        work(SetsJob(PUT, ("a",), data))


@given(st.binary())
def test_nothing_that_comes_is_more_than_an_error(data: bytes) -> None:
    for one in (data, zlib.compress(data)):
        try:
            unpack_elements(one)
        except HafwError:
            continue


def test_too_many_are_neither_sent_nor_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    few = pack_elements(CONTENTS)
    monkeypatch.setattr(sets_work, "MAX_ELEMENTS", 1)
    with pytest.raises(HafwError, match="there are 2 elements; no more than 1 are sent"):
        pack_elements(CONTENTS)
    with pytest.raises(HafwError, match="more than 1"):
        unpack_elements(few)


def test_other_sets_than_ours_are_refused() -> None:
    with pytest.raises(HafwError, match="other dynamic sets"):
        work(SetsJob(PUT, ("blocked",), pack_elements(CONTENTS)))
