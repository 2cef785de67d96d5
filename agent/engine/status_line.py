# SPDX-License-Identifier: GPL-2.0-or-later
"""One line on how this node is, for `systemctl status`. Pure."""

from agent.core.roles import Role
from agent.core.state import Phase, State


def status_line(state: State) -> str:
    """Such as "backup, gate closed, the peer's states are here, no problems"."""
    if state.role is Role.UNKNOWN:
        return "starting"
    gate = "open" if state.phase.is_open else "closed"
    problems = ", ".join(sorted(condition.value for condition in state.problems))
    health = f"problems: {problems}" if problems else "no problems"
    return ", ".join((state.role.value, f"gate {gate}", *_states(state), health))


def _states(state: State) -> tuple[str, ...]:
    """What is known of the connection states."""
    if state.phase is Phase.PREPARING:
        return ("waiting for the states to be usable",)
    if state.phase is Phase.HOLDING:
        return ("the states are not available",)
    if state.role is not Role.BACKUP or state.ready is None:
        return ()
    return ("the peer's states are here" if state.ready else "the peer's states are not here yet",)
