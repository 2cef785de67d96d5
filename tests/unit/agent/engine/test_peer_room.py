# SPDX-License-Identifier: GPL-2.0-or-later
"""A path that is slower than the agent speaks."""

from collections import deque
from pathlib import Path

from agent.adapters.channel_socket import ChannelSocket
from agent.channel.local import MAX_ONCE, Once, Usable, pack, unpack
from agent.channel.messages import decode
from agent.config.loader import parse
from agent.core.comparison import StatesTouched
from agent.core.peer import NodeStatus
from agent.core.roles import Role
from agent.engine.executor import in_place
from agent.engine.peer import PeerWatch
from tests.unit.agent.small_pair import SMALL

IN_THE_SOCKET = 8
"""Words that the channel has not read yet."""
MANY = 4 * MAX_ONCE


class SlowChannel(ChannelSocket):
    """Reads a few words late, and answers each of them; a path takes one in ten."""

    def __init__(self) -> None:
        self.unread: deque[bytes] = deque()
        self.once: deque[bytes] = deque()
        self.sent: list[bytes] = []
        self.words = 0

    def send(self, data: bytes) -> bool:
        self.unread.append(data)
        return True

    def turn(self, watch: PeerWatch) -> None:
        self.words += 1
        while len(self.unread) > IN_THE_SOCKET:
            self._read(watch)
        if self.once and self.words % 10 == 0:
            self.sent.append(self.once.popleft())

    def _read(self, watch: PeerWatch) -> None:
        one = unpack(self.unread.popleft())
        if isinstance(one, Once):
            self.once.append(one.message)
        assert len(self.once) <= MAX_ONCE, "the oldest would be thrown away"
        watch._take(pack(Usable(len(self.once))))


def test_a_list_that_is_longer_than_a_slow_path_takes_at_once_arrives_whole() -> None:
    channel = SlowChannel()
    status = NodeStatus(Role.PRIMARY, 1.0, True, 0.0)
    files = (Path("/no/socket"), Path("/no/key"))
    watch = PeerWatch(parse(SMALL), "fw-1", files, lambda _: status, print, print, print, in_place)
    watch._socket = channel
    said = refused = 0
    while len(channel.sent) < MANY:
        accepted = said < MANY and watch.speak(StatesTouched(said, 0))
        said, refused = said + accepted, refused + (not accepted)
        if channel.words % 5 == 0 or said == MANY:
            watch.say("status", status)
        channel.turn(watch)
    assert refused, "it was never full"
    assert [decode(one) for one in channel.sent] == [StatesTouched(number, 0) for number in range(MANY)]
