# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold on both firewalls once a trouble is over, and the means to look at it: records, processes,
live connections, and a turnstile that stops an agent between two of its actions."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from agent.config import loader
from agent.model.pair import Pair
from agent.paths import Paths
from agent.rules.compile import compile_pair
from hafw_lab.client.lab import Fault, FaultKind, Lab, NodeStatus
from hafw_lab.client.node import Node
from hafw_lab.client.records import Record, parse_records
from hafw_lab.measure.timeline import keepalived_moments
from hafw_lab.traffic.session import Traffic, start_traffic

SERVER = "192.168.0.3"
SYSLOG = "/var/log/syslog"
LOG = str(Paths().log_file)
LINK_FAULT = Fault(FaultKind.LINK, "eth1")
_OF_KEEPALIVED = {"primary": "MASTER", "backup": "BACKUP"}


def until(what: Callable[[], bool], timeout_s: float, text: Callable[[], object] | str) -> None:
    """Ask until it is so; the things asked here give no notice."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, text if isinstance(text, str) else text()
        select.select([], [], [], 0.02)


# -- records --


def records(node: Node, since_ns: int = 0) -> list[Record]:
    """The agent's records from `since_ns` (CLOCK_MONOTONIC) on."""
    return [one for one in parse_records(node.read_text(LOG)) if _moment(one) >= since_ns]


def find(found: Sequence[Record], **wanted: object) -> list[Record]:
    """Those with all of these values."""
    return [one for one in found if all(one.get(name) == value for name, value in wanted.items())]


def wait_record(node: Node, since_ns: int, timeout_s: float, **wanted: object) -> Record:
    until(
        lambda: bool(find(records(node, since_ns), **wanted)),
        timeout_s,
        lambda: (
            f"{node.name} recorded no {wanted}, but "
            f"{[one.get('message') for one in records(node, since_ns)]}"
        ),
    )
    return find(records(node, since_ns), **wanted)[0]


def steps(found: Sequence[Record]) -> list[str]:
    return [str(one["step"]) for one in found if one["event"] == "step"]


def _moment(record: Record) -> int:
    moment = record.get("mono_ns")
    assert isinstance(moment, int), record
    return moment


def find_overlaps(found: Sequence[Record]) -> list[str]:
    """Steps that ran at the same time. An abandoned one was only no longer waited for."""
    spans = sorted(
        (_moment(one) - round(float(str(one["duration_ms"])) * 1e6), _moment(one), str(one["step"]))
        for one in found
        if one["event"] == "step" and one["result"] != "abandoned"
    )
    rounding_ns = 1000
    return [
        f"{first[2]} and {second[2]}"
        for first, second in pairwise(spans)
        if second[0] < first[1] - rounding_ns
    ]


def repair(lab: Lab) -> None:
    """Whatever a failed test has left broken or stopped."""
    for name in lab.firewalls:
        lab.heal(name)
        for service in ("agent", "conntrackd"):
            lab.node(name).signal_service(service, signal.SIGCONT)
    wait_quiet(lab)


def wait_quiet(lab: Lab) -> str:
    """Until both agents have done everything, also what need not be done at once. Returns the primary."""
    primary = lab.wait_primary(None, 30)
    for name in lab.firewalls:
        last = "SendBulk" if name == primary else "SetReadiness"
        until(partial(_has_finished, lab.node(name), last), 40, f"{name} comes to no {last}")
    return primary


def _has_finished(node: Node, last: str) -> bool:
    """`last` is the newest step, and was done since the newest transition or start."""
    found = records(node)
    marks = [number for number, one in enumerate(found) if one["event"] in ("transition", "started")]
    newest = max(marks, default=-1)
    return steps(found[newest + 1 :])[-1:] == [last]


# -- the pair --


def flush_rules(node: Node) -> None:
    """`nft flush ruleset`, which the agent must notice and repair within a second, and say once."""
    begun = time.monotonic_ns()
    node.run(["nft", "flush", "ruleset"])
    flushed = time.monotonic_ns()  # the program's own start takes long on a busy machine
    alarm = wait_record(node, begun, 5, event="alarm", condition="rules")
    repaired = wait_record(node, begun, 5, event="recovered", condition="rules")
    assert "is gone" in str(alarm["message"])
    assert _moment(repaired) - flushed < 1_000_000_000
    assert len(find(records(node, begun), event="alarm", condition="rules")) == 1


def assert_consistent(
    lab: Lab, since_ns: int, *, allowed: Collection[str] = (), timeout_s: float = 30
) -> None:
    """Role = keepalived's state, rules and gate = the role's, nothing runs that should not, and no two steps
    ran at the same time. `allowed`: the conditions that may (not must) be open on either node."""
    problems: list[str] = []

    def is_so() -> bool:
        problems[:] = find_problems(lab, allowed)
        return not problems

    until(is_so, timeout_s, lambda: f"the pair is not consistent: {problems}")
    for name in lab.firewalls:
        overlaps = find_overlaps(records(lab.node(name), since_ns))
        assert not overlaps, f"{name} did at the same time: {overlaps}"


def find_problems(lab: Lab, allowed: Collection[str] = ()) -> list[str]:
    status = lab.status()
    if status.primary is None:
        return ["there is no primary"]
    return [
        f"{name}: {problem}"
        for name in lab.firewalls
        for problem in _find_problems(
            lab, status.node(name), "primary" if name == status.primary else "backup", allowed
        )
    ]


def _find_problems(lab: Lab, status: NodeStatus, role: str, allowed: Collection[str]) -> Iterator[str]:
    node, said = lab.node(status.name), status.agent
    if said is None:
        yield "the agent is silent"
        return
    if "error" in said:  # as just after its start, when nothing listens yet
        yield f"the agent gives no status: {said['error']}"
        return
    rules, keepalived = said["rules"], said["keepalived"]
    seen = {
        "role": (said["role"], role),
        "addresses": (sorted(status.vips), sorted(lab.vips) if role == "primary" else []),
        "keepalived's last word": (keepalived_words(node), {_OF_KEEPALIVED[role]}),
        "rules": ((rules.get("loaded"), rules.get("intact")), (role, True)),
        "hash": (rules.get("hash"), expected_digest(node)),
        "gate by status": (said["gate"], "open" if role == "primary" else "closed"),
        "gate by nft": (gate_is_open(node), role == "primary"),
        "processes": (find_strangers(node, status), []),
        "problems": (sorted(set(said["problems"]) - set(allowed)), []),
    }
    if keepalived["bus"] == "heard":
        seen["state on the bus"] = (keepalived["bus_states"], [_OF_KEEPALIVED[role]])
    for what, (found, wanted) in seen.items():
        if found != wanted:
            yield f"{what}: {found}, not {wanted}"


def keepalived_words(node: Node) -> set[str]:
    """The newest state of each instance, as keepalived logged it."""
    newest: dict[str, str] = {}
    for moment in keepalived_moments(node.read_text(SYSLOG), node.name):
        instance, state = moment.what.removeprefix("keepalived: ").split(" is ")
        newest[instance] = state
    return set(newest.values())


def expected_digest(node: Node) -> str:
    """Of the rules that the node's pair file asks for, made here from nothing."""
    return rules_digest(loader.parse(node.read_text(Paths().pair_file), "the pair file"))


def rules_digest(pair: Pair) -> str:
    return compile_pair(pair).digest


def gate_is_open(node: Node) -> bool:
    """What closes it is there, or it is not."""
    text = node.run(["nft", "list", "table", "inet", "hafw-gate"]).stdout
    closing = [chain in text for chain in ("chain gate {", "chain role {")]
    assert len(set(closing)) == 1, text
    return not any(closing)


def find_strangers(node: Node, status: NodeStatus) -> list[str]:
    """Processes of the node that are neither its init, nor a service, nor keepalived's VRRP process, nor
    were sent in from outside (those have a session that the node cannot see)."""
    services = {service.pid for service in status.services.values()}
    found = []
    for place in Path(f"/proc/{node.pid}/root/proc").glob("[0-9]*"):
        try:
            name, _, rest = (place / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # it ended meanwhile
            continue
        state, parent, _, session = rest.split()[:4]
        pid = int(place.name)
        vrrp = name.startswith("keepalived") and status.services["keepalived"].pid == int(parent)
        if pid != 1 and pid not in services and session != "0" and not vrrp:
            found.append(f"{name} ({pid}, {state})")
    return found


# -- live connections --


@contextlib.contextmanager
def living(lab: Lab, connections: int = 2) -> Iterator[Traffic]:
    """Connections through the pair that must live through the block, and flow again at its end."""
    with start_traffic(lab.node("client"), lab.node("omarine"), SERVER) as traffic:
        assert len(traffic.open(connections)) == connections
        assert_flows(traffic, connections)
        yield traffic
        assert_flows(traffic, connections)
        assert all(one.survived for one in traffic.report().connections)


def assert_flows(traffic: Traffic, connections: int = 2, timeout_s: float = 15) -> None:
    until(
        lambda: traffic.snapshot().alive() == connections,
        timeout_s,
        lambda: f"only {traffic.snapshot().alive()} of {connections} connections flow",
    )


# -- an agent that is stopped --


class Turnstile:
    """Lets the records of a node's agent through one by one; before each of them the agent is stopped.

    Hard facts: the agent opens its log again for every record, and opening a FIFO for writing waits until
    somebody opens it for reading. Which FIFO that is was settled when the agent began to wait, so another
    one takes its place before the first gets its reader; the record after it waits there.
    """

    _OPENING = hex(os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

    def __init__(self, node: Node) -> None:
        self._node = node
        self._log = Path(f"/proc/{node.pid}/root{LOG}")
        self._plain = self._log.with_suffix(".plain")

    def __enter__(self) -> "Turnstile":
        os.link(self._log, self._plain)
        self._put_fifo()
        return self

    def __exit__(self, *_: object) -> None:
        """The plain log again; the record that waits, if one does, goes into it, as do all later ones."""
        waiting = self._is_waiting()
        old = os.open(self._log, os.O_PATH)
        os.replace(self._plain, self._log)
        if waiting:
            with self._log.open("ab") as log:
                log.write(self._read(old))
        os.close(old)

    def wait(self, timeout_s: float = 20) -> None:
        """Until the agent has come to its next record."""
        until(self._is_waiting, timeout_s, f"the agent of {self._node.name} comes to no further record")

    def let_one_through(self) -> Record:
        self.wait()
        old = os.open(self._log, os.O_PATH)
        self._put_fifo()
        line = self._read(old)
        os.close(old)
        with self._plain.open("ab") as log:
            log.write(line)
        return parse_records(line.decode())[0]

    def _put_fifo(self) -> None:
        fresh = self._log.with_suffix(".fifo")
        os.mkfifo(fresh)
        os.replace(fresh, self._log)

    def _is_waiting(self) -> bool:
        pid = self._node.service_pid("agent")
        if pid is None:
            return False
        call = Path(f"/proc/{self._node.pid}/root/proc/{pid}/syscall").read_text()
        return self._OPENING in call.split()

    @staticmethod
    def _read(fifo: int) -> bytes:
        """One record, from the writer that waits."""
        reader = os.open(f"/proc/self/fd/{fifo}", os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert select.select([reader], [], [], 5)[0], "nobody writes into the FIFO"
            return os.read(reader, 1 << 16)
        finally:
            os.close(reader)
