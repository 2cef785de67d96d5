# SPDX-License-Identifier: GPL-2.0-or-later
"""Every source of hints, and the look at what is true that each of them causes. Law 1 lives here.

hook datagram   D-Bus signal   netlink   death of keepalived's process   slow poll
      \\_____________\\____________|______________/______________________/
                              look(): addresses, process, bus -> assess() -> RoleSeen
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.adapters.conntrackd import Conntrackd
from agent.adapters.keepalived import KeepalivedBus, Watch
from agent.adapters.netlink import Addresses
from agent.adapters.nft_monitor import RulesWatch
from agent.adapters.notices import Notice, NoticeSocket
from agent.adapters.pace import Pace, PacedReader
from agent.adapters.vrrp_process import VrrpProcess
from agent.core.assess import Facts, VrrpState, assess, contradictions, serves
from agent.core.conditions import Condition, Finding
from agent.core.events import ConditionSeen, RoleSeen
from agent.core.keepalived import (
    NOT_RUNNING,
    judge_bus,
    judge_halted,
    judge_instances,
    judge_pid_file,
    judge_process,
)
from agent.core.roles import Role
from agent.engine.drift import DriftCheck
from agent.engine.expectations import ExpectationsWatch
from agent.engine.loop import Loop
from agent.engine.replication import ReplicationCheck
from agent.engine.suspicion import Suspicion
from agent.model.pair import Pair
from agent.paths import Paths

POLL_S = 5.0
RULES_DEBOUNCE_S = 0.02
BUS_AFTER_S = 0.1
"""After a hint all states on the bus are asked for: members of a sync group that the group has already taken
along send no signal."""
TOGETHER_NS = 50_000_000
"""keepalived adds all addresses of a group within milliseconds, and asking it takes as long again."""
CONSENT_S = 0.05
"""How long a gate waits for keepalived's word at other times. No answer is consent."""
PACE = Pace(at_once=100, per_second=100)
"""Of notices, and of changes of addresses and rules: each makes us look at the kernel."""


@dataclass(frozen=True, slots=True)
class LastLook:
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
        refuse: Callable[[str], None],
    ) -> None:
        """Raises UnavailableError when no netlink socket can be opened."""
        self._drift = drift
        self._refuse = refuse
        self._paths = paths
        self._loop = loop
        self.replication = ReplicationCheck(conntrackd, loop)
        self.addresses = Addresses(pair.vips())
        self._wanted = frozenset(f"{vip.ip}%{interface.name}" for interface, vip in pair.vips())
        self._instance_of = {
            f"{vip.ip}%{interface.name}": f"{interface.name} (IPv{vip.version})"
            for interface, vip in pair.vips()
        }
        self.process = VrrpProcess(paths.vrrp_pid, paths.keepalived_pid)
        self.bus = KeepalivedBus(paths.system_bus, pair, Watch(self.hint, refuse, self._bus_changed))
        self.notices = NoticeSocket(self._noticed, refuse)
        self._rules = RulesWatch()
        self._expectations = ExpectationsWatch(refuse)
        self._readers: tuple[PacedReader, ...] = ()
        self._closed = False
        self._watched: int | None = None
        self._suspicion = Suspicion()
        self._held: frozenset[str] = frozenset()
        self._held_since_ns = self._first_held_ns = 0
        self._deciding: asyncio.Task[None] | None = None
        self._catching_up = False
        self._word: tuple[int, VrrpState] | None = None
        self._suspects: Counter[Condition] = Counter()
        self._rules_timer: asyncio.TimerHandle | None = None
        self._bus_timer: asyncio.TimerHandle | None = None
        self._group: asyncio.TaskGroup | None = None
        self.was_primary = False
        """Before the first look: the rules that an earlier run left say so."""
        self.seen: LastLook | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Listen to everything; the first look is the caller's."""
        self._readers = (
            PacedReader(self.addresses.fileno(), self._addresses_changed, PACE),
            PacedReader(self.notices.fileno(), self.notices.receive, PACE, self._notices_wait),
            PacedReader(self._rules.fileno(), self._rules_changed, PACE),
        )
        self._expectations.start()
        self._group = group
        self._drift.start(group, self._rules.drain)
        self.replication.start()
        group.create_task(self.bus.run())
        group.create_task(self._poll())

    def close(self) -> None:
        self._closed = True
        self._drift.stop()
        for reader in self._readers:
            reader.close()
        for source in (self._expectations, self.addresses, self.notices, self._rules):
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
        self.seen = LastLook(facts, role)
        if role is not before:
            self._loop.post(RoleSeen(now, role, trigger, min(noticed_ns or now, now)))

    def _catch_up(self, noticed_ns: int | None) -> int | None:
        """After a halt of this process: what waits to be read has the moment at which it was sent, and what
        has none may be as old as the halt is long."""
        stalled_since_ns = self._loop.pulse.behind_since_ns(time.monotonic_ns())
        if self._catching_up or stalled_since_ns is None:
            return noticed_ns
        self._catching_up = True
        try:
            self.notices.receive()
        finally:
            self._catching_up = False
        return min(noticed_ns or stalled_since_ns, stalled_since_ns)

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

    def _notices_wait(self) -> None:
        self._refuse(f"notices that come faster than {PACE.per_second:.0f} in a second: they wait")

    def _addresses_changed(self) -> int:
        noticed = time.monotonic_ns()
        self.addresses.drain()
        self.hint("netlink", noticed)
        return 1

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
        if self.bus.owned and not self.bus.hung:
            self._suspects[Condition.BUS] = 0
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
            await self.replication.check()

    def _look_for_contradictions(self) -> None:
        """Only what two polls in a row have seen counts: in a transition the sources differ for a moment. A
        keepalived that was heard between the two was only starting at the first."""
        if self.seen is None:
            return
        found = (
            *contradictions(self.seen.facts),
            *self._find_faults(self.seen.facts),
            judge_halted(self.process.halted()),
        )
        for condition, ok, words in found:
            self._suspects[condition] = 0 if ok else self._suspects[condition] + 1
            if ok or self._suspects[condition] >= 2:
                self._loop.post(ConditionSeen(time.monotonic_ns(), condition, ok, words))

    def _find_faults(self, facts: Facts) -> Iterator[Finding]:
        """Whether keepalived is heard, and all of it. What cannot be judged is left as it was."""
        if not facts.alive:
            yield from NOT_RUNNING
            return
        bus, process = self.bus, self.process
        yield judge_bus(owned=bus.owned, connected=bus.connected, hung=bus.hung)
        if bus.owned and not bus.hung:
            yield from judge_instances(bus.silent(), serves(facts) and bus.only_forgotten())
        stat = process.stat()
        if stat is not None:
            yield judge_process(process.pid, stat.state)
        if process.pid is not None:
            yield judge_pid_file(str(self._paths.vrrp_pid), process.pid, process.file_is_right())
