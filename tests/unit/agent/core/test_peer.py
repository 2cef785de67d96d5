# SPDX-License-Identifier: GPL-2.0-or-later
"""What follows from what the two nodes say of themselves."""

from dataclasses import replace

import pytest

from agent.core.conditions import Condition
from agent.core.peer import (
    MAX_CLOCK_S,
    SILENT_S,
    SPLIT_S,
    TOLD_S,
    Differing,
    Heard,
    NodeStatus,
    judge_paths,
    judge_peer,
    judge_split,
)
from agent.core.roles import Role

NAMES = ("fw-1", "fw-2")
OWN = NodeStatus(
    Role.PRIMARY,
    10.0,
    True,
    1000.0,
    states={"tcp": 1000},
    pair_file="a",
    rules="b",
    versions={"hafw": "1", "kernel": "6"},
)
PEER = replace(OWN, role=Role.BACKUP, gate_open=False, ready=True)
TAKEOVER_S = 0.4


def judged(
    peer: NodeStatus, own: NodeStatus = OWN, *, lasts_s: float = 20.0, takeover_s: float = TAKEOVER_S
) -> dict[Condition, str]:
    """What is wrong after both have said the same for `lasts_s`."""
    before = Differing()
    found: dict[Condition, str] = {}
    for now_s in (100.0, 100.0 + lasts_s):
        before, findings = judge_peer(
            own, Heard({"eth2": now_s}, peer, now_s), NAMES, takeover_s, before, now_s
        )
        for condition, ok, text in findings:
            assert text
            found.pop(condition, None)
            if not ok:
                found[condition] = text
    return found


def test_two_nodes_that_agree_have_no_problem() -> None:
    assert judged(PEER) == {}


@pytest.mark.parametrize(
    ("peer", "condition", "words"),
    [
        (replace(PEER, role=Role.PRIMARY), Condition.SPLIT_BRAIN, "both nodes are primary, fw-1 and fw-2"),
        (
            replace(PEER, states={"tcp": 800}),
            Condition.STATES_DIFFER,
            "fw-2 has other states than fw-1: 800 tcp for 1000",
        ),
        (replace(PEER, states={"tcp": 1000, "udp": 200}), Condition.STATES_DIFFER, "200 udp for 0"),
        (replace(PEER, pair_file="c"), Condition.PAIR_FILES_DIFFER, "pair file: fw-1 has a, fw-2 has c"),
        (replace(PEER, rules="c"), Condition.RULES_DIFFER, "rules in force: fw-1 has b, fw-2 has c"),
        (replace(PEER, sets_differ="other elements"), Condition.RULES_DIFFER, "other elements"),
        (replace(PEER, versions={"hafw": "2"}), Condition.VERSIONS_DIFFER, "hafw 1 and 2"),
        (replace(PEER, clock_s=1003.0), Condition.CLOCKS_DIFFER, "fw-2 is 3.0 s ahead of that of fw-1"),
        (replace(PEER, clock_s=990.0), Condition.CLOCKS_DIFFER, "fw-2 is 10.0 s behind that of fw-1"),
    ],
)
def test_what_differs_is_named(peer: NodeStatus, condition: Condition, words: str) -> None:
    found = judged(peer)
    assert [*found] == [condition]
    assert words in found[condition]


def test_the_node_that_cannot_send_its_elements_says_so_as_well() -> None:
    assert judged(PEER, replace(OWN, sets_differ="other elements")) == {
        Condition.RULES_DIFFER: "other elements"
    }


def test_no_primary_on_either_side() -> None:
    found = judged(PEER, replace(OWN, role=Role.FAULT))
    assert found == {Condition.NEITHER_PRIMARY: "no node is primary: fw-1 is fault, fw-2 is backup"}


@pytest.mark.parametrize(
    "peer",
    [
        replace(PEER, states={"tcp": 860}),
        replace(PEER, pair_file="", rules=""),
        replace(PEER, versions={"conntrackd": "1.4.8"}),
        replace(PEER, clock_s=1000.0 + MAX_CLOCK_S),
    ],
    ids=["a few states are on their way", "it says nothing of them", "not known of both", "nearly the same"],
)
def test_what_is_no_difference(peer: NodeStatus) -> None:
    assert judged(peer) == {}


@pytest.mark.parametrize("role", [Role.UNKNOWN, Role.PRIMARY, Role.FAULT])
def test_states_are_compared_between_a_primary_and_a_backup_alone(role: Role) -> None:
    assert Condition.STATES_DIFFER not in judged(replace(PEER, role=role, states={}))


def test_a_change_of_one_node_after_the_other_is_no_difference() -> None:
    assert judged(replace(PEER, rules="c"), lasts_s=0.9) == {}
    assert Condition.RULES_DIFFER in judged(replace(PEER, rules="c"), lasts_s=1.1)


def test_a_takeover_may_take_longer_than_that() -> None:
    nobody = replace(OWN, role=Role.BACKUP)
    assert judged(PEER, nobody, lasts_s=5.0, takeover_s=8.0) == {}
    assert Condition.NEITHER_PRIMARY in judged(PEER, nobody, lasts_s=9.0, takeover_s=8.0)


def test_a_clock_is_compared_at_the_moment_that_it_was_told() -> None:
    heard = Heard({"eth2": 99.0}, replace(PEER, clock_s=999.0), 99.0)
    _, found = judge_peer(OWN, heard, NAMES, TAKEOVER_S, Differing({Condition.CLOCKS_DIFFER: 0.0}), 100.0)
    assert (Condition.CLOCKS_DIFFER, True, "the clocks agree") in found


@pytest.mark.parametrize("lasts_s", [0.0, 5.0])
def test_the_last_word_of_a_dead_primary_makes_no_second_one(lasts_s: float) -> None:
    """This node has taken over meanwhile."""
    heard = Heard({"eth2": 100.0}, replace(PEER, role=Role.PRIMARY), 100.0)
    before = Differing()
    for now_s in (100.1, 101.3, 101.3 + lasts_s):
        before, found = judge_peer(OWN, heard, NAMES, TAKEOVER_S, before, now_s)
        assert not [text for _, ok, text in found if not ok]


def test_of_a_peer_that_is_not_heard_only_what_this_node_disproves_is_said() -> None:
    before = Differing({Condition.RULES_DIFFER: 90.0})
    silent = Heard({"eth2": 100.0}, replace(PEER, rules="c"), 100.0)
    for role, over in ((Role.PRIMARY, Condition.NEITHER_PRIMARY), (Role.BACKUP, Condition.SPLIT_BRAIN)):
        own = replace(OWN, role=role)
        for heard in (silent, Heard({"eth2": 0.0})):
            kept, found = judge_peer(own, heard, NAMES, TAKEOVER_S, before, 100.1 + SILENT_S)
            assert kept == before
            assert [(condition, ok) for condition, ok, _ in found] == [(over, True)]


def test_a_backup_whose_states_are_on_their_way_does_not_differ() -> None:
    for ready in (False, None):
        assert judged(replace(PEER, ready=ready, states={"tcp": 0})) == {}
    assert judged(replace(PEER, states={})) == {}, "it does not count them"


def test_a_role_that_is_not_known_is_not_the_absence_of_one() -> None:
    assert judged(replace(PEER, role=Role.UNKNOWN), replace(OWN, role=Role.BACKUP)) == {}


@pytest.mark.parametrize(
    ("silent", "expected"),
    [
        ((), {Condition.PEER: True, Condition.PEER_PATH: True}),
        ({"eth2": "eth2"}, {Condition.PEER: True, Condition.PEER_PATH: False}),
        (("eth0",), {Condition.PEER: True, Condition.PEER_PATH: False}),
        (("eth0", "eth2"), {Condition.PEER: True, Condition.PEER_PATH: False}),
        (("eth0", "eth1", "eth2"), {Condition.PEER: False, Condition.PEER_PATH: True}),
    ],
)
def test_the_peer_and_a_link_are_two_sentences(
    silent: tuple[str, ...], expected: dict[Condition, bool]
) -> None:
    paths = {name: 90.0 if name in silent else 100.0 for name in ("eth2", "eth0", "eth1")}
    found = judge_paths(Heard(paths), "fw-2", {"eth2": "eth2"}, 100.0)
    assert {condition: ok for condition, ok, _ in found} == expected
    for condition, ok, text in found:
        if not ok and condition is Condition.PEER_PATH:
            assert text.startswith("the sync link" if "eth2" in silent else "a data link")


def test_a_path_by_a_tunnel_is_named_with_its_cable() -> None:
    sync = {"hafw-wg0": "hafw-wg0 (on eth2)", "hafw-wg1": "hafw-wg1 (on eth3)"}
    paths = {"hafw-wg0": 90.0, "hafw-wg1": 100.0, "eth0": 100.0}
    (_, _, text) = judge_paths(Heard(paths), "fw-2", sync, 100.0)[1]
    assert text == (
        "a sync link does not carry the agents' words (hafw-wg0 (on eth2)); fw-2 is heard by"
        " hafw-wg1 (on eth3), eth0"
    )
    (_, _, text) = judge_paths(Heard({"hafw-wg0": 1.0}), "fw-2", sync, 100.0)[0]
    assert text.endswith("is heard by no path (hafw-wg0 (on eth2))")


def test_a_peer_that_dies_makes_no_link_dead() -> None:
    """The last words came by one path after the other."""
    heard = Heard({"eth2": 100.0, "eth0": 100.3, "eth1": 99.7})
    for tenths in range(30):
        found = {
            condition: ok
            for condition, ok, _ in judge_paths(heard, "fw-2", {"eth2": "eth2"}, 100 + tenths / 10)
        }
        assert found[Condition.PEER_PATH]


def test_a_node_that_has_just_begun_to_listen_misses_nobody() -> None:
    begun = Heard({"eth2": 0.0, "eth0": 101.0}, since_s=100.0)
    assert all(ok for _, ok, _ in judge_paths(begun, "fw-2", {"eth2": "eth2"}, 101.0))
    nothing = Heard({"eth2": 0.0}, since_s=100.0)
    assert judge_paths(nothing, "fw-2", {"eth2": "eth2"}, 99.9 + SILENT_S)[0][1]
    assert not judge_paths(nothing, "fw-2", {"eth2": "eth2"}, 100.1 + SILENT_S)[0][1]


def test_without_a_link_of_both_nodes_nobody_is_heard() -> None:
    ((condition, ok, text),) = judge_paths(Heard({}), "fw-2", {"eth2": "eth2"}, 100.0)
    assert (condition, ok) == (Condition.PEER, False)
    assert "no link has addresses" in text


# -- both were primary --


def split(
    *, own: NodeStatus = OWN, peer: NodeStatus = PEER, told_s: float = 0.0, at_s: float = 100.0
) -> tuple[float, str]:
    return judge_split(own, Heard({"eth2": at_s}, peer, at_s), NAMES, told_s, at_s)


STAYS = replace(OWN, role=Role.PRIMARY, role_s=20.0)
YIELDS = replace(PEER, role=Role.BACKUP, role_s=0.5, ceased_s=0.5, served_s=30.0)


@pytest.mark.parametrize("swapped", [False, True])
def test_both_nodes_learn_that_both_were_primary(swapped: bool) -> None:
    own, peer = (YIELDS, STAYS) if swapped else (STAYS, YIELDS)
    told_s, text = split(own=own, peer=peer)
    assert told_s == 99.5
    stays, yields = reversed(NAMES) if swapped else NAMES
    assert text == f"both nodes were primary for 19.5 s; {stays} still is, {yields} is not"
    later = replace(YIELDS, served_s=7.0)
    _, text = split(own=later, peer=peer) if swapped else split(own=own, peer=later)
    assert text.startswith("both nodes were primary for 7.0 s"), "one of them was so long before"


@pytest.mark.parametrize("later_s", [0.4, 60.0])
@pytest.mark.parametrize("delay_s", [0.0, 0.9])
def test_of_one_split_they_learn_once(later_s: float, delay_s: float) -> None:
    told_s, _ = split(own=STAYS, peer=YIELDS)
    later = [
        replace(STAYS, role_s=20.0 + later_s),
        replace(YIELDS, role_s=0.5 + later_s, ceased_s=0.5 + later_s - delay_s),
    ]
    again = split(own=later[0], peer=later[1], told_s=told_s, at_s=100.0 + later_s)
    assert again == (told_s, "")


def test_of_the_next_split_they_learn_too() -> None:
    told_s, _ = split(own=STAYS, peer=YIELDS)
    own, peer = replace(STAYS, role_s=50.0), replace(YIELDS, ceased_s=0.5)
    assert split(own=own, peer=peer, told_s=told_s, at_s=130.0)[1]


@pytest.mark.parametrize(
    ("own", "peer"),
    [
        (STAYS, replace(YIELDS, ceased_s=None)),
        (STAYS, replace(YIELDS, served_s=None)),
        (STAYS, replace(YIELDS, served_s=SPLIT_S * 0.9)),
        (STAYS, replace(YIELDS, ceased_s=20.0)),
        (STAYS, replace(YIELDS, ceased_s=20.0 - SPLIT_S * 0.9)),
        (STAYS, replace(YIELDS, role=Role.FAULT)),
        (STAYS, replace(YIELDS, role=Role.PRIMARY)),
        (replace(STAYS, role=Role.FAULT), YIELDS),
    ],
    ids=[
        "it was never primary",
        "it does not say for how long",
        "a takeover that was taken back at once",
        "one after the other",
        "a moment after the other",
        "out of service",
        "it lasts",
        "no primary",
    ],
)
def test_what_is_no_split_that_has_ended(own: NodeStatus, peer: NodeStatus) -> None:
    assert split(own=own, peer=peer) == (0.0, "")


def test_of_a_silent_peer_nobody_knows_whether_it_is_still_there() -> None:
    heard = Heard({"eth2": 100.0}, YIELDS, 100.0)
    assert judge_split(STAYS, heard, NAMES, 0.0, 100.1 + SILENT_S) == (0.0, "")
    assert judge_split(STAYS, Heard({"eth2": 0.0}), NAMES, 0.0, 1.0) == (0.0, "")


def told(since_s: float, peer: NodeStatus) -> list[tuple[float, NodeStatus]]:
    """When the peer speaks, at the worst moments: just before `since_s`, when what it says is not so yet,
    and from then on once in a turn."""
    turns = [since_s + turn * (TOLD_S + BUSY_S) for turn in range(20)]
    return [(turns[0] - BUSY_S, PEER), *((turn, peer) for turn in turns[1:])]


BUSY_S = 0.01
"""What a turn takes on top of its pause."""
WITHIN_S = 2.0


def test_what_differs_is_said_within_two_seconds() -> None:
    other = replace(PEER, role=Role.PRIMARY, pair_file="c", rules="c", versions={"hafw": "2"}, clock_s=1e6)
    begun: dict[Condition, float] = {}
    before = Differing()
    words = told(100.0, other)
    for turn in range(20):  # this node looks just before a word comes
        now_s = 100.0 + turn * (TOLD_S + BUSY_S) - BUSY_S / 2
        at_s, status = [one for one in words if one[0] <= now_s][-1]
        before, found = judge_peer(
            OWN, Heard({"eth2": at_s}, status, at_s), NAMES, TAKEOVER_S, before, now_s
        )
        for condition, ok, _ in found:
            if not ok:
                begun.setdefault(condition, now_s - 100.0)
    assert {*begun} == {
        Condition.SPLIT_BRAIN,
        Condition.PAIR_FILES_DIFFER,
        Condition.RULES_DIFFER,
        Condition.VERSIONS_DIFFER,
        Condition.CLOCKS_DIFFER,
    }
    assert max(begun.values()) <= WITHIN_S


def test_who_is_silent_is_missed_within_two_seconds() -> None:
    longest_s = SILENT_S + TOLD_S + BUSY_S
    assert not judge_paths(Heard({"eth2": 100.0}), "fw-2", {"eth2": "eth2"}, 100.0 + longest_s)[0][1]
    assert longest_s <= WITHIN_S
    dead_link = Heard({"eth2": 100.0, "eth0": 100.0 + longest_s})
    assert not judge_paths(dead_link, "fw-2", {"eth2": "eth2"}, 100.0 + longest_s)[1][1]
