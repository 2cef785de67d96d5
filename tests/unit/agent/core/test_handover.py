# SPDX-License-Identifier: GPL-2.0-or-later
"""What speaks against a planned handover."""

from dataclasses import replace

import pytest

from agent.core.actions import LoadRules, Plan, SetStanding, SwitchRules
from agent.core.handover import (
    AGAIN_S,
    SETTLED_S,
    find_objections,
    find_objections_of_peer,
    find_objections_to_return,
    plan_last,
    why_not_expected,
    why_refused,
)
from agent.core.peer import SILENT_S, Heard, NodeStatus
from agent.core.plan import HANDOVER_MARGIN_S, Settings
from agent.core.roles import Role, RuleSet, Standing
from agent.core.state import Phase, State
from agent.model.pair import SyncMode

NAMES, SYNC, NOW_S = ("fw-1", "fw-2"), "eth2", 100.0
OWN = NodeStatus(Role.PRIMARY, 10.0, True, 1000.0, ready=True, pair_file="a", rules="b")
PEER = replace(OWN, role=Role.BACKUP, gate_open=False)
BACKUP = State(Phase.FOLLOWING, Role.BACKUP, RuleSet.BACKUP, whole=True, ready=True)


def reasons(
    peer: NodeStatus | None = PEER,
    own: NodeStatus = OWN,
    *,
    paths: dict[str, float] | None = None,
    mode: SyncMode = SyncMode.DIRECT,
) -> str:
    heard = Heard(paths or {SYNC: NOW_S, "eth0": NOW_S}, peer, NOW_S)
    found = find_objections(own, heard, NAMES, {SYNC: SYNC}, mode, NOW_S)
    assert all(one.reason and one.loss and "{" not in one.loss for one in found)
    return "; ".join(one.reason for one in found)


def test_a_good_pair_may_hand_over() -> None:
    assert reasons() == ""


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (None, "the agent of fw-2 is not heard"),
        (replace(PEER, role=Role.FAULT), "fw-2 is not backup but fault"),
        (replace(PEER, ready=False), "fw-2 has not got all states yet"),
        (replace(PEER, ready=None), "fw-2 has not got all states yet"),
        (replace(PEER, rules=""), "the rules of fw-2 are not in force"),
        (replace(PEER, rules="c"), "fw-2 has another pair file or other rules"),
        (replace(PEER, pair_file="c"), "fw-2 has another pair file or other rules"),
        (replace(PEER, problems=("keepalived", "song")), "fw-2 has the problem keepalived"),
        (replace(PEER, role_s=SETTLED_S / 2), "fw-2 is backup for 1.5 s only"),
    ],
)
def test_a_peer_that_would_lose_something_is_named_with_the_reason(
    peer: NodeStatus | None, words: str
) -> None:
    assert reasons(peer) == words


def test_problems_that_lose_nothing_do_not_matter() -> None:
    problems = ("clocks-differ", "versions-differ", "a-problem-of-later-versions")
    assert reasons(replace(PEER, problems=problems), replace(OWN, problems=problems)) == ""


def test_what_is_wrong_here_is_said_as_well() -> None:
    assert (
        reasons(own=replace(OWN, problems=("states-differ",))) == "this node has the problem states-differ"
    )
    assert reasons(own=replace(OWN, role_s=1.0)) == "fw-1 is primary for 1.0 s only"
    assert "cache mode" in reasons(mode=SyncMode.CACHE)


def test_states_come_by_the_sync_link() -> None:
    old_s = NOW_S - 2 * SILENT_S
    assert "by the sync link (eth2)" in reasons(paths={SYNC: old_s, "eth0": NOW_S})
    assert reasons(paths={SYNC: NOW_S, "eth0": old_s}) == ""


def test_a_silent_peer_is_not_judged_by_its_last_word() -> None:
    heard = Heard({SYNC: NOW_S - 2 * SILENT_S}, replace(PEER, ready=False), NOW_S - 2 * SILENT_S)
    (found,) = find_objections(OWN, heard, NAMES, {SYNC: SYNC}, SyncMode.DIRECT, NOW_S)
    assert found.reason == "the agent of fw-2 is not heard"
    assert "fw-2 may become primary behind a closed gate" in found.loss
    assert "if fw-2 does not take over" in found.loss


@pytest.mark.parametrize(
    ("settings", "state", "words"),
    [
        (Settings(), BACKUP, None),
        (Settings(mode=SyncMode.CACHE), BACKUP, "in cache mode the states are outside its kernel"),
        (Settings(), replace(BACKUP, role=Role.PRIMARY), "it is not backup but primary"),
        (Settings(), replace(BACKUP, ready=None), "it has not got all states yet"),
        (
            Settings(),
            replace(BACKUP, unclean=True),
            "it has states of the time when both nodes were primary",
        ),
        (Settings(), replace(BACKUP, whole=False), "its rules are not in force"),
        (Settings(), replace(BACKUP, loaded=RuleSet.PRIMARY), "its rules are not in force"),
    ],
)
def test_a_backup_opens_only_what_it_can_serve(settings: Settings, state: State, words: str | None) -> None:
    assert why_not_expected(settings, state) == words


LONG_S = 1000.0


@pytest.mark.parametrize(
    ("asker", "opened_s", "words"),
    [
        (OWN, LONG_S, ""),
        (replace(OWN, role=Role.BACKUP), LONG_S, "the node that asks is not primary with an open gate"),
        (replace(OWN, gate_open=False), LONG_S, "the node that asks is not primary with an open gate"),
        (OWN, AGAIN_S, "its gate was opened for a handover just before"),
    ],
)
def test_a_gate_opens_for_a_primary_that_serves_and_not_all_the_time(
    asker: NodeStatus, opened_s: float, words: str
) -> None:
    refused = why_refused(Settings(), BACKUP, asker, opened_s) or ""
    assert refused.startswith(words)
    assert bool(refused) is bool(words)


@pytest.mark.parametrize("takeover_s", [0.4, 40.0])
def test_between_two_openings_the_gate_is_closed_for_a_while(takeover_s: float) -> None:
    settings = Settings(takeover_s=takeover_s)
    assert why_refused(settings, BACKUP, OWN, takeover_s + HANDOVER_MARGIN_S) is not None
    assert why_refused(settings, BACKUP, OWN, takeover_s + AGAIN_S) is None


CLOSE, TAKE_PART = SwitchRules(RuleSet.BACKUP), SetStanding(Standing.TAKES_PART)
GAVE_UP = State(Phase.HANDING, Role.BACKUP, RuleSet.PRIMARY, whole=True, standing=Standing.GIVES_UP)
STOOD_BACK = replace(GAVE_UP, standing=Standing.STANDS_BACK)


@pytest.mark.parametrize(
    ("settings", "state", "plan"),
    [
        (Settings(), BACKUP, ()),
        (Settings(), replace(GAVE_UP, phase=Phase.SERVING, role=Role.PRIMARY), ()),
        (Settings(), replace(BACKUP, phase=Phase.EXPECTING), (CLOSE,)),
        (Settings(), replace(BACKUP, phase=Phase.EXPECTING, whole=False), (LoadRules(RuleSet.BACKUP),)),
        (Settings(), GAVE_UP, (TAKE_PART, CLOSE)),
        (Settings(preempt=True), GAVE_UP, (SetStanding(Standing.STANDS_BACK), CLOSE)),
        (Settings(preempt=True), STOOD_BACK, (CLOSE,)),
        (Settings(), replace(GAVE_UP, role=Role.PRIMARY), (TAKE_PART,)),
    ],
)
def test_an_agent_that_ends_leaves_no_handover_behind(settings: Settings, state: State, plan: Plan) -> None:
    assert plan_last(settings, state) == plan


def of_peer(own: NodeStatus = PEER, peer: NodeStatus | None = OWN, heard_s: float = NOW_S) -> str:
    """Of a primary that is fw-2 here, against a handover to this node, fw-1."""
    heard = Heard({SYNC: heard_s}, peer, heard_s)
    return "; ".join(find_objections_of_peer(own, heard, NAMES, {SYNC: SYNC}, SyncMode.DIRECT, NOW_S))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (of_peer(), ""),
        (of_peer(replace(PEER, ready=False)), "fw-1 has not got all states yet"),
        (of_peer(replace(PEER, role_s=1.0)), "fw-1 is backup for 1.0 s only"),
        (of_peer(replace(PEER, problems=("rules",))), "fw-1 has the problem rules"),
        (of_peer(peer=replace(OWN, problems=("lost-events",))), "fw-2 has the problem lost-events"),
        (of_peer(peer=replace(OWN, role=Role.BACKUP)), "fw-2 is not primary but backup"),
        (of_peer(peer=None), "the agent of fw-2 is not heard"),
        (of_peer(heard_s=NOW_S - 2 * SILENT_S), "the agent of fw-2 is not heard"),
    ],
)
def test_a_backup_knows_what_its_primary_would_say(found: str, words: str) -> None:
    assert found == words


def test_a_primary_to_which_nothing_would_be_handed_back_is_known_before() -> None:
    assert find_objections_to_return(OWN, "fw-1") == ()
    assert find_objections_to_return(replace(OWN, problems=("clocks-differ",)), "fw-1") == ()
    found = find_objections_to_return(replace(OWN, problems=("fault",), maintenance="since now"), "fw-1")
    assert found == ("fw-1 is in maintenance since now", "fw-1 has the problem fault")
