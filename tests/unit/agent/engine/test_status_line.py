# SPDX-License-Identifier: GPL-2.0-or-later
"""The line of `systemctl status`."""

import pytest

from agent.core.conditions import Condition
from agent.core.roles import Role
from agent.core.state import Phase, State
from agent.engine.status_line import status_line


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (State(), "starting"),
        (State(phase=Phase.SERVING, role=Role.PRIMARY, ready=True), "primary, gate open, no problems"),
        (
            State(phase=Phase.FOLLOWING, role=Role.BACKUP, ready=True),
            "backup, gate closed, the peer's states are here, no problems",
        ),
        (
            State(
                phase=Phase.FOLLOWING,
                role=Role.BACKUP,
                ready=False,
                problems={Condition.CONNTRACKD: "gone", Condition.BUS: "gone"},
            ),
            "backup, gate closed, the peer's states are not here yet, problems: bus, conntrackd",
        ),
        (
            State(phase=Phase.PREPARING, role=Role.PRIMARY),
            "primary, gate closed, waiting for the states to be usable, no problems",
        ),
        (State(phase=Phase.FOLLOWING, role=Role.STOPPED), "stopped, gate closed, no problems"),
    ],
)
def test_one_line(state: State, line: str) -> None:
    assert status_line(state) == line
