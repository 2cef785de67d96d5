# SPDX-License-Identifier: GPL-2.0-or-later
"""Every source of hints, and the look at what is true that each of them causes. Law 1 lives here.

hook datagram   D-Bus signal   netlink   death of keepalived's process   slow poll
      \\_____________\\____________|______________/______________________/
                              look(): addresses, process, bus -> assess() -> RoleSeen
"""

import asyncio
import contextlib
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from agent.adapters.conntrackd import Conntrackd, Statistics, kernel_states
from agent.adapters.ctnetlink import Announced, Conntrack
from agent.adapters.expectations import announce_again
from agent.adapters.keepalived import KeepalivedBus, Watch
from agent.adapters.netlink import Addresses
from agent.adapters.nft_monitor import RulesWatch
from agent.adapters.notices import Notice, NoticeSocket
from agent.adapters.pace import Pace, PacedReader
from agent.adapters.vrrp_process import VrrpProcess
from agent.core.assess import Facts, Finding, VrrpState, assess, contradictions, serves
from agent.core.conditions import Condition
from agent.core.events import (
    Answer,
    ConditionSeen,
    ConntrackdAsked,
    ConntrackdStarted,
    RoleSeen,
    StatesCounted,
)
from agent.core.replication import Losses, judge_losses
from agent.core.roles import Role
from agent.engine.drift import DriftCheck
from agent.engine.loop import Loop
from agent.engine.result import answer_of
from agent.engine.suspicion import Suspicion
from agent.errors import HafwError, UnavailableError
from agent.model.pair import Pair
from agent.model.records import Record, RecordKind
from agent.paths import Paths

POLL_S = 5.0
RULES_DEBOUNCE_S = 0.02
BUS_AFTER_S = 0.1
"""After a hint all states on the bus are asked for: members of a sync group that the group has already taken
along send no signal."""
TOGETHER_NS = 50_000_000
"""keepalived adds all addresses of a group within milliseconds, and asking it takes as long again."""
CONSENT_S = 0.05
"""How long a gate waits for keepalived's word at other times. Who does not answer consents."""
REFUSED_AGAIN_S = 10.0
TELL_AGAIN_S = 0.002
"""An expectation is announced just before the packet that announced it is rewritten; then it has been."""
UNANSWERED_S = 0.2
"""An announced connection that has not come by then may take long, so that a failover can come between."""
MAX_UNANSWERED = 100
"""More at a time are not reported again: a flood of requests must not keep us from our work."""
PACE = Pace(at_once=100, per_second=100)
"""Of notices, and of changes of addresses and rules: each makes us look at the kernel."""
ANNOUNCED_PACE = Pace(at_once=200, per_second=500)


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest look, for `hafw status`."""

    facts: Facts
    role: Role


class Observer:
    def __init__(
        self,
        pair: Pair,
        paths: Paths,
        conntrackd: Conntrackd,
        loop: Loop,
        drift: DriftCheck,
        write: Callable[[Record], None],
    ) -> None:
        """Raises UnavailableError when no netlink socket can be opened."""
        self._drift = drift
        self._write = write
        self._paths = paths
        self._loop = loop
        self._conntrackd = conntrackd
        self.addresses = Addresses(pair.vips())
        self._wanted = frozenset(f"{vip.ip}%{interface.name}" for interface, vip in pair.vips())
        self._instance_of = {
            f"{vip.ip}%{interface.name}": f"{interface.name} (IPv{vip.version})"
            for interface, vip in pair.vips()
        }
        self.process = VrrpProcess(paths.vrrp_pid, paths.keepalived_pid)
        self.bus = KeepalivedBus(paths.system_bus, pair, Watch(self.hint, self.refuse, self._bus_changed))
        self.notices = NoticeSocket(self._noticed, self.refuse)
        self._rules = RulesWatch()
        self._expectations = Conntrack(expectations=True)
        self._readers: tuple[PacedReader, ...] = ()
        self._telling: set[tuple[int, bytes]] = set()
        self._unanswered = 0
        self._lost = 0
        self._closed = False
        self._watched: int | None = None
        self._suspicion = Suspicion()
        self._held: frozenset[str] = frozenset()
        self._held_since_ns = self._first_held_ns = 0
        self._deciding: asyncio.Task[None] | None = None
        self._catching_up = False
        self._word: tuple[int, VrrpState] | None = None
        self._suspects: Counter[Condition] = Counter()
        self._unheard = False
        """The last poll found no conntrackd."""
        self._conntrackd_seen: tuple[int, int] | None = None
        self._losses: Losses | None = None
        self._rules_timer: asyncio.TimerHandle | None = None
        self._bus_timer: asyncio.TimerHandle | None = None
        self._group: asyncio.TaskGroup | None = None
        self._refused: dict[str, tuple[float, int]] = {}
        self.was_primary = False
        """Before the first look: the rules that an earlier run left say so."""
        self.seen: Seen | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Listen to everything; the first look is the caller's."""
        self._readers = (
            PacedReader(self.addresses.fileno(), self._addresses_changed, PACE),
            PacedReader(self.notices.fileno(), self.notices.receive, PACE, self._notices_wait),
            PacedReader(self._rules.fileno(), self._rules_changed, PACE),
            PacedReader(self._expectations.fileno(), self._expected, ANNOUNCED_PACE),
        )
        self._group = group
        self._drift.start(group)
        # the plans that begin now speak to this one; another one has heard nothing of them
        self._conntrackd_seen = self._conntrackd.socket_identity()
        group.create_task(self.bus.run())
        group.create_task(self._poll())

    def close(self) -> None:
        self._closed = True
        self._drift.stop()
        for reader in self._readers:
            reader.close()
        for source in (self.addresses, self.notices, self._rules, self._expectations):
            source.close()
        for timer in (self._rules_timer, self._bus_timer):
            if timer is not None:
                timer.cancel()
        self._watch_process(None)
        self.process.close()

    def hint(self, trigger: str, noticed_ns: int | None = None) -> None:
        """Something may have changed: look, and report to the loop if the role did. Nothing once closed: the
        bus may report its end later than ours."""
        if self._closed:
            return
        self._ask_bus_soon()
        self._look_and_tell(trigger, noticed_ns)

    def _look_and_tell(self, trigger: str, noticed_ns: int | None = None, *, decided: bool = False) -> None:
        noticed_ns = self._catch_up(noticed_ns)
        now = time.monotonic_ns()
        facts = self.look()
        role = assess(facts)
        before = self.seen.role if self.seen else None
        if role is Role.PRIMARY and before is not Role.PRIMARY and facts.contested and not decided:
            together = now - self._first_held_ns < TOGETHER_NS
            self._ask_first(trigger, noticed_ns or now)
            if not together:
                return
        self.seen = Seen(facts, role)
        if role is not before:
            self._loop.post(RoleSeen(now, role, trigger, min(noticed_ns or now, now)))

    def _catch_up(self, noticed_ns: int | None) -> int | None:
        """After a halt of this process: what waits to be read has the moment at which it was sent, and what
        has none may be as old as the halt is long."""
        stood_still_ns = self._loop.pulse.behind_since_ns(time.monotonic_ns())
        if self._catching_up or stood_still_ns is None:
            return noticed_ns
        self._catching_up = True
        try:
            self.notices.receive()
        finally:
            self._catching_up = False
        return min(noticed_ns or stood_still_ns, stood_still_ns)

    def look(self) -> Facts:
        """What is true now: addresses, process, and what keepalived has said of its instances."""
        held = self.addresses.held()
        if held and not self._held:
            self._first_held_ns = time.monotonic_ns()
        if held != self._held:
            self._held, self._held_since_ns = held, time.monotonic_ns()
        alive = self.process.is_alive(self.bus.pid) or self._speaks()
        self._watch_process(self.process.fileno())
        # what a keepalived that has died said last is still there until the bus reports its end
        answers = self.bus.answers() if alive else {}
        masters = {label for label, state in answers.items() if state is VrrpState.MASTER}
        confirmed = frozenset(one for one in held if self._instance_of.get(one) in masters)
        living = self.process.stat() if alive and self._suspicion.addresses else None
        self._suspicion = self._suspicion.after(held, confirmed, living, alive)
        return Facts(
            alive=alive,
            held=held,
            orphaned=self._suspicion.addresses,
            bus=frozenset(answers.values()),
            word=self._word[1] if self._word else None,
            wanted=self._wanted,
            settled=self.bus.has_said_since(self._held_since_ns),
            served=self.seen.role is Role.PRIMARY if self.seen else self.was_primary,
        )

    def _speaks(self) -> bool:
        """keepalived answers on a bus that does not know its process."""
        return self.bus.owned and self.bus.pid is None and bool(self.bus.states())

    def _ask_first(self, trigger: str, noticed_ns: int) -> None:
        """All addresses are here and keepalived's last word was another one, so it is asked: they may have
        been added by hand. The gate waits for it where they did not come together, as keepalived's do."""
        if self._deciding is None and self._group is not None:
            self._deciding = self._group.create_task(self._decide(trigger, noticed_ns))

    async def _decide(self, trigger: str, noticed_ns: int) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONSENT_S):
                    await self.bus.ask()
            if not self._closed:
                self._look_and_tell(trigger, noticed_ns, decided=True)
        finally:
            self._deciding = None

    def refuse(self, reason: str) -> None:
        """Bad input from outside: said at once, then at most every REFUSED_AGAIN_S with the number of times.
        Who sends it chooses the numbers in the reason, so they make no new one."""
        now = time.monotonic()
        kind = re.sub(r"\d+", "#", reason)
        last, count = self._refused.get(kind, (-REFUSED_AGAIN_S, 0))
        if now - last < REFUSED_AGAIN_S:
            self._refused[kind] = (last, count + 1)
            return
        if len(self._refused) > MAX_REASONS:
            self._refused.clear()
        self._refused[kind] = (now, 0)
        more = f" ({count} more since the last time)" if count else ""
        self._write(Record(RecordKind.REFUSED, f"refused {reason}{more}", time.monotonic_ns()))

    def _notices_wait(self) -> None:
        self.refuse(f"notices that come faster than {PACE.per_second:.0f} in a second: they wait")

    def _addresses_changed(self) -> int:
        noticed = time.monotonic_ns()
        self.addresses.drain()
        self.hint("netlink", noticed)
        return 1

    def _expected(self) -> int:
        """What the peer learns of a helper's work only if it is reported again. TCP: how far the rest of a
        connection is moved by a packet that was rewritten. UDP: what the first packet has announced."""
        later = asyncio.get_running_loop().call_later
        for one in self._expectations.announced():
            if one.protocol == socket.IPPROTO_TCP:
                if (one.family, one.master) not in self._telling:
                    self._telling.add((one.family, one.master))
                    later(TELL_AGAIN_S, self._tell_again, one)
            elif self._unanswered < MAX_UNANSWERED:
                self._unanswered += 1
                later(UNANSWERED_S, self._announce_again, one)
        if self._expectations.lost != self._lost:
            self._lost = self._expectations.lost
            self.refuse(
                f"announcements of helpers (FTP and the like) that come faster than "
                f"{ANNOUNCED_PACE.per_second:.0f} in a second: {self._lost} passed over since the start"
            )
        return self._expectations.taken

    def _tell_again(self, one: Announced) -> None:
        self._telling.discard((one.family, one.master))
        if not self._closed:
            self._expectations.tell_again(one.family, one.master)

    def _announce_again(self, one: Announced) -> None:
        self._unanswered -= 1
        if not self._closed:
            announce_again(one.family, one.expected)

    def _ask_bus_soon(self) -> None:
        if self._bus_timer is None and self._group is not None and self.bus.owned:
            self._bus_timer = asyncio.get_running_loop().call_later(BUS_AFTER_S, self._ask_bus)

    def _ask_bus(self) -> None:
        self._bus_timer = None
        if self._group is not None:
            self._group.create_task(self._ask_and_look())

    async def _ask_and_look(self) -> None:
        await self.bus.ask()
        if not self._closed:
            self._look_and_tell("D-Bus")

    def _noticed(self, notice: Notice) -> None:
        if self._word is None or notice.sent_ns > self._word[0]:
            self._word = (notice.sent_ns, notice.state)
        self.hint(f"notify {notice.kind} {notice.name} {notice.state.name}", notice.sent_ns)

    def _process_died(self) -> None:
        noticed = time.monotonic_ns()
        self._watch_process(None)
        self.hint("death of keepalived's VRRP process", noticed)

    def _watch_process(self, descriptor: int | None) -> None:
        if descriptor == self._watched:
            return
        running = asyncio.get_running_loop()
        if self._watched is not None:
            running.remove_reader(self._watched)
        if descriptor is not None:
            running.add_reader(descriptor, self._process_died)
        self._watched = descriptor

    def _bus_changed(self) -> None:
        self.hint("system bus")

    def _rules_changed(self) -> int:
        self._drift.rules_may_be_open(self._rules.drain())
        if self._rules_timer is None:
            running = asyncio.get_running_loop()
            self._rules_timer = running.call_later(RULES_DEBOUNCE_S, self._check_rules)
        return 1

    def _check_rules(self) -> None:
        self._rules_timer = None
        self._drift.check_rules()

    async def _poll(self) -> None:
        """What all other sources missed. Jittered, so that the two nodes do not breathe together."""
        while True:
            await asyncio.sleep(POLL_S * random.uniform(0.9, 1.1))
            await self.bus.refresh()
            self._look_and_tell("poll")
            self._look_for_contradictions()
            self._drift.check_readiness()
            await self._check_conntrackd()

    def _look_for_contradictions(self) -> None:
        """Only what two polls in a row have seen counts: in a transition the sources differ for a moment."""
        if self.seen is None:
            return
        found = (
            *contradictions(self.seen.facts),
            *self._find_silence(),
            *_find_halted(self.process.halted()),
        )
        for condition, well, words in found:
            self._suspects[condition] = 0 if well else self._suspects[condition] + 1
            if well or self._suspects[condition] >= 2:
                self._loop.post(ConditionSeen(time.monotonic_ns(), condition, well, words))

    def _find_silence(self) -> tuple[Finding, ...]:
        """Whether keepalived is heard, and all of it. What cannot be judged is left as it was."""
        if self.seen is None or not self.seen.facts.alive:
            return tuple((condition, True, "keepalived is not running") for condition in _OF_THE_LIVING)
        heard = self.bus.owned and not self.bus.hung
        text = "keepalived is heard on the system bus" if heard else _bus_text(self.bus)
        found: list[Finding] = [(Condition.BUS, heard, text)]
        if heard:
            proven = serves(self.seen.facts) and self.bus.only_forgotten()
            found += _find_silent(self.bus.silent(), proven)
        stat = self.process.stat()
        if stat is not None:
            runs = stat.state not in "Tt"
            pid = self.process.pid
            told = "is stopped (SIGSTOP?): it neither sends nor hears advertisements; kill -CONT"
            text = f"keepalived's VRRP process {pid} " + ("runs" if runs else f"{told} {pid}")
            found.append((Condition.KEEPALIVED_STOPPED, runs, text))
        if self.process.pid is not None:
            right = self.process.file_is_right()
            verb = "names" if right else "does not name"
            text = f"{self._paths.vrrp_pid} {verb} keepalived's VRRP process {self.process.pid}"
            found.append((Condition.PID_FILE, right, text))
        return tuple(found)

    async def _check_conntrackd(self) -> None:
        counted = _count_kernel()
        try:
            statistics = await self._conntrackd.statistics()
        except HafwError as error:
            self._conntrackd_seen = None
            self._unheard = True
            self._loop.post(ConntrackdAsked(time.monotonic_ns(), answer_of(error), error.message))
            return
        identity = self._conntrackd.socket_identity()
        if identity != self._conntrackd_seen and identity is not None:
            unheard = self._unheard or _UNHEARD & self._loop.state.problems.keys()
            first = self._conntrackd_seen is None and not unheard
            self._conntrackd_seen, self._unheard = identity, False
            self._losses = None
            if not first:
                self._loop.post(ConntrackdStarted(time.monotonic_ns()))
        self._loop.post(ConntrackdAsked(time.monotonic_ns(), Answer.WELL))
        self._check_replication(statistics)
        if counted is not None:
            self._loop.post(StatesCounted(*counted, statistics.internal))

    def _check_replication(self, statistics: Statistics) -> None:
        """conntrackd only counts what it could not do; a count that has grown since the last poll is an
        alarm."""
        before = statistics.losses if self._losses is None else self._losses
        self._losses = statistics.losses
        found = judge_losses(self._loop.state.role, self._losses.since(before))
        if found is not None:
            self._loop.post(ConditionSeen(time.monotonic_ns(), *found))


MAX_REASONS = 100
_UNHEARD = {Condition.CONNTRACKD, Condition.CONNTRACKD_SILENT, Condition.CONNTRACKD_UNCLEAR}


def _count_kernel() -> tuple[int, int] | None:
    """The moment, and how many states the kernel has; None while it tracks none."""
    try:
        return time.monotonic_ns(), kernel_states()
    except UnavailableError:
        return None


def _bus_text(bus: KeepalivedBus) -> str:
    if bus.hung:
        return "the system bus does not answer; hook and addresses are followed"
    if bus.connected:
        return (
            "keepalived is not heard on the system bus; hook and addresses are followed, "
            "only its restart helps"
        )
    return "the system bus is not available; hook and addresses are followed"


_OF_THE_LIVING = (
    Condition.BUS,
    Condition.INSTANCES,
    Condition.INSTANCES_FORGOTTEN,
    Condition.KEEPALIVED_STOPPED,
    Condition.PID_FILE,
)


def _find_halted(halted: dict[int, str] | None) -> tuple[Finding, ...]:
    """Without a main process there is nothing that could be stopped."""
    if not halted:
        return ((Condition.KEEPALIVED_MAIN, True, "keepalived's main process runs, and its children"),)
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
    return ((Condition.KEEPALIVED_MAIN, False, "; ".join(parts)),)


def _find_silent(silent: dict[str, str], proven: bool) -> tuple[Finding, ...]:
    """`proven`: by all addresses, and by a keepalived that answers, this node is primary all the same."""
    well = "every instance of the pair answers on the system bus"
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
        (Condition.INSTANCES, not silent or proven, critical if silent and not proven else well),
        (Condition.INSTANCES_FORGOTTEN, not (silent and proven), forgotten if silent and proven else well),
    )
