# SPDX-License-Identifier: GPL-2.0-or-later
"""Further states in the conntrack tables: a firewall that has none to speak of fails over too easily.

Hard facts
* `conntrack -R -` reads `conntrack` command lines from standard input, one netlink round trip each: about
  27,000 a second while conntrackd listens.
* That is more than conntrackd reads on a busy machine. What does not fit into its netlink socket is lost to
  it, without a trace, until the connection's next packet, which these never have; `conntrackd -R` reads the
  whole table.
* nf_conntrack_max is one number for all network namespaces, and only the first one may write it. Each
  namespace counts its own states against it.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from pathlib import Path

from agent.model.pair import SyncMode
from hafw_lab.client.node import Node
from hafw_lab.errors import LabError
from hafw_lab.progress import Progress

CHUNK = 10_000
MAX_FILE = Path("/proc/sys/net/netfilter/nf_conntrack_max")
MARGIN = 20_000
"""Room for the states of the live traffic."""
_PORTS = range(10_000, 60_000)
_STUCK_S = 60.0
"""For something that moves on any machine, however busy: nothing is measured by it."""
_UNREAD_S = 1.0


def state_lines(clients: IPv4Network, servers: IPv4Network, vip: IPv4Address | None) -> Iterator[str]:
    """Established TCP connections from clients to servers as `conntrack -R` takes them, no two alike;
    translated to `vip` if there is one. Never the addresses below .20 and from .100 on, where the nodes
    are."""
    for server in list(servers)[20:100]:
        for client in list(clients)[20:24]:
            for port in _PORTS[int(client) % 4 :: 4]:
                nat = f" --src-nat {vip}:{port}" if vip else ""
                yield (
                    f"-A -p tcp -s {client} -d {server} --sport {port} --dport 443 --state ESTABLISHED"
                    f" -t 86400 -u SEEN_REPLY,ASSURED{nat}"
                )


def add_states(node: Node, lines: Iterator[str], count: int, progress: Progress) -> None:
    """Put `count` states into the node's table. Raises LabError when they do not all go in."""
    done = 0
    while done < count:
        chunk = list(islice(lines, min(CHUNK, count - done)))
        if not chunk:
            raise LabError(f"cannot make {count} different states", f"ask for at most {done}")
        node.run(["conntrack", "-R", "-"], input="\n".join(chunk) + "\n", timeout_s=60)
        done += len(chunk)
        progress(f"{node.name}: {done:,} of {count:,} states put in")
    there = count_states(node)
    if there < count:
        raise LabError(
            f"{node.name} holds {there:,} states, {count:,} were put in", "see dmesg: table full?"
        )


def count_states(node: Node) -> int:
    """How many states the node's kernel holds."""
    return int(node.run(["conntrack", "-C"]).stdout)


def parse_cache_size(text: str, cache: str) -> int | None:
    """How many objects the `internal` or `external` cache holds, from `conntrackd -s cache`."""
    found = re.search(rf"^cache:{cache}\s+active objects:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None


def replicate_all(node: Node, count: int, progress: Progress) -> None:
    """See to it that the node's own conntrackd knows at least `count` states, and sends those to its peer
    that it had lost. Raises LabError when it cannot be brought to know them."""
    if _wait_known(node, count, _UNREAD_S):
        return
    progress(f"{node.name}: a part of them was lost on the way to conntrackd, which reads them again")
    node.run(["conntrackd", "-R"], timeout_s=_STUCK_S)
    if not _wait_known(node, count, _STUCK_S):
        raise LabError(
            f"conntrackd on {node.name} does not read all of the {count:,} states",
            f"look at: hafw-lab logs {node.name} conntrackd",
        )
    node.run(["conntrackd", "-B"])


def _wait_known(node: Node, count: int, patience_s: float) -> bool:
    """Whether the internal cache gets `count` states; False when it has not grown for `patience_s`."""
    known, grown = -1, time.monotonic()
    while True:
        now = _cache_size(node, "internal")
        if now >= count:
            return True
        if now > known:
            known, grown = now, time.monotonic()
        elif time.monotonic() - grown > patience_s:
            return False
        time.sleep(0.1)  # the counters can only be asked, nothing reports their change


def count_replicated(node: Node, sync: SyncMode) -> int:
    """How many of the peer's states this backup has: in the kernel, or in conntrackd's external cache."""
    if sync is SyncMode.DIRECT:
        return count_states(node)
    return _cache_size(node, "external")


def _cache_size(node: Node, cache: str) -> int:
    size = parse_cache_size(node.run(["conntrackd", "-s", "cache"], timeout_s=_STUCK_S).stdout, cache)
    if size is None:
        raise LabError(
            f"conntrackd on {node.name} reports no {cache} cache",
            "look at its mode in conntrackd.conf",
        )
    return size


def holds_connection(node: Node, client: str, port: int, server: str, server_port: int) -> bool:
    """Whether the node's kernel has the state of this TCP connection."""
    ends = ["-s", client, "-d", server, "--sport", str(port), "--dport", str(server_port)]
    return node.run(["conntrack", "-G", "-p", "tcp", *ends], check=False).returncode == 0


def wait_replicated(node: Node, sync: SyncMode, count: int, progress: Progress) -> int:
    """Wait until the backup has at least `count` states; returns how many. Raises LabError when none has
    come for a while."""
    there, grown = -1, time.monotonic()
    while True:
        now = count_replicated(node, sync)
        if now >= count:
            return now
        if now > there:
            there, grown = now, time.monotonic()
            progress(f"{node.name}: {now:,} of {count:,} states have arrived")
        elif time.monotonic() - grown > _STUCK_S:
            raise LabError(
                f"{node.name} has {now:,} of {count:,} states and receives no more",
                f"look at: hafw-lab logs {node.name} conntrackd",
            )
        time.sleep(0.1)  # the counters can only be asked, nothing reports their change


@contextmanager
def room_for_states(count: int, progress: Progress) -> Iterator[None]:
    """Raise the kernel's limit for the length of the block if `count` states would not fit. Raises LabError
    where that is not allowed."""
    try:
        limit = int(MAX_FILE.read_text())
    except OSError:
        limit = 0  # not there before the first table is: the node's own count tells in the end
    wanted = 2 * count + MARGIN
    if not limit or wanted <= limit:
        yield
        return
    progress(f"raising nf_conntrack_max from {limit:,} to {wanted:,} for the time of the measurement")
    try:
        MAX_FILE.write_text(str(wanted))
    except OSError as error:
        raise LabError(
            f"{count:,} states do not fit: nf_conntrack_max is {limit:,} which only root may change",
            f"run this as root, or ask for at most {max(0, limit - MARGIN) // 2:,} states",
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            MAX_FILE.write_text(str(limit))
