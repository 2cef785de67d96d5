# SPDX-License-Identifier: GPL-2.0-or-later
"""What nft lists is known again, in whichever order and with whichever counts it says it."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from agent.core.roles import RuleSet
from agent.rules.gate import closed
from agent.rules.listing import Listing, changed_parts, listing_of
from agent.rules.nft_json import object_json
from agent.rules.nft_parse import Entry
from agent.rules.objects import GATE_TABLE, TABLE, Chain, CounterObject, Object, Set, Table, make_rule
from agent.rules.statements import ACCEPT, DROP, Count, Prefix, concat

Body = dict[str, Any]  # as it was decoded
OURS: tuple[Object, ...] = (
    Table(TABLE),
    Chain(TABLE, "a"),
    Set(TABLE, "s", ("ipv4_addr",), ("10.0.0.1", Prefix("10.1.0.0", 16), concat("eth0", "::1"))),
    Set(TABLE, "limit/x", ("ipv4_addr",), ("10.0.0.9",), ("timeout",)),
    make_rule(TABLE, "a", Count((1, 60)), ACCEPT, comment="one"),
    make_rule(TABLE, "a", DROP),
    Table(GATE_TABLE),
)


def entries_of(*objects: Object) -> list[tuple[str, Body]]:
    """As nft would list them: decoded, with handles."""
    found = (json.loads(json.dumps(object_json(one))) for one in objects)
    return [
        (kind, {**body, "handle": handle})
        for handle, one in enumerate(found, 1)
        for kind, body in one.items()
    ]


def listed(entries: Iterable[Entry] | None = None) -> Listing:
    return listing_of(entries_of(*OURS) if entries is None else entries, {"limit/x"})


def with_a_body(name: str, change: Callable[[Body], object]) -> Listing:
    entries = entries_of(*OURS)
    for _, body in entries:
        if name in (body.get("name"), body.get("comment")):
            change(body)
    return listed(entries)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("one", lambda rule: rule.update(handle=99)),
        ("one", lambda rule: rule["expr"][0]["counter"].update(packets=5, bytes=9)),
        ("s", lambda found: found["elem"].reverse()),
        ("limit/x", lambda found: found["elem"].clear()),
    ],
)
def test_what_moves_by_itself_is_no_difference(name: str, change: Callable[[Body], object]) -> None:
    assert with_a_body(name, change).fingerprint == listed().fingerprint


def test_the_chains_of_the_role_are_no_difference() -> None:
    assert listed(entries_of(*OURS, *closed())).fingerprint == listed().fingerprint


def test_the_order_of_rules_is_a_difference() -> None:
    *before, accept, drop, gate = OURS
    after = listed(entries_of(*before, drop, accept, gate))
    assert changed_parts(listed().fingerprint, after.fingerprint) == ("chain a",)


def test_a_fingerprint_is_the_same_to_every_version() -> None:
    """The agent before an upgrade leaves one in /run; one that is not known again costs the counts."""
    assert listed().fingerprint.whole == "e2a7ea6fb586b55ee77b61daa30834c4a75b5450b3030350050be83a590d252d"
    assert (
        listed(entries_of(Table(TABLE))).fingerprint.whole
        == "f9a8d53b37cb2ddc7b9cdb0554f0d4d1620537327f7663f184de06bf7a4b6de0"
    )


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("one", lambda rule: rule["expr"].pop(), "chain a"),
        ("one", lambda rule: rule["expr"].append({"unheard": 1}), "chain a"),
        ("a", lambda chain: chain.update(unheard=1), "chain a"),
        ("s", lambda found: found["elem"].pop(), "set s"),
        ("s", lambda found: found.update(flags=["interval"]), "set s"),
    ],
)
def test_what_is_changed_is_named_by_its_part(
    name: str, change: Callable[[Body], object], part: str
) -> None:
    before, after = listed(), with_a_body(name, change)
    assert changed_parts(before.fingerprint, after.fingerprint) == (part,)
    assert before.fingerprint.whole != after.fingerprint.whole


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (lambda _: None, RuleSet.BACKUP),
        (lambda entries: entries.reverse(), RuleSet.BACKUP),
        (lambda entries: entries.clear(), RuleSet.PRIMARY),
        (lambda entries: entries.pop(), None),
        (lambda entries: entries.append(entries[-1]), None),
        (lambda entries: entries[0][1].update(policy="drop"), None),
        (lambda entries: entries[0][1].update(unheard=1), None),
        (lambda entries: entries[-1][1].update(unheard=1), None),
        (lambda entries: entries[-1][1]["expr"].pop(), None),
        (lambda entries: entries[-1][1]["expr"][-1].update(unheard=1), None),
    ],
)
def test_the_role_is_read_to_the_letter(
    change: Callable[[list[tuple[str, Body]]], object], rules: RuleSet | None
) -> None:
    role = entries_of(*closed())
    change(role)
    assert listed([*entries_of(*OURS), *role]).rules is rules


def test_without_the_table_of_the_gate_there_is_no_role() -> None:
    assert listed(entries_of(*OURS[:-1])).rules is None


def test_a_counter_without_a_count_is_no_listing() -> None:
    with pytest.raises(ValueError, match="no count"):
        listed(entries_of(*OURS, CounterObject(TABLE, "c")))
