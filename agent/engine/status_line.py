"""One line on how this node is, for `systemctl status`. Pure."""

from agent.core.roles import Role
from agent.core.state import Phase, State


def status_line(state: State) -> str:
    """Such as "backup, gate closed, the peer's states are in, all well"."""
    if state.role is Role.UNKNOWN:
        return "starting, nothing is known yet"
    gate = "open" if state.phase.is_open else "closed"
    unwell = ", ".join(sorted(condition.value for condition in state.unwell))
    health = f"not well: {unwell}" if unwell else "all well"
    return ", ".join((state.role.value, f"gate {gate}", *_states(state), health))


def _states(state: State) -> tuple[str, ...]:
    """What is known of the connection states."""
    if state.phase is Phase.PREPARING:
        return ("waiting for the states to be usable",)
    if state.phase is Phase.HOLDING:
        return ("the states cannot be had",)
    if state.role is not Role.BACKUP or state.ready is None:
        return ()
    return ("the peer's states are in" if state.ready else "the peer's states are not in yet",)
