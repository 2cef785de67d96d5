# SPDX-License-Identifier: GPL-2.0-or-later
"""Values for every field that a decision of the core could hang on: of settings, the state and events."""

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args

from agent.core.actions import Action, CommitStates, Committed, Outcome, Timer
from agent.core.conditions import Condition
from agent.core.coverage import Coverage
from agent.core.events import ActionDone, Event, QueryResult
from agent.core.plan import Settings
from agent.core.roles import Role, RuleSet, Standing
from agent.core.state import Phase, State
from agent.model.pair import AfterLimit, SyncMode

NOW = 60_000_000_000
LIMIT_S = 10.0
TIMES = (1, NOW, 2 * NOW)
WORDS = ("", "words", "other words")
BOTH = (False, True)

VALUES: Mapping[str | Condition, tuple[Any, ...]] = {
    "mode": tuple(SyncMode),
    "limit_s": (LIMIT_S, 3.0),
    "then": tuple(AfterLimit),
    "refresh_s": (None, 5.0),
    "shortest_timeout_s": (30.0, 3.0),
    "repair": BOTH,
    "helpers": BOTH,
    "takeover_s": (0.4, 4.0),
    "preempt": BOTH,
    "role": tuple(Role),
    "loaded": (None, *RuleSet),
    "whole": BOTH,
    "promoted_ns": (NOW - int(2 * LIMIT_S * 1e9), NOW - int(LIMIT_S / 2 * 1e9)),
    "commits": (0, 1, 2),
    "flushed": BOTH,
    "touched": (0, 10, 1_000_000),
    "problems": BOTH,  # whether there are any; which ones: the conditions below
    "ready": (None, *BOTH),
    "reading": BOTH,
    "owed": BOTH,
    "marked": BOTH,
    "committing": BOTH,
    "put_ns": (0, 2),  # before and after an event at 1
    "asked_ns": (0, NOW - 1_000_000_000),
    "kernel": (0, 1_000_000),
    "unclean": BOTH,
    "emptied": BOTH,
    "handover_ns": (0, NOW - 1_000_000_000),
    "standing": tuple(Standing),
    "exact_ns": (0, NOW + 1),
    "outside": (None, 0, 50),
    "suspicions": (0, 1, 9),
    "asked": BOTH,
    "not_before_ns": (0, NOW + 1),
    **dict.fromkeys(Condition, BOTH),
}
"""Of the pair file and of the state, beside its phase."""

OF_PARTS: dict[str, tuple[Any, ...]] = {
    "rules": tuple(RuleSet),
    "limit_s": (0.01, 0.02),
    "timeout_s": (1.0, LIMIT_S),
    "after_s": (0.05, 1.0),
    "timer": tuple(Timer),
    "standing": tuple(Standing),
    **dict.fromkeys(("late", "routine", "ready", "owed", "skipped", "peer_heard", "all_seen"), BOTH),
    **dict.fromkeys(("expected", "committed"), (4, 10)),
    "failed": (0, 6),
    "evidence": ("log", "counters"),
    **dict.fromkeys(("states", "before", "after", "kernel", "expectations"), (10, 60_000)),
    "losses": ("", "6 messages were lost"),
    **dict.fromkeys(("touched", "missing", "ended"), (0, 6)),
    "rounds": (1, 2),
    "reason": ("", "the agent of fw-1 is not heard"),
}
"""Of actions and their outcomes."""


TOGETHER = ("rounds", "touched", "ended")
"""What is only told: varied, and not each beside each."""


def all_of(kind: type) -> Iterator[Any]:
    every = [field.name for field in fields(kind)]
    names = [name for name in every if name not in TOGETHER]
    told = [name for name in every if name in TOGETHER]
    for values in itertools.product(*(OF_PARTS[name] for name in names)):
        for number in range(2 if told else 1):
            same = {name: OF_PARTS[name][number] for name in told}
            yield kind(**dict(zip(names, values, strict=True)), **same)


ACTIONS = tuple(itertools.chain.from_iterable(map(all_of, get_args(Action))))
OUTCOMES = tuple(itertools.chain.from_iterable(map(all_of, get_args(Outcome))))

OF_EVENTS: dict[str, tuple[Any, ...]] = {
    "at_ns": TIMES,
    "noticed_ns": TIMES,
    "loaded": (None, *RuleSet),
    "owed": BOTH,
    "standing": tuple(Standing),
    "role": tuple(Role),
    "trigger": ("start", "netlink", "notify INSTANCE wan MASTER", "keepalived"),
    "condition": tuple(Condition),
    "answer": tuple(QueryResult),
    "timer": tuple(Timer),
    **dict.fromkeys(("what", "text", "reason"), WORDS),
    **dict.fromkeys(("ok", "retryable"), BOTH),
    **dict.fromkeys(("kernel", "cached"), (10, 60_000)),
    "action": ACTIONS,
    "outcome": (None, *OUTCOMES),
}

Row = dict[str | Condition, Any]


def every_row() -> list[Row]:
    """So many that every value of a field occurs with every value of every other field."""
    chance = random.Random(10)
    left = {
        (one, first, other, second)
        for one, other in itertools.combinations(VALUES, 2)
        for first, second in itertools.product(VALUES[one], VALUES[other])
    }
    rows = []
    while left:
        rows.append(some_row(chance))
        left -= {(*one, *other) for one, other in itertools.combinations(rows[-1].items(), 2)}
    return [*rows, *(some_row(chance) | GOOD_BACKUP | {"loaded": rules} for rules in RuleSet)]


GOOD_BACKUP: Row = {
    "mode": SyncMode.DIRECT,
    "role": Role.BACKUP,
    "whole": True,
    "ready": True,
    "unclean": False,
}
"""All of it at once is too rare to be drawn; with either rules, since a handover opens its gate."""


def some_row(chance: random.Random) -> Row:
    return {name: chance.choice(values) for name, values in VALUES.items()}


def some_events(chance: random.Random) -> Iterator[Event]:
    """Of each class one for every value of the field after `at_ns`, and one for every outcome; the other
    fields are drawn."""
    for kind in get_args(Event):
        names = [field.name for field in fields(kind)]
        lead = names[:2][-1]
        for value in OF_EVENTS[lead]:
            yield kind(**{name: chance.choice(OF_EVENTS[name]) for name in names} | {lead: value})
        if kind is ActionDone:
            for outcome in OF_EVENTS["outcome"]:
                yield ActionDone(chance.choice(TIMES), chance.choice(ACTIONS), outcome)


def settings_of(row: Row) -> Settings:
    return Settings(**{field.name: row[field.name] for field in fields(Settings)})


def state_of(phase: Phase, row: Row) -> State:
    plain = {field.name: row[field.name] for field in fields(State) if field.name in row}
    coverage = Coverage(**{field.name: row[field.name] for field in fields(Coverage)})
    problems = {condition: "words" for condition in Condition if row["problems"] and row[condition]}
    return State(**plain | {"phase": phase, "coverage": coverage, "problems": problems})


def other_row(row: Row, kept: set[Any], chance: random.Random) -> Row:
    return {name: row[name] if name in kept else value for name, value in some_row(chance).items()}


def other_event(value: Any, kept: Mapping[type, set[str]], chance: random.Random) -> Any:
    """With other values in all fields, of the event and of its action and outcome, but the `kept` ones."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    drawn = OF_EVENTS if isinstance(value, Event) else OF_PARTS
    return replace(
        value,
        **{
            field.name: other_event(getattr(value, field.name), kept, chance)
            if field.name in kept.get(type(value), ())
            else chance.choice(drawn[field.name])
            for field in fields(value)
        },
    )


def every_run() -> Iterator[tuple[Row, tuple[Event, ...]]]:
    """Each row has events of its own; among them is every end of a commit."""
    chance = random.Random(14)
    rows = every_row()
    ends = tuple(
        ActionDone(NOW, commit, outcome)
        for commit, outcome in itertools.product(all_of(CommitStates), all_of(Committed))
    )
    for number, row in enumerate(rows):
        yield row, (*some_events(chance), *ends[number :: len(rows)])


RUNS = tuple(every_run())
