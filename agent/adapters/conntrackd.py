# SPDX-License-Identifier: GPL-2.0-or-later
"""conntrackd, through its own command.

Hard facts (conntrackd 1.4.7 and 1.4.8, shared facts 1-16 and sources):
* The exit status is 1 only if the socket cannot be reached or the configuration does not parse. A commit
  that was skipped, states that the kernel refused, a flush that was ignored: all exit with 0.
* `-c` returns when the commit has ended. How many states came in is said in the log file only: "Committed
  20000 new entries", "3 entries can't be committed", and the same for expectations.
* A commit that is asked for while one runs returns at once: "commit already in progress, skipping" in the
  log, no "Committed" line of its own.
* `-f` during a commit is ignored with exit status 0; the external cache then is not empty.
* With DisableExternalCache `-c` does nothing and `-t` deletes what was replicated (after a minute).
* `-B`, `-n` only put the work into a queue.
* `-F` is the work of a child, which has the client's socket as well: it returns when all is deleted (1.5 s
  for 130,000 states). What the internal cache still has of that is deleted on the peer, too.
"""

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.adapters.process import Finished
from agent.core.actions import Committed, Reread, StatesIn
from agent.core.replication import Losses, losses_text
from agent.errors import ToolError, UnavailableError
from agent.model.pair import SyncMode
from agent.paths import Paths

COMMAND_LIMIT_S = 5.0
RESYNC_LIMIT_S = 30.0
"""`-R` reads the whole kernel table before it returns: a second for 100,000 states, more on a busy
machine."""

QUIET_S = 0.25
SILENT_PEER_S = 2.0
MAX_TRICKLE = 1000
"""In QUIET_S; a stream brings ten times as many."""
MAX_LOG = 1 << 20
"""How much of the log is read after a command; a commit has six lines."""


_LOG_PREFIX = re.compile(r"^\[[^\]]*\] (?:\(pid=\d+\) )?(?:\[\w+\] )?")
"""What conntrackd puts before its messages: time, process, severity."""


class Run(Protocol):
    async def __call__(self, argv: tuple[str, ...], *, timeout_s: float) -> Finished: ...


@dataclass(frozen=True, slots=True)
class Statistics:
    """`conntrackd -s`. `external` is None in direct mode, `injected` (created) is None in cache mode. The
    bytes are those of `device` alone."""

    internal: int
    external: int | None
    injected: int | None
    inject_failed: int
    bytes_received: int
    lost_messages: int
    malformed_messages: int
    device: str | None = None
    """The link that it sends over."""

    @property
    def from_peer(self) -> int:
        return self.injected if self.injected is not None else self.external or 0

    @property
    def losses(self) -> Losses:
        return Losses(self.inject_failed, self.lost_messages, self.malformed_messages)


class Conntrackd:
    def __init__(self, paths: Paths, mode: SyncMode, run: Run, *, expectations: bool) -> None:
        self._paths = paths
        self._mode = mode
        self._run = run
        self._expectations = expectations

    async def statistics(self, timeout_s: float = COMMAND_LIMIT_S) -> Statistics:
        return parse_statistics(await self._ask("-s", timeout_s=timeout_s))

    async def commit(self, timeout_s: float) -> Committed:
        """Bring the external caches into the kernel and say what came of it.

        `timeout_s` bounds the questions before it as well: a gate waits for all of it. Raises
        UnavailableError if conntrackd is not there, ToolError (retryable) if it does not answer.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + timeout_s
        expected = (await self.statistics(min(COMMAND_LIMIT_S, timeout_s))).external or 0
        if self._expectations:
            left_s = min(COMMAND_LIMIT_S, until - clock())
            expected += parse_expectations(await self._ask("-s", "expect", timeout_s=left_s))
        log = LogTail(self._paths.conntrackd_log)
        await self._ask("-c", timeout_s=until - clock())
        said = log.read()
        if said is None:
            return Committed(expected, min(expected, kernel_states()), 0, skipped=False, evidence="kernel")
        return parse_commit(said, expected)

    async def flush_caches(self) -> None:
        """Raises ToolError (retryable) if conntrackd ignored the flush, as it does while a commit runs."""
        log = LogTail(self._paths.conntrackd_log)
        await self._ask("-f")
        said = log.read()
        if said is not None and "ignoring flush command" in said:
            message = "conntrackd did not flush its caches because a commit was still running"
            raise ToolError((str(self._paths.conntrackd), "-f"), message, retryable=True)

    async def resync_kernel(self) -> Reread:
        before = (await self.statistics()).internal
        await self._ask("-R", timeout_s=RESYNC_LIMIT_S)
        kernel = kernel_states()
        return Reread(before, (await self.statistics()).internal, kernel)

    async def send_bulk(self) -> None:
        await self._ask("-B")

    async def start_clean(self) -> None:
        """Empties the caches, then the kernel of all that is replicated. Raises ToolError (retryable) if
        conntrackd ignored the first; then the kernel keeps what it has."""
        await self.flush_caches()
        await self._ask("-F", timeout_s=RESYNC_LIMIT_S)

    async def request_resync(self) -> None:
        await self._ask("-n")

    async def shorten_timers(self) -> None:
        if self._mode is SyncMode.DIRECT:
            raise AssertionError("conntrackd -t deletes replicated states in direct mode")
        await self._ask("-t")

    async def await_states(self, timeout_s: float) -> StatesIn:
        """Until the stream of the peer's states has dried up: nothing new for QUIET_S, or a peer that is
        silent."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        before = first = await self.statistics()
        while clock() - begun < timeout_s:
            await asyncio.sleep(QUIET_S)
            now = await self.statistics()
            heard = now.bytes_received > first.bytes_received
            arrived, newest = now.from_peer - first.from_peer, now.from_peer - before.from_peer
            if (heard and _has_ended(arrived, newest)) or (not heard and clock() - begun >= SILENT_PEER_S):
                return _states_in(first, now, peer_heard=heard)
            before = now
        return _states_in(first, before, peer_heard=True)

    def socket_identity(self) -> tuple[int, int] | None:
        """Changes whenever another conntrackd has made its socket; None when there is none. Cheap enough
        for a poll."""
        try:
            found = os.stat(self._paths.conntrackd_socket)
        except OSError:
            return None
        return found.st_ino, found.st_ctime_ns

    async def _ask(self, *words: str, timeout_s: float = COMMAND_LIMIT_S) -> str:
        argv = (str(self._paths.conntrackd), "-C", str(self._paths.conntrackd_config), *words)
        finished = await self._run(argv, timeout_s=timeout_s)
        if finished.exit_status != 0:
            reason = last_line(finished.stderr) or last_line(finished.stdout) or "no reason given"
            raise UnavailableError(
                f"conntrackd {' '.join(words)} failed: {reason}",
                "look at conntrackd's log and start it again",
            )
        return finished.stdout


def _has_ended(arrived: int, newest: int) -> bool:
    """Whether a stream of states has, of which `newest` came in the last QUIET_S. Live connections keep a
    trickle going. What came before the stream says nothing: direct mode's counter never goes back."""
    return newest <= arrived // 100 or (newest < arrived and newest <= MAX_TRICKLE)


def _states_in(first: Statistics, now: Statistics, *, peer_heard: bool) -> StatesIn:
    losses = now.losses.since(first.losses)
    return StatesIn(now.from_peer, peer_heard, losses_text(losses) if losses else "")


class LogTail:
    """What is appended to a log from now on; None if the log cannot be read. Survives a log that is
    rotated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = self._stat()
        self._file = found.st_ino if found else None
        self._offset = found.st_size if found else 0

    def _stat(self) -> os.stat_result | None:
        try:
            return self._path.stat()
        except OSError:
            return None

    def read(self) -> str | None:
        found = self._stat()
        if found is None:
            return None
        is_same = found.st_ino == self._file and found.st_size >= self._offset
        try:
            with self._path.open("rb") as log:
                log.seek(self._offset if is_same else 0)
                return log.read(MAX_LOG).decode(errors="replace")
        except OSError:
            return None


def kernel_states() -> int:
    """How many states the kernel has, of this network namespace. Raises UnavailableError if it tracks
    none."""
    try:
        return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())
    except (OSError, ValueError) as error:
        raise UnavailableError("the kernel does not track connections", "load nf_conntrack") from error


def shortest_timeout_s(root: Path = Path("/proc/sys/net/netfilter")) -> float:
    """The shortest timeout of a state that is replicated and whose refreshes are not events (UDP)."""
    found = []
    for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
        try:
            found.append(float((root / name).read_text()))
        except (OSError, ValueError):
            continue
    return max(1.0, min(found, default=30.0))


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _LOG_PREFIX.sub("", lines[-1])[:300] if lines else ""


def parse_statistics(text: str) -> Statistics:
    """`conntrackd -s`; raises ToolError for anything that does not look like it."""
    active, created = rf"current active connections:\s+({_DIGITS})", rf"connections created:\s+({_DIGITS})"
    internal = _find_number(_section(text, "cache internal"), active)
    external = _find_number(_section(text, "cache external"), active)
    inject = _section(text, "external inject")
    injected = _find_number(inject, created)
    if internal is None or (external is None and injected is None):
        raise ToolError(
            ("conntrackd", "-s"),
            f"conntrackd's statistics are invalid (they begin with {text[:60]!r})",
            hint="check that conntrackd runs in Sync mode",
        )
    return Statistics(
        internal=internal,
        external=external,
        injected=injected,
        inject_failed=_find_number(inject, rf"{created}\s+failed:\s+({_DIGITS})", group=2) or 0,
        bytes_received=_find_number(text, rf"Bytes sent\s+({_DIGITS}) Bytes recv") or 0,
        lost_messages=_find_number(text, rf"\b({_DIGITS}) Lost msgs") or 0,
        malformed_messages=_find_number(text, rf"\b({_DIGITS}) Malformed msgs") or 0,
        device=found[1] if (found := _DEVICE.search(text)) else None,
    )


def parse_expectations(text: str) -> int:
    """`conntrackd -s expect`: how many expectations the external cache has. No output: they are not
    replicated."""
    external = _section(text, "cache external")
    return _find_number(external, rf"current active connections:\s+({_DIGITS})") or 0


def parse_commit(log: str, expected: int) -> Committed:
    """What the log says of a commit; it was skipped without a "Committed" line of its own."""
    kinds = "(?:entries|expectations)"
    done = [int(number) for number in re.findall(rf"Committed ({_DIGITS}) new {kinds}", log)]
    refused = [int(number) for number in re.findall(rf"\b({_DIGITS}) {kinds} can't be committed", log)]
    # a "Committed" line beside a "skipping" one may be of the other commit, which began before ours
    skipped = not done or "commit already in progress" in log
    return Committed(expected, sum(done), sum(refused), skipped=skipped, evidence="log")


def _section(text: str, title: str) -> str | None:
    found = re.search(rf"^{title}:\n(.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else None


_DEVICE = re.compile(r"\(active device=([^\s()]{1,15})\):")
_DIGITS = "[0-9]{1,18}(?![0-9])"


def _find_number(text: str | None, pattern: str, group: int = 1) -> int | None:
    found = re.search(pattern, text or "")
    return int(found[group]) if found else None
