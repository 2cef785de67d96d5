# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench rejoin` measures what it says, with few states, and sees that states are missing."""

import time

import pytest

from hafw_lab.bench.rejoin import Method, measure_rejoin, put_in, start_rejoin, wait_whole
from hafw_lab.measure.failover import virtual_address
from hafw_lab.measure.states import state_lines
from hafw_lab.measure.tables import Comparison, open_table
from hafw_lab.model.fault import Fault, FaultKind
from hafw_lab.model.topology import DEFAULT

pytestmark = pytest.mark.netns
ADVERT_MS = 100
STATES = 400
SHORT_S = 5
"""For what would be there after less than a second if it came at all."""
LONG_S = 60


def silent(_: str) -> None:
    """Nobody watches."""


def test_a_whole_backup() -> None:
    said: list[str] = []
    with start_rejoin(Method.HAFW, STATES, ADVERT_MS, said.append) as trial:
        found = measure_rejoin(trial, Method.HAFW, LONG_S)
    assert found.whole_s is not None
    assert found.present == STATES
    assert (found.opened, found.survived) == (50, 50)
    text = "\n".join(said)
    assert "says that it is ready" in text
    assert "the backup has" in text


def test_missing_states_are_seen() -> None:
    with start_rejoin(Method.CONNTRACKD, STATES, ADVERT_MS, silent) as trial:
        primary, backup = trial.lab.node(trial.victim), trial.lab.node(trial.survivor)
        trial.lab.fail(trial.survivor, Fault(FaultKind.CONNTRACKD))
        put_in(primary, trial.setup, silent)
        with open_table(primary, DEFAULT) as there, open_table(backup, DEFAULT) as here:
            comparison = Comparison(there, here, there.list())

            def wait(limit_s: int) -> float | None:
                return wait_whole(comparison, there, here, time.monotonic_ns(), limit_s, silent)

            assert wait(SHORT_S) is None, "nothing replicates, and it is called whole"
            assert len(comparison.find_missing()[0]) == STATES
            trial.lab.heal(trial.survivor)
            assert wait(LONG_S) is not None
            assert not comparison.find_missing()[0]
            backup.run(["conntrack", "-D", *one_state()])
            assert wait(SHORT_S) is None, "one state is missing, and it is called whole"
            assert len(comparison.find_missing()[0]) == 1


def one_state() -> list[str]:
    """How `conntrack` names the first of those that were put in."""
    clients, servers = (virtual_address(DEFAULT, zone).network for zone in ("client", "server"))
    words = next(state_lines(clients, servers, None)).split()
    return [word for name in ("-p", "-s", "-d", "--sport") for word in (name, words[words.index(name) + 1])]
