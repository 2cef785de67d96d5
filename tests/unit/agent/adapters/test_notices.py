# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook's datagrams: real sockets, real users, and whatever bytes there are."""

import asyncio
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.notices import (
    AT_ONCE,
    MAX_BYTES,
    OLDEST_S,
    Notice,
    NoticeSocket,
    RefusedError,
    parse_notice,
)
from agent.core.assess import VrrpState
from agent.errors import HafwError

NOW = 10**15
needs_root = pytest.mark.root(reason="only root can be another user")
may_notify = pytest.mark.root(reason="only root may send notices")


def datagram(*changes: tuple[int, str], now_ns: int = NOW) -> bytes:
    """What the hook sends, with some fields changed."""
    fields = ["hafw1", "INSTANCE", "VI_1", "MASTER", "100", str(now_ns), "4711", "end"]
    for index, text in changes:
        fields[index] = text
    return "\0".join(fields).encode("utf-8", "surrogateescape")


@dataclass
class Ear:
    """A real notice socket with what it heard."""

    path: Path
    heard: list[Notice] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket = NoticeSocket(self.heard.append, self.refused.append)
        self.socket.listen(self.path)

    def send(self, *data: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.connect(str(self.path))
            for each in data:
                out.send(each)
                self.socket.receive()


@pytest.fixture
def ear() -> Iterator[Ear]:
    # reachable for every user, unlike tmp_path
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        made = Ear(Path(directory) / "notify.sock")
        yield made
        made.socket.close()


def now_datagram(*changes: tuple[int, str]) -> bytes:
    return datagram(*changes, now_ns=time.monotonic_ns())


def test_a_good_notice() -> None:
    assert parse_notice(datagram(), NOW) == Notice("INSTANCE", "VI_1", VrrpState.MASTER, NOW, 4711)


BAD = {
    "empty": b"",
    "not ours": b"GET / HTTP/1.1\r\n\r\n",
    "another version": datagram((0, "hafw2")),
    "oversized": b"x" * (MAX_BYTES + 1),
    "truncated": datagram()[:-1],
    "truncated more": datagram()[:20],
    "a field more": datagram() + b"\0end",
    "not ASCII": datagram((2, "VI_ä")),
    "not text": datagram()[:-3] + b"\xff\xfe\xfd",
    "unknown type": datagram((1, "THING")),
    "unknown state": datagram((3, "KING")),
    "small letters": datagram((3, "master")),
    "a newline in the name": datagram((2, "VI\n1")),
    "an escape in the name": datagram((2, "\x1b[2J")),
    "no priority": datagram((4, "")),
    "a negative priority": datagram((4, "-1")),
    "a time that is none": datagram((5, "now")),
    "a time of 30 digits": datagram((5, "9" * 30)),
    "a pid that is none": datagram((6, "x")),
    "a pid of 5000 digits": datagram((6, "1" * 500)),
    "from the future": datagram((5, str(NOW + 1))),
    "too old": datagram((5, str(NOW - int(OLDEST_S * 1e9) - 1))),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_datagrams_are_refused_with_a_reason(name: str) -> None:
    with pytest.raises(RefusedError) as raised:
        parse_notice(BAD[name], NOW)
    assert raised.value.message.isprintable()
    assert raised.value.message.startswith(("a notice", "a datagram", "a truncated"))


@given(
    st.one_of(
        st.binary(max_size=2 * MAX_BYTES),
        st.builds(
            lambda texts: "\0".join(texts).encode("utf-8", "surrogatepass"),
            st.lists(
                st.one_of(st.text(max_size=30), st.sampled_from(datagram().decode().split("\0"))), max_size=9
            ),
        ),
        st.builds(
            lambda index, text: datagram((index, text)),
            st.integers(0, 7),
            st.text(max_size=50),
        ),
    )
)
def test_whatever_comes_is_a_notice_or_refused(data: bytes) -> None:
    with suppress(RefusedError):
        notice = parse_notice(data, NOW)
        assert notice.name.isprintable()
        assert notice.name.isascii()
        assert NOW - OLDEST_S * 1e9 <= notice.sent_ns <= NOW


@may_notify
def test_a_notice_comes_through_the_socket_once(ear: Ear) -> None:
    good = now_datagram()
    ear.send(good, good, b"", b"x" * 100_000, good[:-4])
    assert [notice.state for notice in ear.heard] == [VrrpState.MASTER]
    assert ear.refused == [
        "a notice that was received before",
        "a datagram that does not come from the hook",
        f"a datagram of more than {MAX_BYTES} bytes",
        "a truncated datagram",
    ]


def test_the_socket_is_for_the_owner_and_the_group(ear: Ear) -> None:
    assert ear.path.stat().st_mode & 0o7777 == 0o660


@needs_root
def test_another_user_is_refused_even_if_the_file_allows_it(ear: Ear) -> None:
    ear.path.chmod(0o666)
    program = "import socket, sys; s = socket.socket(1, 2); s.connect(sys.argv[1])"
    program += "; s.send(sys.stdin.buffer.read())"
    argv = ["/usr/bin/python3", "-ISc", program, str(ear.path)]
    subprocess.run(
        argv, input=now_datagram(), user=65534, group=65534, extra_groups=[], check=True, timeout=20
    )
    ear.socket.receive()
    assert ear.heard == []
    assert ear.refused == ["a datagram from user 65534, who may not send any"]


@needs_root
def test_another_user_cannot_even_reach_the_socket(ear: Ear) -> None:
    program = "import socket, sys; socket.socket(1, 2).connect(sys.argv[1])"
    argv = ["/usr/bin/python3", "-ISc", program, str(ear.path)]
    done = subprocess.run(argv, user=65534, group=65534, extra_groups=[], capture_output=True, timeout=20)
    assert b"PermissionError" in done.stderr


def test_descriptors_in_a_datagram_are_not_taken(ear: Ear) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect(str(ear.path))
        socket.send_fds(out, [now_datagram()], [0, 1, 2])
        ear.socket.receive()
    assert len(os.listdir("/proc/self/fd")) == before


@may_notify
def test_a_socket_of_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        left = NoticeSocket(lambda _: None, lambda _: None)
        left.listen(tmp_path / "s")
    last = Ear(tmp_path / "s")
    last.send(now_datagram())
    assert len(last.heard) == 1
    last.socket.close()
    assert not (tmp_path / "s").exists(), "hooks must see that nobody listens"


def make_file(path: Path) -> None:
    path.write_text("precious")


@pytest.mark.parametrize("make", [make_file, Path.mkdir, os.mkfifo])
def test_a_file_of_another_kind_is_left_alone(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "notify.sock"
    make(path)
    before = path.lstat()
    made = NoticeSocket(lambda _: None, lambda _: None)
    with pytest.raises(HafwError, match="is not a socket; remove it"):
        made.listen(path)
    made.close()
    assert path.lstat() == before


def test_a_link_to_a_socket_is_left_alone(tmp_path: Path, ear: Ear) -> None:
    path = tmp_path / "notify.sock"
    path.symlink_to(ear.path)
    with pytest.raises(HafwError, match="is not a socket"):
        NoticeSocket(lambda _: None, lambda _: None).listen(path)


@pytest.mark.parametrize("name", ["missing/notify.sock", "x" * 120])
def test_a_place_where_no_socket_can_be(tmp_path: Path, name: str) -> None:
    made = NoticeSocket(lambda _: None, lambda _: None)
    with pytest.raises(HafwError, match="cannot listen for notices"):
        made.listen(tmp_path / name)
    made.close()


def test_a_flood_does_not_keep_the_loop_from_its_work(ear: Ear) -> None:
    """10,000 datagrams, as fast as another process can send them."""
    program = """
import socket, sys, time
out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
out.connect(sys.argv[1])
for number in range(10_000):
    fields = ("hafw1", "INSTANCE", "VI_1", "MASTER", "100", str(time.monotonic_ns()), str(number), "end")
    out.send("\\0".join(fields).encode() if number % 2 else b"flood %d" % number)
"""

    def count() -> int:
        return len(ear.heard) + len(ear.refused)

    async def scenario() -> int:
        running = asyncio.get_running_loop()
        running.add_reader(ear.socket.fileno(), ear.socket.receive)
        sender = await asyncio.create_subprocess_exec("/usr/bin/python3", "-ISc", program, str(ear.path))
        sent = asyncio.ensure_future(sender.wait())
        most = last = 0
        while not sent.done():
            await asyncio.sleep(0)
            most, last = max(most, count() - last), count()
        ear.socket.receive()
        running.remove_reader(ear.socket.fileno())
        return most

    most = asyncio.run(scenario())
    assert count() >= 9_900
    assert most <= AT_ONCE, "the loop stalls while datagrams come in"
    assert len(ear.socket._seen) <= 256, "it remembers without end"


def test_closing_twice(ear: Ear) -> None:
    ear.socket.close()
    with suppress(OSError):
        ear.socket.receive()
