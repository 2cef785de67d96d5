# SPDX-License-Identifier: GPL-2.0-or-later
"""What this node can see by itself of the pair that its owner believes in: links, the peer's conntrackd, who
answers for the virtual addresses, who else speaks as it does, room for connections, and rules of other
programs.

Nothing here changes a role or a rule. Every look is made beside the loop and ends in ConditionSeen, whether
ok or not; what the looks mean is judged in agent/core.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from agent.adapters import scheduling
from agent.adapters.chains import Chains, ChainsWatch
from agent.adapters.conntrackd_counters import ask_counters
from agent.adapters.links import Links, LinkWatch
from agent.adapters.multicast import read_listening
from agent.adapters.neighbors import Neighbors
from agent.adapters.strangers import Strangers
from agent.adapters.table_room import read_room
from agent.core.answers import (
    ROUND_S,
    Advertised,
    Holder,
    judge_no_primary,
    judge_primaries,
    rounds_without_primary,
)
from agent.core.chains import BaseChain, judge_chains
from agent.core.conditions import Condition, Finding
from agent.core.events import ConditionSeen
from agent.core.groups import Joined, judge_groups
from agent.core.links import Link, SendsOver, can_send, hear_sending, judge_links
from agent.core.roles import Role
from agent.core.silence import Silence, hear, judge_silence, unanswered
from agent.core.table_room import Room, judge_room
from agent.engine.loop import Loop
from agent.errors import HafwError
from agent.model.pair import Interface, IPAddress, Pair
from agent.paths import Paths
from agent.rules.objects import FAMILY, TABLES
from agent.rules.peer import advertised_s
from agent.rules.strangers import words
from agent.setup.installed import InstalledFiles

LOOK_S = 1.0
LINKS_AGAIN_S = 5.0
"""Without a notice of the kernel's."""
LINKS_PAUSE_S = 0.1
FILES_AGAIN_S = 5.0
CHAINS_AGAIN_S = 60.0
LONG_LOOK_PAUSE = 20
"""How many times as long as a look at what others can make large took the next one waits at least."""
ANSWER_WAIT_S = 0.7
BLIND_AFTER = 3
"""Looks in a row."""
OURS = frozenset((FAMILY, table) for table in TABLES)

Question = tuple[Interface, Link, IPAddress]
"""Where, and which virtual address."""
Found = TypeVar("Found")


class Sensors:
    def __init__(self, pair: Pair, node: str, paths: Paths, loop: Loop) -> None:
        """Raises UnavailableError when no netlink socket can be opened."""
        self.pair = pair
        self._node = node
        self._peer = pair.peer_of(node).name
        self._socket = paths.conntrackd_socket
        self._loop = loop
        self._links, self._neighbors, self._chains = Links(), Neighbors(), Chains()
        self._link_watch, self._rules_watch = LinkWatch(), ChainsWatch()
        self._links_changed, self._rules_changed = asyncio.Event(), asyncio.Event()
        self._files = InstalledFiles(node, paths)
        self._aside = ThreadPoolExecutor(2, "sensors")  # one may be long at many rules of others
        self._seen: tuple[Link, ...] = ()
        self._failed: dict[str, int] = {}
        self._room: Room | None = None
        self._rounds = 0
        self._advertised = Advertised()
        self._joined = Joined()
        self.silence, self._sending = Silence(), SendsOver()

    async def run(self) -> None:
        """Until cancelled."""
        running = asyncio.get_running_loop()
        running.add_reader(self._link_watch.fileno(), self._link_changed)
        running.add_reader(self._rules_watch.fileno(), self._rule_changed)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch_links())
                group.create_task(self._watch_groups())
                group.create_task(self._hear_peer())
                group.create_task(self._watch_room())
                group.create_task(self._ask_links())
                group.create_task(self._watch_chains())
                group.create_task(self._watch_files())
                group.create_task(self._watch_strangers())
        finally:
            self._close()

    def _close(self) -> None:
        running = asyncio.get_running_loop()
        for watch in (self._link_watch, self._rules_watch):
            running.remove_reader(watch.fileno())
        self._aside.shutdown()
        for each in (self._link_watch, self._rules_watch, self._links, self._neighbors, self._chains):
            each.close()

    def _link_changed(self) -> None:
        self._link_watch.drain()
        self._links_changed.set()

    def _rule_changed(self) -> None:
        self._rules_watch.drain()
        self._rules_changed.set()

    async def _watch_links(self) -> None:
        """The role changes without a link, so what is known of the links is judged again each time."""
        read_s = -LINKS_AGAIN_S
        while True:
            now_s = time.monotonic()
            if self._links_changed.is_set() or now_s - read_s >= LINKS_AGAIN_S:
                self._links_changed.clear()
                with self._looking("the links"):
                    self._seen = await self._beside(self._links.read)
                    read_s = now_s
            if self._seen:
                role = self._loop.state.role
                self._tell(*judge_links(self.pair, self._node, role, self._seen, self._sending))
            await asyncio.sleep(LINKS_PAUSE_S)
            await _soon(self._links_changed, LOOK_S)

    async def _watch_groups(self) -> None:
        """However many groups others have joined."""
        took_s = 0.0
        while True:
            await asyncio.sleep(max(LOOK_S, LONG_LOOK_PAUSE * took_s))
            if not self._seen:
                continue
            begun_s = time.monotonic()
            with self._looking("who listens for VRRP"):
                seen = await self._beside(read_listening)
                role = self._loop.state.role
                self._joined, found = judge_groups(self.pair, role, self._seen, seen, self._joined)
                self._tell(found)
            took_s = time.monotonic() - begun_s

    async def _hear_peer(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                counted = await ask_counters(self._socket)
            except HafwError:
                self.silence, self._sending = unanswered(self.silence), SendsOver()
                continue  # what conntrackd does not answer the poll reports
            now = time.monotonic_ns()
            known = (self.pair, self._node, self._seen)
            self._sending = hear_sending(*known, self._sending, counted.device)
            link_up = can_send(*known, self._sending)
            self.silence = hear(self.silence, counted.bytes_received, now, link_up=link_up)
            states = max(counted.internal, counted.external or 0, self._room.states if self._room else 0)
            over = " or ".join(self.pair.replication_names.values())
            self._tell(judge_silence(self.silence, states, self._peer, over))

    async def _watch_room(self) -> None:
        while True:
            with self._looking("the conntrack table"):
                room = read_room()
                self._tell(*judge_room(self._room or room, room, self._loop.state.problems))
                self._room = room
            await asyncio.sleep(LOOK_S)

    async def _ask_links(self) -> None:
        adverts = await self._beside(Strangers)
        while True:
            await asyncio.sleep(ROUND_S - ANSWER_WAIT_S)
            role, since_ns = self._loop.state.role, self._loop.log.role_since_ns
            begun_ns = time.monotonic_ns()
            with self._looking("who answers for the virtual addresses"):
                holders = await self._ask_round(role)
                seen = await self._beside(adverts.read_advertised)
                before = self._advertised if role is Role.PRIMARY else Advertised()
                self._advertised = before.and_then(seen)
                if role is self._loop.state.role and since_ns == self._loop.log.role_since_ns:
                    self._judge_holders(role, (begun_ns - since_ns) / 1e9, holders)

    async def _ask_round(self, role: Role) -> tuple[Holder, ...]:
        asked = [
            (interface, link, vip)
            for interface in self.pair.data_interfaces
            if (link := _find_live(self._seen, interface.name)) and (vip := _vip_to_ask(interface, role))
        ]
        await self._beside(partial(self._question, asked))
        await asyncio.sleep(ANSWER_WAIT_S)
        return await self._beside(partial(self._holders, asked))

    def _question(self, asked: Sequence[Question]) -> None:
        for interface, link, vip in asked:
            peer = _own_to_ask(interface, self._peer, vip)
            for address in (vip, peer) if peer else (vip,):
                self._neighbors.question(link.index, address)

    def _holders(self, asked: Sequence[Question]) -> tuple[Holder, ...]:
        return tuple(self._holder(*one) for one in asked)

    def _holder(self, interface: Interface, link: Link, vip: IPAddress) -> Holder:
        peer = _own_to_ask(interface, self._peer, vip)
        return Holder(
            interface.name,
            vip,
            self._neighbors.answer(link.index, vip),
            self._neighbors.answer(link.index, peer) if peer else None,
        )

    def _judge_holders(self, role: Role, role_s: float, holders: tuple[Holder, ...]) -> None:
        rounds = rounds_without_primary(role, holders, self._rounds)
        advertised = self._advertised.beside(role_s, advertised_s(self.pair))
        found = [judge_primaries(role, role_s, holders, self._peer, advertised)]
        if rounds is not None:
            self._rounds = rounds
            found.append(judge_no_primary(rounds, self.pair.failover.advert_interval_ms, holders))
        self._tell(*(one for one in found if one is not None))

    async def _watch_chains(self) -> None:
        while True:
            self._rules_changed.clear()
            begun_s = time.monotonic()
            with self._looking("the rules of other programs"):
                names = frozenset(interface.name for interface in self.pair.every_interface)
                self._tell(judge_chains(await self._beside(self._read_chains), names))
            await asyncio.sleep(max(LOOK_S, LONG_LOOK_PAUSE * (time.monotonic() - begun_s)))
            await _soon(self._rules_changed, CHAINS_AGAIN_S)

    async def _watch_files(self) -> None:
        while True:
            with self._looking("the installed files"):
                pair = self.pair
                found = await self._beside(partial(self._files.find_outdated, pair))
                text = f"{'; '.join(found)}: `hafw setup --dry-run` shows what is to be changed"
                current = "the installed files are what the pair file wants"
                self._tell((Condition.INSTALLED_FILES, not found, text if found else current))
            await asyncio.sleep(FILES_AGAIN_S)

    async def _watch_strangers(self) -> None:
        """At the same price whatever they send. Without our table there is nothing to be said."""
        strangers = await self._beside(Strangers)
        while True:
            await asyncio.sleep(LOOK_S)
            with self._looking("who speaks as the other node"):
                found = await self._beside(strangers.read)
                if found is not None:
                    self._tell((Condition.STRANGER, not found, words(found)))

    def _read_chains(self) -> tuple[BaseChain, ...]:
        return self._chains.read(OURS)

    @contextlib.contextmanager
    def _looking(self, at: str) -> Iterator[None]:
        """What cannot be looked at is a condition of its own, which ends with the next look. A look during
        a change is made again; that much is not worth a word."""
        try:
            yield
        except HafwError as error:
            self._failed[at] = self._failed.get(at, 0) + 1
            reason = f": {error.message}"
        else:
            self._failed.pop(at, None)
            reason = ""
        blind = [what for what, times in self._failed.items() if times >= BLIND_AFTER]
        text = f"the agent cannot see {', '.join(blind)}{reason}" if blind else _SEES_ALL
        self._tell((Condition.BLIND, not blind, text))

    async def _beside(self, look: Callable[[], Found]) -> Found:
        return await scheduling.beside(self._aside, look)

    def _tell(self, *findings: Finding) -> None:
        now = time.monotonic_ns()
        for condition, ok, text in findings:
            self._loop.post(ConditionSeen(now, condition, ok, text))


_SEES_ALL = "the agent sees everything that it looks at"


async def _soon(changed: asyncio.Event, at_most_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await changed.wait()


def _find_live(links: tuple[Link, ...], name: str) -> Link | None:
    return next((link for link in links if link.name == name and link.up and link.carrier), None)


def _vip_to_ask(interface: Interface, role: Role) -> IPAddress | None:
    """All addresses of an interface come and go together, so one is enough; of a primary's own the kernel
    asks for IPv4 ones only."""
    vips = sorted((vip.ip for vip in interface.vips), key=lambda vip: vip.version)
    return next((vip for vip in vips if vip.version == 4 or role is not Role.PRIMARY), None)


def _own_to_ask(interface: Interface, node: str, like: IPAddress) -> IPAddress | None:
    return next((own.ip for own in interface.own(node) if own.version == like.version), None)
