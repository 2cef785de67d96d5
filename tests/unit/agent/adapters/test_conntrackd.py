# SPDX-License-Identifier: GPL-2.0-or-later
"""conntrackd's adapter with a fake tool: recorded real answers, and what a tool should never say."""

import asyncio
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters import conntrackd as adapter
from agent.adapters import process
from agent.adapters.conntrackd import (
    Conntrackd,
    Statistics,
    parse_commit,
    parse_expectations,
    parse_statistics,
)
from agent.core.actions import Committed, StatesIn
from agent.errors import ToolError, UnavailableError
from agent.model.pair import SyncMode
from agent.paths import Paths
from tests.checkout import RECORDED

CACHE = (RECORDED / "cache-statistics.txt").read_text()
CACHE_EXPECTATIONS = (RECORDED / "cache-expectations.txt").read_text()
DIRECT = (RECORDED / "direct-statistics.txt").read_text()
NOT_RUNNING = (RECORDED / "not-running.txt").read_text()
LOG = (RECORDED / "cache.log").read_text()

TOOL = """#!/bin/sh
# says and does what the test has put beside it, under the name of the request
here=$(dirname "$0")
[ "$1" = -C ] || exit 99
shift 2
echo "$*" >> "$here/calls"
. "$here/answer$(printf %s "$*" | tr -d ' ')"
"""


def external(count: int, text: str = CACHE) -> str:
    """Recorded statistics with another number of states in the external cache."""
    head, title, rest = text.partition("cache external:\ncurrent active connections:\t           ")
    assert title
    return f"{head}{title}{count}{rest[1:]}"


def log_line(text: str) -> str:
    return f"[Sun Nov 22 16:31:35 2026] (pid=28054) [notice] {text}\n"


@dataclass
class FakeTool:
    directory: Path

    def __post_init__(self) -> None:
        self.paths = Paths(
            conntrackd=self.directory / "conntrackd",
            conntrackd_config=self.directory / "conntrackd.conf",
            conntrackd_log=self.directory / "log",
            conntrackd_socket=self.directory / "ctl",
        )
        self.paths.conntrackd.write_text(TOOL)
        self.paths.conntrackd.chmod(0o755)
        self.paths.conntrackd_log.write_text(LOG)
        self.answers("-s", CACHE)
        self.answers("-s expect", CACHE_EXPECTATIONS)
        for request in ("-c", "-f", "-B", "-n", "-R", "-t"):
            self.does(request, ":")

    def does(self, request: str, script: str) -> None:
        (self.directory / f"answer{request.replace(' ', '')}").write_text(script)

    def answers(self, request: str, text: str, exit_status: int = 0) -> None:
        (self.directory / f"text{request.replace(' ', '')}").write_text(text)
        self.does(request, f'cat "$here/text{request.replace(" ", "")}"; exit {exit_status}')

    def logs(self, request: str, *lines: str) -> None:
        (self.directory / "lines").write_text("".join(map(log_line, lines)))
        self.does(request, 'cat "$here/lines" >> "$here/log"')

    @property
    def calls(self) -> list[str]:
        return (self.directory / "calls").read_text().splitlines()

    def conntrackd(self, mode: SyncMode = SyncMode.CACHE, *, expectations: bool = False) -> Conntrackd:
        return Conntrackd(self.paths, mode, process.run, expectations=expectations)

    def commit(self, *, expectations: bool = False) -> Committed:
        return asyncio.run(self.conntrackd(expectations=expectations).commit(5.0))


@pytest.fixture
def tool(tmp_path: Path) -> FakeTool:
    return FakeTool(tmp_path)


def test_recorded_statistics_of_both_modes() -> None:
    assert parse_statistics(CACHE) == Statistics(1, 0, None, 0, 0, 0, 0, "lo")
    assert parse_statistics(DIRECT) == Statistics(1, None, 0, 0, 0, 0, 0, "lo")
    assert parse_statistics(external(4711)).from_peer == 4711
    assert parse_expectations(CACHE_EXPECTATIONS) == 0
    assert parse_expectations(external(3, CACHE_EXPECTATIONS)) == 3
    assert parse_expectations("") == 0, "nothing is said where expectations are not replicated"


def test_the_recorded_log_of_a_commit() -> None:
    assert parse_commit(LOG, 0) == Committed(0, 0, 0, skipped=False, evidence="log")


def test_a_complete_commit(tool: FakeTool) -> None:
    tool.answers("-s", external(500))
    tool.logs(
        "-c", "committing all external caches", "Committed 500 new entries", "commit has taken 0.004 seconds"
    )
    found = tool.commit()
    assert found == Committed(500, 500, 0, skipped=False, evidence="log")
    assert found.complete
    assert tool.calls == ["-s", "-c"]


def test_expectations_count_as_well(tool: FakeTool) -> None:
    tool.answers("-s", external(500))
    tool.answers("-s expect", external(7, CACHE_EXPECTATIONS))
    tool.logs(
        "-c",
        "Committed 500 new entries",
        "Committed 6 new expectations",
        "1 expectations can't be committed",
    )
    found = tool.commit(expectations=True)
    assert found == Committed(507, 506, 1, skipped=False, evidence="log")
    assert not found.complete


def test_a_partial_commit(tool: FakeTool) -> None:
    tool.answers("-s", external(500))
    tool.logs("-c", "Committed 497 new entries", "3 entries can't be committed")
    found = tool.commit()
    assert (found.committed, found.failed, found.skipped, found.complete) == (497, 3, False, False)


def test_fewer_than_expected_without_a_word_about_it(tool: FakeTool) -> None:
    tool.answers("-s", external(500))
    tool.logs("-c", "Committed 200 new entries")
    assert not tool.commit().complete


def test_a_skipped_commit(tool: FakeTool) -> None:
    tool.answers("-s", external(500))
    tool.logs("-c", "commit already in progress, skipping")
    found = tool.commit()
    assert (found.committed, found.skipped, found.complete) == (0, True, False)


def test_a_skipped_commit_while_the_other_one_ends(tool: FakeTool) -> None:
    """The numbers in the log are then those of another program's commit."""
    tool.answers("-s", external(500))
    tool.logs("-c", "commit already in progress, skipping", "Committed 500 new entries")
    assert tool.commit().skipped


def test_an_old_commit_in_the_log_does_not_count(tool: FakeTool) -> None:
    tool.answers("-s", external(500))
    with tool.paths.conntrackd_log.open("a") as log:
        log.write(log_line("Committed 500 new entries"))
    assert tool.commit().skipped


def test_no_log_file_then_the_kernel_is_asked(tool: FakeTool, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.paths.conntrackd_log.unlink()
    tool.answers("-s", external(500))
    monkeypatch.setattr(adapter, "kernel_states", lambda: 499)
    assert tool.commit() == Committed(500, 499, 0, skipped=False, evidence="kernel")
    monkeypatch.setattr(adapter, "kernel_states", lambda: 70_000)
    assert tool.commit().complete


def test_a_log_file_that_comes_into_being_with_the_commit(tool: FakeTool) -> None:
    tool.paths.conntrackd_log.unlink()
    tool.answers("-s", external(5))
    tool.logs("-c", "Committed 5 new entries")
    assert tool.commit() == Committed(5, 5, 0, skipped=False, evidence="log")


def test_a_log_that_is_rotated_meanwhile(tool: FakeTool) -> None:
    tool.answers("-s", external(5))
    (tool.directory / "lines").write_text(log_line("Committed 5 new entries"))
    tool.does("-c", 'mv "$here/log" "$here/log.1"; cat "$here/lines" > "$here/log"')
    assert tool.commit().complete
    tool.does("-c", 'cp "$here/log" "$here/log.1"; cat "$here/lines" > "$here/log"')
    tool.paths.conntrackd_log.write_text(LOG * 3)
    assert tool.commit().complete, "copied away and truncated"


def test_a_log_that_was_rotated_and_is_longer_than_before(tool: FakeTool) -> None:
    tool.paths.conntrackd_log.write_text(log_line("resync") * 2)
    tool.answers("-s", external(5))
    (tool.directory / "lines").write_text(
        log_line("Committed 5 new entries") + LOG.replace("Committed", "committed")
    )
    tool.does("-c", 'mv "$here/log" "$here/log.1"; cat "$here/lines" > "$here/log"')
    assert tool.commit().complete


def test_a_log_with_bytes_that_are_no_text(tool: FakeTool) -> None:
    tool.answers("-s", external(5))
    (tool.directory / "lines").write_bytes(b"\xff\xfe\0\n" + log_line("Committed 5 new entries").encode())
    tool.does("-c", 'cat "$here/lines" >> "$here/log"')
    assert tool.commit().complete


def test_a_log_that_is_written_without_end(tool: FakeTool) -> None:
    tool.answers("-s", external(5))
    tool.does("-c", 'yes "commit error: some entry" | head -c 30000000 >> "$here/log"')
    begun = time.monotonic()
    assert tool.commit().skipped
    assert time.monotonic() - begun < 5


def test_a_flush_that_was_ignored(tool: FakeTool) -> None:
    tool.logs("-f", "ignoring flush command, commit still in progress")
    with pytest.raises(
        ToolError, match="did not flush its caches because a commit was still running"
    ) as raised:
        asyncio.run(tool.conntrackd().flush_caches())
    assert raised.value.retryable
    tool.logs("-f", "flushing caches")
    asyncio.run(tool.conntrackd().flush_caches())


def test_the_kernel_is_emptied_after_the_caches(tool: FakeTool) -> None:
    """Else conntrackd would tell the peer to delete all of it."""
    for request in ("-f", "-F"):
        tool.does(request, "exit 0")
    asyncio.run(tool.conntrackd().start_clean())
    assert tool.calls[-2:] == ["-f", "-F"]
    tool.logs("-f", "ignoring flush command, commit still in progress")
    with pytest.raises(ToolError, match="did not flush its caches"):
        asyncio.run(tool.conntrackd().start_clean())
    assert tool.calls[-1] == "-f"


ASK = {
    "-f": lambda c: c.flush_caches(),
    "-R": lambda c: c.resync_kernel(),
    "-B": lambda c: c.send_bulk(),
    "-n": lambda c: c.request_resync(),
    "-t": lambda c: c.shorten_timers(),
    "-s": lambda c: c.statistics(),
    "-c": lambda c: c.commit(5.0),
}


@pytest.mark.parametrize("request_", ASK)
def test_nobody_there(tool: FakeTool, request_: str) -> None:
    (tool.directory / f"text{request_}").write_text(NOT_RUNNING)
    tool.does(request_, f'cat "$here/text{request_}" >&2; exit 1')
    with pytest.raises(UnavailableError) as raised:
        asyncio.run(ASK[request_](tool.conntrackd()))
    words = "can't connect: is conntrackd running? appropriate permissions?"
    assert raised.value.message == f"conntrackd {request_} failed: {words}"
    assert raised.value.hint


@pytest.mark.parametrize("script", ["exit 1", "echo >&2; exit 1", "kill -9 $$"])
def test_a_failure_without_words(tool: FakeTool, script: str) -> None:
    tool.does("-s", script)
    with pytest.raises(UnavailableError, match="no reason given"):
        asyncio.run(tool.conntrackd().statistics())


def test_no_such_tool(tool: FakeTool) -> None:
    tool.paths.conntrackd.unlink()
    with pytest.raises(ToolError, match=r"cannot start .*/conntrackd: No such file or directory"):
        asyncio.run(tool.conntrackd().statistics())


NONSENSE = {
    "empty": "",
    "blank": "\n\n\n",
    "garbage": "\x00\x01\x7f garbage",
    "an error text": "ERROR: unknown request\n",
    "localized": "interner Zwischenspeicher:\naktive Verbindungen:\t\t 12\n",
    "statistics mode": "cache stats:\ncurrent active connections:\t           5\n",
    "half of it": CACHE[: CACHE.index("cache external")],
    "no numbers": CACHE.replace("0", "x").replace("1", "x"),
    "no numbers, direct": DIRECT.replace("0", "x").replace("1", "x"),
    "numbers in another alphabet": CACHE.replace("0", "٠").replace("1", "١"),
    "a number without end": external(5).replace("           5", "9" * 5000),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_statistics_that_make_no_sense(tool: FakeTool, what: str) -> None:
    tool.answers("-s", NONSENSE[what])
    with pytest.raises(ToolError, match="conntrackd's statistics are invalid") as raised:
        asyncio.run(tool.conntrackd().statistics())
    assert str(raised.value).isprintable()


def test_a_commit_whose_expectation_cannot_be_read_does_not_begin(tool: FakeTool) -> None:
    tool.answers("-s", "ERROR: unknown request\n")
    with pytest.raises(ToolError):
        tool.commit()
    assert tool.calls == ["-s"]


def test_an_answer_without_end(tool: FakeTool) -> None:
    tool.does("-s", "exec yes 'cache internal:'")
    with pytest.raises(ToolError, match="printed more than 1 MiB"):
        asyncio.run(tool.conntrackd().statistics())


def test_a_tool_that_never_ends(tool: FakeTool) -> None:
    tool.does("-c", 'echo $$ > "$here/pid"; exec sleep 60')
    # what the questions before it took of the limit is gone
    with pytest.raises(ToolError, match=r" -c did not answer within \d") as raised:
        asyncio.run(tool.conntrackd().commit(1.0))
    assert raised.value.retryable
    with pytest.raises(ProcessLookupError):
        os.kill(int((tool.directory / "pid").read_text()), 0)


def test_timers_are_never_shortened_in_direct_mode(tool: FakeTool) -> None:
    with pytest.raises(AssertionError, match="deletes replicated states"):
        asyncio.run(tool.conntrackd(SyncMode.DIRECT).shorten_timers())
    assert not (tool.directory / "calls").exists()


def from_peer(states: int, received: int) -> str:
    return external(states).replace("0 Bytes recv", f"{received} Bytes recv")


def test_states_are_in_when_the_stream_has_ended(tool: FakeTool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "QUIET_S", 0.01)
    for number, states in enumerate((0, 4000, 9000, 9050, 99_999), 1):
        (tool.directory / f"look{number}").write_text(from_peer(states, states * 100))
    tool.does("-s", 'cat "$here/look$(grep -c . "$here/calls")"')
    assert asyncio.run(tool.conntrackd().await_states(5.0)) == StatesIn(9050, peer_heard=True)


def test_a_silent_peer_is_not_waited_for_long(tool: FakeTool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "QUIET_S", 0.01)
    monkeypatch.setattr(adapter, "SILENT_PEER_S", 0.1)
    tool.answers("-s", from_peer(12, 0))
    assert asyncio.run(tool.conntrackd().await_states(5.0)) == StatesIn(12, peer_heard=False)


def test_another_conntrackd_is_known_by_its_socket(tool: FakeTool) -> None:
    found = tool.conntrackd()
    assert found.socket_identity() is None
    os.mknod(tool.paths.conntrackd_socket, stat.S_IFSOCK | 0o600)
    first = found.socket_identity()
    assert first is not None
    assert first == found.socket_identity()
    other = tool.directory / "other"
    os.mknod(other, stat.S_IFSOCK | 0o600)
    other.rename(tool.paths.conntrackd_socket)
    assert found.socket_identity() not in (None, first)


@given(
    st.text(max_size=300)
    | st.builds(
        lambda a, b, c: CACHE[:a] + c + CACHE[b:],
        st.integers(0, 900),
        st.integers(0, 900),
        st.text(max_size=20),
    )
)
def test_whatever_the_tool_prints_is_statistics_or_an_error(text: str) -> None:
    with suppress(ToolError):
        assert parse_statistics(text).internal >= 0
    assert parse_expectations(text) >= 0
    assert parse_commit(text, 5).expected == 5


def test_what_was_lost_while_states_came_in_is_reported(
    tool: FakeTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was lost meanwhile: conntrackd counts for as long as it runs."""
    monkeypatch.setattr(adapter, "QUIET_S", 0.01)
    for number, (states, lost) in enumerate(((0, 50), (4000, 50), (4000, 56)), 1):
        text = from_peer(states, 1 + states * 100)
        (tool.directory / f"look{number}").write_text(text.replace("0 Lost msgs", f"{lost} Lost msgs"))
    tool.does("-s", 'cat "$here/look$(grep -c . "$here/calls")"')
    found = asyncio.run(tool.conntrackd().await_states(5.0))
    assert found == StatesIn(4000, peer_heard=True, losses="6 of the peer's messages were lost on the way")


def test_a_counter_of_long_ago_does_not_end_the_waiting(
    tool: FakeTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In direct mode it only grows; after a day of re-sends a whole table is a small part of it."""
    monkeypatch.setattr(adapter, "QUIET_S", 0.01)
    day = 10_000_000
    for number, states in enumerate((day, day + 40_000, day + 90_000, day + 90_010), 1):
        (tool.directory / f"look{number}").write_text(from_peer(states, states * 100))
    tool.does("-s", 'cat "$here/look$(grep -c . "$here/calls")"')
    assert asyncio.run(tool.conntrackd().await_states(5.0)) == StatesIn(day + 90_010, peer_heard=True)
