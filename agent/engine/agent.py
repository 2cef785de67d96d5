# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent at work: resident (`hafw agent`), or once for a hook that found no agent (`hafw settle`).

This is the one place that wires adapters, core and loop together.
"""

import asyncio
import contextlib
import faulthandler
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from agent.adapters import atomic_file, control_server, memory, process, rules_service, scheduling
from agent.adapters.conntrackd import Conntrackd, shortest_timeout_s
from agent.adapters.control import ASK_PEER, FACTS, FITNESS, MAINTENANCE, PEER, RELOAD, STATUS
from agent.adapters.expectations import complete_expectations
from agent.adapters.journal import open_sink
from agent.adapters.lock import BusyError, hold_lock, make_run_dir
from agent.adapters.nftables import RulesState
from agent.adapters.service import ServiceManager, find_notice_socket
from agent.adapters.sets_process import SetsProcess
from agent.adapters.state_process import StateProcess
from agent.adapters.versions import KEEPALIVED, NFT, identity
from agent.config import loader
from agent.config.files import Files, digest_of
from agent.core.calls import MAX_PARTS, PART_BYTES
from agent.core.conditions import Condition, Finding
from agent.core.events import ConditionSeen, Reloaded, Started
from agent.core.handover import plan_last
from agent.core.peer import NodeStatus
from agent.core.plan import Settings
from agent.core.roles import RuleSet
from agent.core.state import State
from agent.engine import crash, status, watchdog
from agent.engine.calls import PeerCalls
from agent.engine.commit_mark import CommitMark
from agent.engine.comparison import ComparedWith, Comparison
from agent.engine.drift import DriftCheck
from agent.engine.executor import Executor
from agent.engine.facts import FactsWatch
from agent.engine.handover import Handovers
from agent.engine.loop import Loop
from agent.engine.maintenance import MaintenanceWatch
from agent.engine.observer import Observer
from agent.engine.own_status import OwnStatus
from agent.engine.peer import PeerWatch
from agent.engine.readiness import Readiness
from agent.engine.refresh import Refresh
from agent.engine.refusals import Refusals
from agent.engine.sensors import Sensors
from agent.engine.sets import MARK, SetsWatch
from agent.engine.status_line import status_line
from agent.engine.versions import Versions
from agent.errors import HafwError
from agent.file_cures import cure_of
from agent.model import schema
from agent.model.pair import Pair, SyncMode
from agent.model.records import Record, RecordKind
from agent.paths import Paths
from agent.regular_file import read_regular
from agent.render.conntrackd import ignored_addresses
from agent.render.keepalived import not_ready
from agent.rollout import active, apply
from agent.rollout.active import Checked, OnDisk, Taken
from agent.rollout.generations import Generations
from agent.rollout.peer_node import request_file
from agent.rollout.request import RulesAnswer, pack_answer
from agent.setup.node_facts import FactsReader

LOCK_WAIT_S = 15.0
SETTLE_LIMIT_S = 60.0
RELOAD_LIMIT_S = 20.0
"""How long an asked-for reload may take: a commit that runs is let finish first."""

Found = TypeVar("Found")


class Agent:
    """Everything for one node, wired, in the running event loop. Raises HafwError if something that it
    cannot do without is missing."""

    def __init__(self, taken: Taken, node: str, paths: Paths) -> None:
        self._taken = taken
        self._running = asyncio.get_running_loop()
        self.pair = pair = taken.pair
        self.node = node
        self.paths = paths
        self.rules = active.adapter_of(OnDisk(paths), taken.table, self._in_copy)
        self._tidied = -1
        self._reloads = 0
        self._ends_because = ""
        """The signal, or the error that nothing handled."""
        self.conntrackd = Conntrackd(paths, pair.sync.mode, process.run, expectations=uses_helpers(pair))
        # one thread, so that what was begun first is done first; as urgent as the loop, which waits while
        # the thread has the interpreter
        self._aside = ThreadPoolExecutor(1, "aside")
        readiness = Readiness(paths.readiness, not_ready(pair))
        self._mark = CommitMark(paths.commit_owed)
        self.executor = Executor(
            self.rules, self.conntrackd, readiness, self._mark, complete_expectations, self._beside
        )
        self.sink = open_sink(paths)
        self.loop = Loop(Settings.of(pair, shortest_timeout_s()), self.executor, self.sink.write)
        self.manager = ServiceManager()
        drift = DriftCheck(self.loop, self.executor)
        refuse = Refusals(self.sink.write).refuse
        self.observer = Observer(pair, paths, self.conntrackd, self.loop, drift, refuse)
        self.sensors: Sensors | None = None
        self.versions = Versions(
            {
                Path(KEEPALIVED): lambda: self.observer.process.pid,
                paths.conntrackd: self.conntrackd.socket_identity,
                Path(NFT): lambda: identity(Path(NFT)),
            },
            process.run,
        )
        self.own = OwnStatus(self.loop, self.observer, self.versions)
        self.own.take(digest_of(taken.files), self.rules)
        files = (paths.channel_socket, paths.pair_key)
        self.peer = PeerWatch(
            pair, node, files, self._describe_own, self._found, self.loop.post, refuse, self._beside
        )
        self.calls = PeerCalls(self.peer.say, self.peer.why_unheard, self._carry_out)
        self.peer.on_call = self.calls.take
        self.facts = FactsWatch(FactsReader(node, paths), self.own, self.peer, self._beside)
        self.handovers = Handovers(pair, node, self.loop, self.peer, self._record)
        self.peer.on_status = self.handovers.status_heard
        self.maintenance = MaintenanceWatch(paths.maintenance, readiness, self._record, self._beside)
        self.sets = self._connect_sets()
        self.comparison = self._connect_comparison()

    def _connect_sets(self) -> SetsWatch:
        names = (self.node, self.pair.peer_of(self.node).name)
        record = partial(self._record, RecordKind.RULES)
        ends = (self.peer.describe_own, self.peer.status)
        sets = SetsWatch(names, *ends, self.calls.ask, SetsProcess(), record)
        sets.sets = lambda: tuple(one.name for one in self.pair.sets if one.dynamic)
        sets.losses = lambda: self.rules.set_losses
        sets.are_right = lambda losses: self.rules.sets_are_right(losses)
        return sets

    def _connect_comparison(self) -> Comparison:
        ignored = [address.ip for address in ignored_addresses(self.pair)]
        states, direct = StateProcess(ignored), self.pair.sync.mode is SyncMode.DIRECT
        self.executor.refresh = Refresh(states).refresh if direct else None
        why_not = "" if direct else "in cache mode the states are not in the kernel"
        comparison = Comparison(
            states,
            ComparedWith(
                self.pair.peer_of(self.node).name,
                self.peer.status,
                self.peer.speak,
                self.conntrackd.statistics,
                lambda: why_not,
                self.observer.replication.made_good,
            ),
        )
        self.own.compares, self.own.protocols = direct, lambda: comparison.protocols
        self.peer.hear = comparison.take
        self.observer.replication.is_compared = lambda: comparison.running
        self.executor.comparison = comparison if direct else None
        return comparison

    def begin(self) -> None:
        """The first things: which rules an earlier run left, and who we are."""
        self.loop.on_change = self._state_changed
        self.maintenance.begin()
        standing = self.executor.readiness.rejoin(preempt=self.pair.failover.preempt)
        left = self.rules.read().rules
        self.loop.post(Started(time.monotonic_ns(), left, self._mark.read(), standing))
        self.observer.was_primary = left is RuleSet.PRIMARY
        if self._taken.instead_of is not None:
            self._say_configuration(False, self._taken.instead_of)
        self.observer.hint("start")

    async def run(self) -> None:
        """Resident: until cancelled."""
        self._listen_for_notices()
        try:
            async with asyncio.TaskGroup() as group:
                await self._work(group)
        except BaseException as error:  # a cancellation too, by the bug or the signal that was noted then
            self.note_end(crash.in_one_line(error))
            raise
        finally:
            ended = plan_last(self.loop.settings, self.loop.state)
            left = "its part in the handover is ended" if ended else "rules and states stay as they are"
            self._record(RecordKind.STOPPED, f"hafw agent has stopped ({self._ends_because}); {left}")
            self.manager.close()
            self.sink.close()

    def note_end(self, reason: str) -> None:
        """For the record of the end. What comes first has caused what comes later."""
        self._ends_because = self._ends_because or reason

    async def _work(self, group: asyncio.TaskGroup) -> None:
        reload_asked = asyncio.Event()
        # before another process can see that the agent runs: until then the signal would end it
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_asked.set)
        answers = {
            STATUS: self._status,
            RELOAD: self._answer_reload,
            FACTS: self.facts.answer,
            PEER: self._name_peer,
            MAINTENANCE: self._take_maintenance,
            FITNESS: self._describe_fitness,
        }
        with_word = {ASK_PEER: self._ask_peer}
        path = self.paths.control_socket
        server = await control_server.serve(path, answers, with_word, self._hand_over)
        try:
            self.observer.start(group)
            self.sensors = Sensors(self.pair, self.node, self.paths, self.loop)
            group.create_task(self.sensors.run())
            group.create_task(self.comparison.run())
            group.create_task(self.peer.run())
            group.create_task(self.sets.run())
            group.create_task(self.versions.run())
            group.create_task(self.maintenance.run())
            group.create_task(self.facts.run(lambda: self.pair))
            self.begin()
            working = group.create_task(self.loop.run())
            group.create_task(self._reload_when(reload_asked))
            unprivileged = " (without real-time priority, which is not allowed here)"
            how = "" if scheduling.take_precedence() else unprivileged
            self._record(
                RecordKind.STARTED, f"hafw agent for {self.node} of pair {self.pair.name} has started{how}"
            )
            scheduling.watch_overruns(self._overran)
            group.create_task(self._note("started", self._taken.files, self.rules.digest))
            await watchdog.through(self.loop)
            self.manager.say_ready()
            group.create_task(watchdog.feed(self.loop, self.manager, self._flush))
            await working
        finally:
            self.manager.say_stopping()
            self._flush()
            server.close()
            self.calls.close()
            self.observer.close()

    async def _beside(self, job: Callable[[], Found]) -> Found:
        """What takes its time, or waits for the disk, holds up nothing here."""
        return await scheduling.beside(self._aside, job)

    def _in_copy(self, job: Callable[[], Found]) -> Found:
        """For the thread beside the loop."""
        return process.in_child(job, self._running)

    async def _note(self, why: str, files: Files, rules: str) -> None:
        generations = Generations(self.paths.state_dir)
        self.own.generation, text = await self._beside(
            lambda: active.note_in_force(generations, why, files, rules)
        )
        self._record(RecordKind.RULES, text)

    async def _look_at_rules(self, wanted: RuleSet) -> RulesState:
        rules = self.rules
        return await self._beside(lambda: rules.verify(wanted))

    def _flush(self) -> None:
        self.sink.flush()
        active.remember(self.paths, self.rules)
        if self.rules.changes != self._tidied and self.loop.state.whole and not self._reloads:
            self._tidied = self.rules.changes
            asyncio.get_running_loop().run_in_executor(self._aside, memory.give_back)

    def _state_changed(self, state: State) -> None:
        self.comparison.state_changed(state)
        self.manager.say_status(status_line(state))
        self.handovers.state_changed(state)

    def _describe_own(self, heard: tuple[str, ...]) -> NodeStatus:
        maintenance = self.maintenance.current
        return replace(
            self.own.describe(heard),
            handover=self.handovers.word,
            maintenance=maintenance.describe() if maintenance is not None else "",
            sets_lost=self.rules.sets_lost,
            sets_differ=self.sets.differ,
        )

    async def _take_maintenance(self) -> status.Values:
        try:
            await self.maintenance.take()
        except HafwError as error:
            return {"schema": schema.STATUS, "error": str(error)}
        self.peer.say_status()
        return {"schema": schema.STATUS, "role": self.loop.state.role.value}

    async def _hand_over(self, say: control_server.Say, force: bool) -> status.Values:
        return await self.handovers.hand_over(say, force=force)

    async def _describe_fitness(self) -> status.Values:
        fitness, links = self.handovers.describe_fitness(), status.describe_links(self.pair, self.node)
        return {"schema": schema.STATUS, **fitness, **links}

    async def settle(self) -> None:
        """Once: look, do what the role needs, and end when it is done."""
        self.executor.comparison = None  # the other node is not talked to
        async with asyncio.TaskGroup() as group:
            working = group.create_task(self.loop.run())
            self.begin()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_LIMIT_S):
                    await self.loop.until(lambda: self.loop.is_idle)
            working.cancel()
        active.remember(self.paths, self.rules)

    def _listen_for_notices(self) -> None:
        given = find_notice_socket()
        if given is not None:
            self.observer.notices.adopt(given)
        else:
            self.observer.notices.listen(self.paths.notify_socket)

    async def _status(self) -> status.Values:
        values = await status.describe(
            self.pair,
            self.node,
            self.loop,
            self.observer,
            self.conntrackd,
            self._look_at_rules,
            self.peer.describe_own(),
            self.peer.heard,
            self.comparison.describe(),
        )
        return {**values, "records_lost": self.sink.lost}

    async def _reload_when(self, asked: asyncio.Event) -> None:
        while True:
            await asked.wait()
            asked.clear()
            await self._reload()

    async def _reload(self) -> str | None:
        """Returns what is wrong. In force, or on the way to it, when this returns; kept as a generation."""
        self.manager.say_reloading()
        self._reloads += 1
        try:
            fresh = await self._beside(self._read_pair_file)
            self._use(fresh)
        except HafwError as error:
            refused = f"{error}; keeping the pair file from before"
            self._say_configuration(False, refused)
            return refused
        finally:
            self._reloads -= 1
            self.manager.say_ready()
        await self._note("reloaded", fresh.files, fresh.rules)
        return None

    async def _answer_reload(self) -> status.Values:
        """For `hafw rules`: answered when the new rules are in force, or cannot be."""
        refused = await self._reload()
        if refused is None:
            # until the loop has handled the reload, what it says of the rules is about the old ones
            await watchdog.through(self.loop)
            refused = await self._wait_loaded()
        found = {"schema": schema.STATUS, "rules": self.rules.digest}
        return found if refused is None else {**found, "error": refused}

    async def _name_peer(self) -> status.Values:
        both = {"node": self.node, "peer": self.pair.peer_of(self.node).name}
        found = {"schema": schema.STATUS, **both, "role": self.loop.state.role.value}
        unheard = self.peer.why_unheard()
        return found if unheard is None else {**found, "error": unheard}

    async def _ask_peer(self, number: str) -> status.Values:
        """For `hafw rules`: what lies in the file of this number is asked, and the answer handed back."""
        place = request_file(self.paths, number)
        try:
            question = await self._beside(lambda: read_regular(place, MAX_PARTS * PART_BYTES))
            return {"schema": schema.STATUS, "answer": (await self.calls.ask(question)).hex()}
        except HafwError as error:
            return {"schema": schema.STATUS, "error": str(error)}

    async def _carry_out(self, question: bytes) -> bytes:
        """What the other node asks for."""
        if question.startswith(MARK):
            return await self.sets.take(question.removeprefix(MARK))
        try:
            return await rules_service.ask(self.paths.rules_socket, question)
        except HafwError as error:
            return pack_answer(RulesAnswer(error=str(error)))

    async def _wait_loaded(self) -> str | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELOAD_LIMIT_S):
                await self.loop.until(lambda: self.loop.state.whole)
                return None
        return "the agent could not load the rules; see `hafw history`"

    def _read_pair_file(self) -> Checked:
        """Raises HafwError; also when it would change what other daemons were rendered from."""
        fresh, files = self._in_copy(lambda: loader.load_with_files(self.paths.pair_file))
        apply.require_same_wires(self.pair, fresh, self.paths)
        return active.checked(fresh, files)  # compiled here, and not by the loop

    def _use(self, fresh: Checked) -> None:
        self.rules = self.executor.rules = self.rules.succeed(fresh.table)
        self.pair = pair = fresh.pair
        self.own.take(fresh.digest, self.rules)
        self.peer.take(pair)
        # our parent still holds what this agent was started with: nothing of that is to stay
        self._taken.pair, self._taken.files, self._taken.table = pair, (), fresh.table
        if self.sensors is not None:
            self.sensors.pair = pair
        self.loop.settings = Settings.of(pair, shortest_timeout_s())
        self._say_configuration(True, "the pair file is good again")
        self.loop.post(Reloaded(time.monotonic_ns()))

    def _say_configuration(self, ok: bool, text: str) -> None:
        self.loop.post(ConditionSeen(time.monotonic_ns(), Condition.CONFIGURATION, ok, text))

    def _found(self, finding: Finding) -> None:
        self.loop.post(ConditionSeen(time.monotonic_ns(), *finding))

    def _overran(self, place: str) -> None:
        message = f"the agent computed for {scheduling.PATIENCE_S} s without a pause, in {place}"
        self._record(RecordKind.OVERRUN, f"{message}; until it was done, every other program had priority")

    def _record(self, kind: RecordKind, message: str) -> None:
        self.sink.write(Record(kind, message, time.monotonic_ns()))


def uses_helpers(pair: Pair) -> bool:
    """Whether connections announce further ones, so that expectations are replicated."""
    return bool(pair.helpers)


def run_resident(taken: Taken, node: str, paths: Paths) -> None:
    """`hafw agent`: until SIGTERM or SIGINT."""
    faulthandler.enable()
    make_run_dir(paths)
    process.use_pidfd_children()
    with hold_lock(paths.lock, LOCK_WAIT_S):
        asyncio.run(_until_signalled(taken, node, paths))


async def _until_signalled(taken: Taken, node: str, paths: Paths) -> None:
    agent = Agent(taken, node, paths)
    working = asyncio.current_task()
    assert working is not None
    running = asyncio.get_running_loop()

    def signalled(number: signal.Signals) -> None:
        agent.note_end(number.name)
        working.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, signalled, number)
    with crash.ending(working, agent.note_end), contextlib.suppress(asyncio.CancelledError):
        try:
            await agent.run()
        except BaseExceptionGroup as group:
            _raise_reason(group)
            raise


def _raise_reason(group: BaseExceptionGroup[BaseException]) -> None:
    """Of a group of tasks that ended for one reason that an administrator can remove, that reason."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        (found,) = found.exceptions
    if isinstance(found, HafwError):
        raise found


def run_settle(taken: Taken, node: str, paths: Paths) -> None:
    """`hafw settle`: what a hook starts that found no agent. Ten at once are one: the others leave a
    mark."""
    make_run_dir(paths)
    process.use_pidfd_children()
    mark = paths.run_dir / "settle-again"
    try:
        atomic_file.write(mark, "")  # touching could wait at a pipe of that name
    except OSError as error:
        raise HafwError(f"cannot make {mark}: {error.strerror}", cure_of(error)) from error
    while mark.exists():
        try:
            with hold_lock(paths.lock, 0.0):
                mark.unlink(missing_ok=True)
                asyncio.run(_settle(taken, node, paths))
        except BusyError:
            return  # the process at work finds the mark when it is done


async def _settle(taken: Taken, node: str, paths: Paths) -> None:
    await Agent(taken, node, paths).settle()
