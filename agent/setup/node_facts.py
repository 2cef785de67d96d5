# SPDX-License-Identifier: GPL-2.0-or-later
"""The facts of this node for `hafw check --pair`, as the agent tells them and the command reads them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.settings_in_force import (
    conntrackd_read_ns,
    keepalived_read_ns,
    read_sysctl,
    written_ns,
)
from agent.core.facts import Misfit, NodeFacts
from agent.errors import HafwError
from agent.model.pair import Pair
from agent.paths import Paths
from agent.render import sysctl
from agent.setup.blocks import NotUnderstoodError
from agent.setup.changes import read_file
from agent.setup.installed import InstalledFiles
from agent.setup.wire import read_conntrackd

MAX_MISFITS = 20
"""So many are told to the peer; an interface that has lost its settings has nine."""
_TIMEOUTS = (
    *("generic_timeout", "icmp_timeout", "icmpv6_timeout", "udp_timeout", "udp_timeout_stream"),
    *(f"tcp_timeout_{one}" for one in ("close_wait", "established", "fin_wait", "last_ack", "syn_recv")),
    *(f"tcp_timeout_{one}" for one in ("syn_sent", "time_wait", "unacknowledged")),
)
EQUAL_SETTINGS = tuple(f"net/netfilter/nf_conntrack_{one}" for one in ("max", "buckets", *_TIMEOUTS))
"""Settings that no pair file has, and that must be equal all the same: how many states each node takes, and
how long they live on the one that has them from the other."""
_OF_CONNTRACKD = ("HashSize", "HashLimit", "PollSecs")


@dataclass(frozen=True, slots=True)
class DaemonFile:
    name: str
    path: Path
    read_ns: int | None
    command: str


class FactsReader:
    def __init__(self, node: str, paths: Paths) -> None:
        self._paths = paths
        self._files = InstalledFiles(node, paths)

    def read(self, pair: Pair) -> NodeFacts:
        """What cannot be read is a misfit itself."""
        try:
            found = tuple(self._find(pair))
        except HafwError as error:
            found = (Misfit("files", str(error), error.hint or "hafw setup --dry-run"),)
        return NodeFacts(self._equal(), found)

    def _find(self, pair: Pair) -> Iterator[Misfit]:
        for text, command in self._files.find_unfit(pair):
            yield Misfit("installed files", text, command)
        yield from self._find_unread()
        yield from find_wrong_settings(pair)
        yield from self._find_small_cache()

    def _find_unread(self) -> Iterator[Misfit]:
        """Daemons that still work by what their file was before."""
        paths = self._paths
        for one in (
            DaemonFile(
                "conntrackd",
                paths.conntrackd_config,
                conntrackd_read_ns(paths.conntrackd_socket),
                "systemctl restart conntrackd",
            ),
            DaemonFile(
                "keepalived",
                paths.keepalived_config,
                keepalived_read_ns(paths.keepalived_pid),
                "systemctl reload keepalived",
            ),
        ):
            written = written_ns(one.path)
            if written is not None and one.read_ns is not None and written > one.read_ns:
                text = f"{one.name} has not read {one.path} since it was last written"
                yield Misfit(one.name, text, one.command)

    def _find_small_cache(self) -> Iterator[Misfit]:
        """Of both caches: conntrackd has one entry for each state, and forgets what is too many."""
        limit = self._conntrackd_settings().get("HashLimit", "")
        room = read_sysctl(EQUAL_SETTINGS[0]) or ""
        if limit.isdecimal() and room.isdecimal() and int(limit) < int(room):
            text = f"conntrackd takes {limit} states (HashLimit), the kernel {room}: more are not replicated"
            yield Misfit("HashLimit", text, f"sysctl -w {EQUAL_SETTINGS[0]}={limit}")

    def _conntrackd_settings(self) -> dict[str, str]:
        there = read_file(self._paths.conntrackd_config)
        try:
            general = next(read_conntrackd((there or b"").decode(errors="replace")).all("General"), None)
        except NotUnderstoodError:
            return {}
        found = {} if general is None else {name: general.last(name) for name in _OF_CONNTRACKD}
        return {name: value for name, value in found.items() if value is not None}

    def _equal(self) -> dict[str, str]:
        try:
            settings = {
                f"{name} of conntrackd.conf": text for name, text in self._conntrackd_settings().items()
            }
        except HafwError:
            settings = {}
        kernel = {key: read_sysctl(key) for key in EQUAL_SETTINGS}
        return {**settings, **{key: value for key, value in kernel.items() if value is not None}}


def find_wrong_settings(pair: Pair) -> Iterator[Misfit]:
    """Of the kernel, against what `hafw render sysctl` prints. One that is not there belongs to an interface
    that is not there, or to a kernel that has no such setting."""
    for one in sysctl.settings(pair):
        there = read_sysctl(one.key)
        if there is not None and there != one.value:
            text = f"{one.key} is {there}, and the pair file wants {one.value}"
            yield Misfit(one.key, text, f"sysctl -w {one.key}={one.value}")


def for_peer(facts: NodeFacts, known: Collection[tuple[str, str]]) -> NodeFacts:
    """No more than a message may have. `known`: what the agent knows beside that must be equal."""
    kept, left = facts.misfits[:MAX_MISFITS], facts.misfits[MAX_MISFITS:]
    return NodeFacts({**facts.equal, **dict(known)}, kept, len(left))
