# SPDX-License-Identifier: GPL-2.0-or-later
"""conntrackd's adapter with two real conntrackds, a primary's and a backup's, in namespaces."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.adapters import process
from agent.adapters.conntrackd import Conntrackd, kernel_states
from agent.core.actions import Committed
from agent.errors import ToolError, UnavailableError
from agent.model.pair import SyncMode
from agent.paths import Paths
from agent.render.conntrackd import PROTOCOLS
from tests.netns.namespaces import Namespace, join, start_namespaces

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="namespaces here need root")]

LIMIT_S = 30.0
IGNORED = tuple(map(ip_address, ("192.168.1.1", "192.168.1.2", "fd00:9::1")))
"""What ends on the nodes themselves."""
CONFIG = """
Sync {{
    Mode FTFW {{ DisableExternalCache {direct} }}
    UDP {{
        IPv4_address 192.168.1.{own}
        IPv4_Destination_Address 192.168.1.{peer}
        Port 3780
        Interface eth2
        SndSocketBuffer 8388608
        RcvSocketBuffer 8388608
        Checksum on
    }}
    Options {{ ExpectationSync on }}
}}
General {{
    HashSize 65536
    HashLimit 262144
    LogFile {paths.conntrackd_log}
    LockFile {paths.conntrackd_lock}
    UNIX {{ Path {paths.conntrackd_socket} }}
    NetlinkBufferSize 2097152
    NetlinkBufferSizeMaxGrowth 67108864
    NetlinkEventsReliable yes
    NetlinkOverrunResync no
    Filter From Userspace {{
        Protocol Accept {{ {protocols} }}
        Address Ignore {{ {ignored} }}
    }}
}}
"""


@dataclass
class Replicator:
    """One real conntrackd, and the adapter for it."""

    namespace: Namespace
    paths: Paths
    mode: SyncMode
    daemon: "subprocess.Popen[bytes]"

    def __post_init__(self) -> None:
        self.conntrackd = Conntrackd(self.paths, self.mode, process.run, expectations=True)

    def add_states(self, count: int) -> None:
        lines = (
            f"-A -p tcp -s 10.{n >> 16}.{n >> 8 & 255}.{n & 255} -d 10.200.0.1 --sport 1000 --dport 80"
            " --state ESTABLISHED -t 86400 -u SEEN_REPLY,ASSURED"
            for n in range(1, count + 1)
        )
        with self.namespace.entered():
            text = "\n".join(lines).encode() + b"\n"
            subprocess.run(["conntrack", "-R", "-"], input=text, check=True, capture_output=True, timeout=60)

    def kernel_states(self) -> int:
        with self.namespace.entered():
            return kernel_states()

    async def until_external(self, count: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while (await self.conntrackd.statistics()).external != count:
                await asyncio.sleep(0.05)


@contextmanager
def start_conntrackd(
    namespace: Namespace, directory: Path, mode: SyncMode, own: int
) -> Iterator[Replicator]:
    paths = Paths(
        conntrackd_config=directory / f"{own}.conf",
        conntrackd_socket=directory / f"{own}.ctl",
        conntrackd_log=directory / f"{own}.log",
        conntrackd_lock=directory / f"{own}.lock",
    )
    direct = "yes" if mode is SyncMode.DIRECT else "no"
    ignored = "\n".join(
        (
            "IPv4_address 127.0.0.0/8",
            "IPv6_address ::1",
            *(f"IPv{one.version}_address {one}" for one in IGNORED),
        )
    )
    protocols = "\n".join(PROTOCOLS)
    text = CONFIG.format(
        direct=direct, own=own, peer=3 - own, paths=paths, protocols=protocols, ignored=ignored
    )
    paths.conntrackd_config.write_text(text)
    with namespace.entered():
        daemon = subprocess.Popen(
            ["conntrackd", "-C", str(paths.conntrackd_config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        deadline = time.monotonic() + LIMIT_S
        while not (
            paths.conntrackd_log.exists() and "initialization completed" in paths.conntrackd_log.read_text()
        ):
            assert daemon.poll() is None, "conntrackd did not start"
            assert time.monotonic() < deadline
            os.sched_yield()
        yield Replicator(namespace, paths, mode, daemon)
    finally:
        daemon.kill()
        daemon.wait()


@dataclass
class Nodes:
    primary: Replicator
    backup: Replicator


@contextmanager
def start_nodes(directory: Path, mode: SyncMode) -> Iterator[Nodes]:
    with start_namespaces("fw-1", "fw-2") as (one, two):
        join(one, "eth2", two, "eth2")
        for own, namespace in enumerate((one, two), 1):
            namespace.ip(f"address add 192.168.1.{own}/24 dev eth2")
            # the kernel tracks a namespace's connections as soon as a rule of it asks for that
            namespace.run("nft", "add table ip t; add chain ip t c { type filter hook input priority 0; }")
            namespace.run("nft", "add rule ip t c ct state new counter")
        with (
            start_conntrackd(one, directory, mode, 1) as primary,
            start_conntrackd(two, directory, mode, 2) as backup,
        ):
            yield Nodes(primary, backup)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Nodes]:
    with start_nodes(tmp_path, SyncMode.CACHE) as nodes:
        yield nodes


def test_a_commit_of_500_states_is_complete(cache: Nodes) -> None:
    async def scenario() -> None:
        cache.primary.add_states(500)
        backup = cache.backup
        await backup.until_external(500)
        before = backup.kernel_states()
        assert await backup.conntrackd.commit(10.0) == Committed(500, 500, 0, skipped=False, evidence="log")
        assert backup.kernel_states() - before == 500
        await backup.conntrackd.flush_caches()
        assert (await backup.conntrackd.statistics()).external == 0
        await backup.conntrackd.resync_kernel()
        await backup.conntrackd.send_bulk()
        await backup.conntrackd.request_resync()
        await backup.conntrackd.shorten_timers()

    asyncio.run(scenario())


def test_a_commit_again_says_the_same(cache: Nodes) -> None:
    """Every action may be repeated."""

    async def scenario() -> None:
        cache.primary.add_states(100)
        await cache.backup.until_external(100)
        for _ in range(3):
            assert (await cache.backup.conntrackd.commit(10.0)).complete

    asyncio.run(scenario())


def test_without_a_log_the_kernel_is_the_evidence(cache: Nodes) -> None:
    async def scenario() -> Committed:
        cache.primary.add_states(200)
        backup = cache.backup
        await backup.until_external(200)
        backup.paths.conntrackd_log.unlink()
        with backup.namespace.entered():
            return await backup.conntrackd.commit(10.0)

    assert asyncio.run(scenario()) == Committed(200, 200, 0, skipped=False, evidence="kernel")


def test_a_second_commit_while_one_runs_is_found_skipped(cache: Nodes) -> None:
    count = 40_000
    backup = cache.backup

    def commits() -> int:
        return backup.paths.conntrackd_log.read_text().count("committing all external caches")

    async def try_two() -> bool:
        """Whether the second one was skipped; a busy machine may end the first one before."""
        before = commits()
        first = asyncio.create_task(backup.conntrackd.commit(LIMIT_S))
        async with asyncio.timeout(LIMIT_S):
            while commits() == before:
                await asyncio.sleep(0)
        second = await backup.conntrackd.commit(LIMIT_S)
        assert second.complete is not second.skipped
        assert (await first).committed == count
        return second.skipped

    async def scenario() -> None:
        cache.primary.add_states(count)
        await backup.until_external(count)
        tries = [await try_two() for _ in range(5)]
        skipped = backup.paths.conntrackd_log.read_text().count("commit already in progress, skipping")
        assert tries.count(True) == skipped > 0

    asyncio.run(scenario())


def test_a_flush_while_a_commit_runs_is_done_or_failed_but_never_ignored(cache: Nodes) -> None:
    count = 40_000
    backup = cache.backup.conntrackd

    async def scenario() -> None:
        cache.primary.add_states(count)
        await cache.backup.until_external(count)
        commit = asyncio.create_task(backup.commit(LIMIT_S))
        async with asyncio.timeout(LIMIT_S):
            while cache.backup.kernel_states() < 500:
                await asyncio.sleep(0)
        try:
            await backup.flush_caches()
        except ToolError:
            await commit
            await backup.flush_caches()
        assert (await backup.statistics()).external == 0
        await commit

    asyncio.run(scenario())


def test_a_stopped_conntrackd_is_not_waited_for(cache: Nodes) -> None:
    async def scenario() -> None:
        backup = cache.backup
        backup.daemon.send_signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(ToolError, match=r"did not answer within 0.5 s") as raised:
                await backup.conntrackd.commit(0.5)
            assert raised.value.retryable
            assert time.monotonic() - begun < 5
        finally:
            backup.daemon.send_signal(signal.SIGCONT)
        assert (await backup.conntrackd.commit(10.0)).complete

    asyncio.run(scenario())


def test_a_dead_conntrackd_is_said_to_be_so(cache: Nodes) -> None:
    async def scenario() -> None:
        backup = cache.backup
        seen = backup.conntrackd.socket_identity()
        assert seen is not None
        backup.daemon.kill()
        backup.daemon.wait()
        for ask in (
            backup.conntrackd.commit(5.0),
            backup.conntrackd.statistics(),
            backup.conntrackd.flush_caches(),
            backup.conntrackd.send_bulk(),
        ):
            with pytest.raises(UnavailableError, match="is conntrackd running"):
                await ask

    asyncio.run(scenario())


def test_direct_mode_needs_no_commit(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        nodes.primary.add_states(500)
        async with asyncio.timeout(LIMIT_S):
            while (await nodes.backup.conntrackd.statistics()).injected != 500:
                await asyncio.sleep(0.05)
        assert nodes.backup.kernel_states() >= 500
        found = await nodes.backup.conntrackd.statistics()
        assert (found.external, found.inject_failed, found.lost_messages, found.malformed_messages) == (
            None,
            0,
            0,
            0,
        )
        assert found.bytes_received > 0
        assert (await nodes.backup.conntrackd.await_states(10.0)).states == 500

    with start_nodes(tmp_path, SyncMode.DIRECT) as nodes:
        asyncio.run(scenario(nodes))
