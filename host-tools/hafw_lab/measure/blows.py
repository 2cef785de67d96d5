# SPDX-License-Identifier: GPL-2.0-or-later
"""One blow to a daemon of a pair under live connections: how long until both nodes are calm again, what each
of them said meanwhile, and what became of the connections.

Hard facts
* An agent says what is wrong after two polls in a row have seen it: up to 11 s after the blow. So a pair
  that is calm at once proves nothing; the calm must last.
* What lasts for less than that is in no status. The agent's records name what it has noticed at once: the
  death of keepalived, a change of the role, its own start.
* The parent of a keepalived that is killed takes its VRRP process along, which two signals at one moment do
  not leave time for: the parent gets its own first.
"""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from agent.paths import Paths
from hafw_lab.client.lab import Lab, LabStatus, NodeStatus
from hafw_lab.client.node import Node
from hafw_lab.client.records import Record
from hafw_lab.errors import LabError
from hafw_lab.measure.failover import CLIENT, SERVER, address_of, other, require_primary
from hafw_lab.measure.result import count_connections
from hafw_lab.measure.states import holds_connection
from hafw_lab.model.topology import DEFAULT
from hafw_lab.traffic.ports import SPARE_PORTS, USUAL_PORTS
from hafw_lab.traffic.session import Traffic, start_traffic

CALM_LASTS_S = 12.0
CONNECTIONS = 10
_PUSH_MS = 100
_ASK_AGAIN_S = 0.3
_FLOWS_WITHIN_MS = 500
_FLOW_LIMIT_S = 20.0
_SILENT = "agent silent"
_TOLD = ("started", "transition")
"""Records that say something whatever is in them."""
_KILL = 'number=$1; shift; kill -s "$number" "$@"'


class Daemon(Enum):
    CONNTRACKD = "conntrackd"
    CHILD = "keepalived-child"
    PARENT = "keepalived-parent"
    BOTH = "keepalived-both"
    AGENT = "agent"
    CHANNEL = "channel"


class Place(Enum):
    """On which node."""

    PRIMARY = "primary"
    BACKUP = "backup"


@dataclass(frozen=True, slots=True)
class Blow:
    daemon: Daemon
    place: Place
    signal: signal.Signals
    round: int

    def describe(self) -> str:
        return f"{self.signal.name.removeprefix('SIG')} of {self.daemon.value} on the {self.place.value}"


@dataclass(frozen=True, slots=True)
class Struck:
    """What came of a blow. `calm_s`: from the blow, or from the end of a stop, until both nodes were calm
    and stayed so; None: not within the limit, and `unrest` says why. `own`, `peer`: what the node that was
    struck, and the other one, said of it."""

    blow: Blow
    node: str
    opened: int
    survived: int
    calm_s: float | None
    own: tuple[str, ...]
    peer: tuple[str, ...]
    unrest: str = ""

    def to_json(self) -> dict[str, object]:
        """The form that `--json` promises; it has these keys and no others."""
        return {
            "daemon": self.blow.daemon.value,
            "place": self.blow.place.value,
            "signal": self.blow.signal.name.removeprefix("SIG"),
            "round": self.blow.round,
            "node": self.node,
            "opened": self.opened,
            "survived": self.survived,
            "calm_s": None if self.calm_s is None else round(self.calm_s, 1),
            "own": list(self.own),
            "peer": list(self.peer),
            "unrest": self.unrest,
        }


# -- pure --


def find_unrest(status: LabStatus, firewalls: Iterable[str]) -> str:
    """Why a pair is not calm: what is not up, not agreed on, or said to be wrong. Empty if it is."""
    found = [] if status.primary else ["no node holds all virtual addresses alone"]
    for name in firewalls:
        found += _unrest_of(status.node(name), status.primary)
    return "; ".join(found)


def _unrest_of(node: NodeStatus, primary: str | None) -> Iterator[str]:
    name, agent = node.name, node.agent
    stopped = [service for service, one in node.services.items() if not one.running]
    if not node.alive or stopped:
        yield f"{name} does not run {', '.join(stopped) or 'at all'}"
    if agent is None or "problems" not in agent:
        yield f"the agent of {name} does not answer"
        return
    role, gate = ("primary", "open") if name == primary else ("backup", "closed")
    if primary is not None and (agent["role"], agent["gate"]) != (role, gate):
        yield f"{name} is {agent['role']}, gate {agent['gate']}, and not {role}, gate {gate}"
    if agent["problems"]:
        yield f"{name} says {', '.join(sorted(agent['problems']))}"
    if not agent["ready"]:
        yield f"{name} is not ready"


def words_of(agent: Mapping[str, Any] | None, node: str) -> set[str]:
    """What a status of `node` says that is wrong: here by its name, on the other node as NODE:NAME."""
    if agent is None or "problems" not in agent:
        return {_SILENT}
    others = {name: one for name, one in (agent.get("nodes") or {}).items() if name != node and one}
    theirs = {f"{name}:{word}" for name, one in others.items() for word in one.get("problems") or ()}
    return {*agent["problems"], *theirs}


def words_in(records: Iterable[Record]) -> set[str]:
    """The same of what an agent has recorded."""
    found = set()
    for record in records:
        event = str(record.get("event"))
        if event == "alarm":
            found.add(str(record.get("condition")))
        elif event in _TOLD:
            found.add(event)
    return found


@dataclass(slots=True)
class Calm:
    """Calm that lasts."""

    lasts_s: float
    since_s: float | None = None

    def see(self, now_s: float, unrest: str) -> bool:
        """Whether it has lasted, at this look."""
        if unrest:
            self.since_s = None
        elif self.since_s is None:
            self.since_s = now_s
        return self.since_s is not None and now_s - self.since_s >= self.lasts_s


# -- in a lab --


@dataclass(slots=True)
class _Watch:
    """Both nodes are asked again and again, and what they say is kept."""

    lab: Lab
    said: dict[str, set[str]] = field(default_factory=dict)

    def look(self) -> str:
        """Why they are not calm."""
        status = self.lab.status()
        for name in self.lab.firewalls:
            self.said.setdefault(name, set()).update(words_of(status.node(name).agent, name))
        return find_unrest(status, self.lab.firewalls)

    def look_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            _ask_later()

    def wait_calm(self, limit_s: float, lasts_s: float) -> tuple[float | None, str]:
        """After how long they were calm, for `lasts_s`; else None, and what the last unrest was."""
        start, calm, last = time.monotonic(), Calm(lasts_s), ""
        while True:
            now = time.monotonic()
            unrest = self.look()
            last = unrest or last
            if calm.see(now, unrest):
                assert calm.since_s is not None
                return calm.since_s - start, ""
            if calm.since_s is None and now - start > limit_s:
                return None, last
            _ask_later()


def _ask_later() -> None:
    time.sleep(_ASK_AGAIN_S)  # a status can only be asked for


def require_calm(lab: Lab, limit_s: float, lasts_s: float = CALM_LASTS_S) -> None:
    """Raises LabError with what is wrong."""
    calm_s, unrest = _Watch(lab).wait_calm(limit_s, lasts_s)
    if calm_s is None:
        raise LabError(f"the pair is not calm after {limit_s:g} s: {unrest}")


def strike(lab: Lab, blow: Blow, stop_s: float, limit_s: float) -> Struck:
    """`lab` is calm. A stop lasts `stop_s`; for the calm there are `limit_s` then. Raises LabError when it
    does not come to a blow."""
    primary = require_primary(lab)
    name = primary if blow.place is Place.PRIMARY else other(lab, primary)
    node, watch = lab.node(name), _Watch(lab)
    client, server = lab.node(CLIENT), lab.node(SERVER)
    clocks = (client.measure_clock(), server.measure_clock())
    ports = SPARE_PORTS if lab.host else USUAL_PORTS
    with start_traffic(
        client, server, address_of(DEFAULT, SERVER), ports=ports, clocks=clocks, push_interval_ms=_PUSH_MS
    ) as traffic:
        _open_all(traffic, ports.tcp, lab.node(other(lab, primary)), _FLOW_LIMIT_S * lab.patience)
        before = {one: len(lab.node(one).agent_records()) for one in lab.firewalls}
        pids = find_processes(node, blow.daemon)
        _send(node, blow.signal, pids)
        if blow.signal is signal.SIGSTOP:
            watch.look_for(stop_s)
            _send(node, signal.SIGCONT, pids, check=False)  # a watchdog may have replaced it
        calm_s, unrest = watch.wait_calm(limit_s, CALM_LASTS_S)
        for one in lab.firewalls:
            watch.said[one] |= words_in(lab.node(one).agent_records()[before[one] :])
        connections = traffic.report().connections
    own, peer = (tuple(sorted(watch.said[one])) for one in (name, other(lab, name)))
    return Struck(blow, name, len(connections), count_connections(connections)[0], calm_s, own, peer, unrest)


def find_processes(node: Node, daemon: Daemon) -> tuple[int, ...]:
    """As numbered inside the node; the one that gets a signal first. Raises LabError."""
    service = daemon.value.partition("-")[0]
    main = node.service_pid(service)
    if main is None:
        raise LabError(f"{node.name} does not run {service}")
    if service != "keepalived":
        return (main,)
    child = int(node.read_text(Paths().vrrp_pid))
    return {Daemon.CHILD: (child,), Daemon.PARENT: (main,)}.get(daemon, (main, child))


def _send(node: Node, number: signal.Signals, pids: Iterable[int], *, check: bool = True) -> None:
    argv = ["sh", "-c", _KILL, "sh", number.name.removeprefix("SIG"), *map(str, pids)]
    node.run(argv, check=check)


def _open_all(traffic: Traffic, port: int, backup: Node, limit_s: float) -> None:
    """Until all connections flow, and the backup has the last one. Raises LabError."""
    ports = traffic.open(CONNECTIONS)
    if len(ports) != CONNECTIONS:
        raise LabError(f"{len(ports)} of {CONNECTIONS} connections come up through the pair")
    client, server = address_of(DEFAULT, CLIENT), address_of(DEFAULT, SERVER)

    def flow() -> bool:
        return traffic.snapshot().alive(_FLOWS_WITHIN_MS) == CONNECTIONS

    def are_there() -> bool:
        return holds_connection(backup, client, ports[-1], server, port)

    for what, text in ((are_there, f"are on {backup.name}"), (flow, "flow")):
        if not _wait(what, limit_s):
            raise LabError(f"not all of the {CONNECTIONS} connections {text} within {limit_s:g} s")


def _wait(what: Callable[[], bool], limit_s: float) -> bool:
    until = time.monotonic() + limit_s
    while not what():
        if time.monotonic() > until:
            return False
        _ask_later()
    return True
