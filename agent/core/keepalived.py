# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether keepalived runs, is heard, and with all of its instances. Pure."""

from collections.abc import Mapping

from agent.core.conditions import Condition, Finding

_OF_THE_LIVING = (
    Condition.BUS,
    Condition.INSTANCES,
    Condition.INSTANCES_FORGOTTEN,
    Condition.KEEPALIVED_STOPPED,
    Condition.PID_FILE,
)
"""What is said of a keepalived that runs."""
NOT_RUNNING: tuple[Finding, ...] = tuple(
    (condition, True, "keepalived is not running") for condition in _OF_THE_LIVING
)


def judge_bus(*, owned: bool, connected: bool, hung: bool) -> Finding:
    """`owned`: keepalived has its name on the system bus."""
    heard = owned and not hung
    text = "keepalived is heard on the system bus" if heard else _bus_text(connected, hung)
    return Condition.BUS, heard, text


def _bus_text(connected: bool, hung: bool) -> str:
    if hung:
        return "the system bus does not answer; hook and addresses are followed"
    if connected:
        return (
            "keepalived is not heard on the system bus; hook and addresses are followed, "
            "only its restart helps"
        )
    return "the system bus is not available; hook and addresses are followed"


def judge_instances(silent: Mapping[str, str], proven: bool) -> tuple[Finding, ...]:
    """`proven`: by all addresses, and by a keepalived that answers, this node is primary all the same."""
    complete = "every instance of the pair answers on the system bus"
    named = ", ".join(f"{label}: {reason}" for label, reason in sorted(silent.items()))
    critical = (
        f"not every instance of the pair answers on the system bus: {named}; if keepalived.conf has it, "
        "keepalived has forgotten its object: restart keepalived"
    )
    forgotten = (
        f"keepalived has forgotten the object of an instance on the system bus ({named}); this node has all "
        "addresses and serves. A restart of keepalived brings it back: on the backup first; on this primary "
        "it is a failover"
    )
    return (
        (Condition.INSTANCES, not silent or proven, critical if silent and not proven else complete),
        (
            Condition.INSTANCES_FORGOTTEN,
            not (silent and proven),
            forgotten if silent and proven else complete,
        ),
    )


def judge_process(pid: int | None, state: str) -> Finding:
    """`state`: the kernel's letter for it."""
    runs = state not in "Tt"
    stopped = "is stopped (SIGSTOP?): it neither sends nor hears advertisements; kill -CONT"
    text = f"keepalived's VRRP process {pid} " + ("runs" if runs else f"{stopped} {pid}")
    return Condition.KEEPALIVED_STOPPED, runs, text


def judge_pid_file(path: str, pid: int, right: bool) -> Finding:
    verb = "names" if right else "does not name"
    return Condition.PID_FILE, right, f"{path} {verb} keepalived's VRRP process {pid}"


def judge_halted(halted: Mapping[int, str] | None) -> Finding:
    """Without a main process there is nothing that could be stopped."""
    if not halted:
        return Condition.KEEPALIVED_MAIN, True, "keepalived's main process runs, and its children"
    stopped = " ".join(str(pid) for pid, state in sorted(halted.items()) if state != "Z")
    ended = " ".join(str(pid) for pid, state in sorted(halted.items()) if state == "Z")
    parts = []
    if stopped:
        parts.append(
            f"keepalived's process {stopped} is stopped (SIGSTOP?): it ignores reload and stop, "
            f"and restarts nothing that dies; kill -CONT {stopped}"
        )
    if ended:
        parts.append(
            f"keepalived's process {ended} has ended, and its main process has not noticed; "
            "restart keepalived if that lasts"
        )
    return Condition.KEEPALIVED_MAIN, False, "; ".join(parts)
