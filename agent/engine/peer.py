# SPDX-License-Identifier: GPL-2.0-or-later
"""What this node tells its peer, and what comes of what the peer tells.

Nearly everything is a condition in the end, and nothing else. Three things are more. In a handover a gate
opens, and the addresses are given up, by the peer's word, for a limited time (engine/handover.py). That both
nodes were primary at once makes a plan, for the states that this has left. And what is said of states is
handed on to the comparison; keepalived is told whether they are all here.
"""

import asyncio
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.adapters.channel_socket import ChannelSocket
from agent.channel.local import (
    MAX_KEY_FILE,
    OTHER_KEY,
    ROOM_ONCE,
    ChannelSettings,
    HeardFrom,
    Once,
    PeerRefused,
    Tell,
    Unusable,
    Usable,
    join_command,
    pack,
    unpack,
)
from agent.channel.local import Path as PeerPath
from agent.channel.messages import MessageError, PeerMessage, decode, encode
from agent.core.calls import Ask, Reply
from agent.core.comparison import StatesMessage
from agent.core.conditions import Condition, Finding
from agent.core.events import SplitEnded
from agent.core.facts import NodeFacts
from agent.core.peer import (
    SILENT_S,
    TOLD_S,
    Differing,
    Heard,
    NodeStatus,
    judge_paths,
    judge_peer,
    judge_split,
)
from agent.engine.executor import Beside
from agent.errors import HafwError
from agent.model.pair import Interface, Pair
from agent.regular_file import read_regular

AGAIN_S = 1.0
FIRST_WORD_S = 2.5
"""An attempt to connect that hangs, and the pause after it."""
UNANSWERED_S = 1.5 * TOLD_S
"""So old may be the last answer of `hafw channel`: to what was told it a turn ago, and a little."""
MAX_PATHS = 4
STATUS, FACTS = "status", "facts"
MASTER_DOWN_ADVERTS = 4.0
OTHER_KEY_S = 10.0
"""So long after one that had another key was refused a silent peer is thought to be that one."""

Compose = Callable[[tuple[str, ...]], NodeStatus]
"""This node in its own words, with the paths by which it hears the peer."""


class PeerWatch:
    """Tells and listens. The disk is looked at beside the loop, and nobody waits for that."""

    def __init__(
        self,
        pair: Pair,
        node: str,
        files: tuple[Path, Path],
        compose: Compose,
        tell: Callable[[Finding], None],
        post: Callable[[SplitEnded], None],
        refuse: Callable[[str], None],
        beside: Beside,
    ) -> None:
        """`files`: the socket of `hafw channel`, and the key of the pair."""
        self.hear: Callable[[StatesMessage], None] = lambda _message: None
        """Called with what the peer says of states."""
        self._pair, self._node, self._peer = pair, node, pair.peer_of(node).name
        self._socket_path, self._key_file = files
        self._compose, self._tell, self._post = compose, tell, post
        self._refuse, self._beside = refuse, beside
        self._socket: ChannelSocket | None = None
        self._key: str | None = None
        self._usable_s = -SILENT_S
        self._other_key_s = float("-inf")
        self._waiting = 0
        """What was to be told once, and waits for a path."""
        self._differing = Differing()
        self._split_told_s = 0.0
        self.on_status: Callable[[NodeStatus], None] = lambda _status: None
        """Called with each word of the peer; must return at once."""
        self._own_facts: NodeFacts | None = None
        self._facts: NodeFacts | None = None
        self.heard = self._listen_again()
        self.on_call: Callable[[Ask | Reply], None] = lambda _: None
        """What belongs to a question of one node to the other."""

    def say(self, topic: str, message: PeerMessage | None) -> None:
        """From now on, and again where a connection is made again; None: nothing of this topic any more."""
        if self._socket is not None:
            self._socket.send(pack(Tell(topic, encode(message) if message is not None else b"")))

    def why_unheard(self) -> str | None:
        """None while the peer's agent is heard."""
        if self._socket is None:
            return f"this node does not talk to {self._peer}: see hafw status"
        if self.heard.status is None or self.heard.is_silent(time.monotonic()):
            return f"the agent of {self._peer} is not heard"
        return None

    def tell_facts(self, facts: NodeFacts) -> None:
        """To the peer, now and each time that it is there again."""
        self._own_facts = facts
        self.say(FACTS, facts)

    @property
    def facts(self) -> NodeFacts | None:
        """Of the peer; None unless it is heard."""
        return None if self.heard.is_silent(time.monotonic()) else self._facts

    def take(self, pair: Pair) -> None:
        """Of a reload."""
        before, self._pair = self._pair, pair
        if pair.sync.channel_port != before.sync.channel_port:
            self._close()

    def speak(self, message: StatesMessage) -> bool:
        """To the peer, once. False when there is no room for it now."""
        room = self._socket is not None and self._waiting < ROOM_ONCE
        return room and self._socket is not None and self._socket.send(pack(Once(encode(message))))

    def status(self) -> NodeStatus | None:
        """The peer's newest word, None while it is silent."""
        return None if self.heard.is_silent(time.monotonic()) else self.heard.status

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_key())
            try:
                while True:
                    self._turn(time.monotonic())
                    await asyncio.sleep(TOLD_S)
            finally:
                self._close()

    def describe_own(self) -> NodeStatus:
        """As the peer is told."""
        return self._compose(self.heard.heard_by(time.monotonic()))

    def say_status(self) -> None:
        """At once, beside the words that come in any case."""
        self.say(STATUS, self.describe_own())

    def _turn(self, now_s: float) -> None:
        own = self._compose(self.heard.heard_by(now_s))
        if self._socket is None:
            return
        self.say(STATUS, own)
        unanswered_s = now_s - self._usable_s
        if unanswered_s > SILENT_S:
            self._say_unusable("hafw channel, which speaks for it, does not answer")
        if unanswered_s > UNANSWERED_S:
            return  # it may hang: who is not heard by it may speak nevertheless
        takeover_s = MASTER_DOWN_ADVERTS * self._pair.failover.advert_interval_ms / 1000
        names = (self._node, self._peer)
        self._judge_split(own, names, now_s)
        self._differing, found = judge_peer(own, self.heard, names, takeover_s, self._differing, now_s)
        for one in (*judge_paths(self.heard, self._peer, self._pair.replication_names, now_s), *found):
            self._tell(self._with_cure(one, now_s))

    def _with_cure(self, found: Finding, now_s: float) -> Finding:
        condition, ok, text = found
        if condition is not Condition.PEER or ok or now_s - self._other_key_s > OTHER_KEY_S:
            return found
        return condition, ok, f"{text}; it has another key: {self._how_to_join()}"

    def _how_to_key(self) -> str:
        return f"make one on {self._pair.nodes[0].name}: hafw pair key; then {self._how_to_join()}"

    def _how_to_join(self) -> str:
        """The same words on both nodes: of two that each took the other's key they would still differ."""
        first, second = (node.name for node in self._pair.nodes)
        return f"type on {second}: {join_command(first, self._key_file)}"

    def _judge_split(self, own: NodeStatus, names: tuple[str, str], now_s: float) -> None:
        """Where nobody saw it while it lasted, it is recorded now; that it is over is found at once."""
        self._split_told_s, text = judge_split(own, self.heard, names, self._split_told_s, now_s)
        if text:
            self._tell((Condition.SPLIT_BRAIN, False, text))
            self._post(SplitEnded(time.monotonic_ns(), text))

    async def _watch_key(self) -> None:
        """One that is changed is used from now on."""
        while True:
            try:
                key = await self._beside(partial(read_key, self._key_file, self._how_to_key()))
            except HafwError as error:
                self._close()
                self._say_unusable(str(error))
            else:
                if key != self._key:
                    self._close()
                self._key = key
                if self._socket is None:
                    self._open(key)
            await asyncio.sleep(AGAIN_S)

    def _open(self, key: str) -> None:
        try:
            self._socket = ChannelSocket(self._socket_path, self._take, self._lost)
        except OSError as error:
            self._say_unusable(f"nobody listens at {self._socket_path} ({error.strerror})")
            return
        paths, port = tuple(find_paths(self._pair, self._node)), self._pair.sync.channel_port
        settings = ChannelSettings(self._node, self._peer, self._pair.name, key, port, paths)
        self._socket.send(pack(settings))
        if self._own_facts is not None:
            self.say(FACTS, self._own_facts)
        self._usable_s, self._waiting = time.monotonic(), 0
        self._facts = None
        self.heard = self._listen_again()

    def _listen_again(self) -> Heard:
        """The first word may take as long as the peer takes to connect."""
        paths = {path.interface: 0.0 for path in find_paths(self._pair, self._node)}
        return Heard(paths, since_s=time.monotonic() + FIRST_WORD_S)

    def _say_unusable(self, reason: str) -> None:
        self._tell((Condition.PEER_KEY, False, f"this node does not talk to {self._peer}: {reason}"))

    def _lost(self) -> None:
        self._socket = None

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _take(self, data: bytes) -> None:
        try:
            one = unpack(data)
            message = decode(one.message) if isinstance(one, HeardFrom) else None
        except MessageError as error:
            self._refuse(f"what hafw channel sent: {error}")
            return
        now_s = time.monotonic()
        match one:
            case HeardFrom() if isinstance(message, NodeStatus) and one.interface in self.heard.paths:
                paths = {**self.heard.paths, one.interface: now_s}
                self.heard = Heard(paths, message, now_s, min(self.heard.since_s, now_s))
                self.on_status(message)
            case HeardFrom() if isinstance(message, Ask | Reply):
                self.on_call(message)
            case HeardFrom() if isinstance(message, NodeFacts) and one.interface in self.heard.paths:
                self._facts = message
            case HeardFrom() if isinstance(message, StatesMessage) and one.interface in self.heard.paths:
                self.hear(message)
            case PeerRefused() if one.interface in self.heard.paths:
                self._refuse(f"a connection of {one.interface} as the other node: {one.reason}")
                if one.reason == OTHER_KEY:
                    self._other_key_s = now_s
            case Usable():
                self._usable_s, self._waiting = now_s, one.waiting
                self._tell((Condition.PEER_KEY, True, f"this node talks to {self._peer}"))
            case Unusable():
                self._say_unusable(f"{self._key_file}: {one.reason}")
                self._close()


def read_key(place: Path, else_do: str) -> str:
    """Raises HafwError when there is none, or others than root may have read it."""
    text = read_regular(place, MAX_KEY_FILE, else_do=else_do).decode("ascii", "replace")
    try:
        there = place.stat()
    except OSError as error:
        raise HafwError(f"{place} cannot be looked at: {error.strerror}") from error
    if there.st_uid != 0 or stat.S_IMODE(there.st_mode) & 0o077:
        raise HafwError(f"{place} is not root's alone", f"chown root: {place} && chmod 600 {place}")
    return text


def find_paths(pair: Pair, node: str) -> list[PeerPath]:
    """The sync links first, and as many data links as MAX_PATHS leaves: each costs memory and words."""
    peer = pair.peer_of(node).name
    links = (*pair.replication_links, *pair.data_interfaces)
    found = (_path_of(link, node, peer) for link in links)
    return [path for path in found if path is not None][:MAX_PATHS]


def _path_of(link: Interface, node: str, peer: str) -> PeerPath | None:
    """IPv4 if both nodes have it there: each of them has to choose the same."""
    ends = (
        (own.ip, other.ip)
        for own in link.own(node)
        for other in link.own(peer)
        if own.version == other.version and not own.ip.is_link_local and not other.ip.is_link_local
    )
    first = min(ends, key=lambda both: both[0].version, default=None)
    return PeerPath(link.name, *map(str, first)) if first is not None else None
