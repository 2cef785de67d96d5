# SPDX-License-Identifier: GPL-2.0-or-later
"""Pair file -> conntrackd.conf.

Hard facts (conntrackd 1.4.7 and 1.4.8):
* With a HashSize of 8192 or less a commit never gives its lock back: later flushes are refused, with exit
  status 0, and expectations are never committed. Debian's own file has 8192.
* It runs at the top real-time priority unless told otherwise, above keepalived; a bulk send on a small
  machine then makes the pair flap. There is no way to ask for no real-time priority, so: the lowest.
* It remembers timeouts by wall time. A clock that jumps forward on the backup turns five days into 60
  seconds at the takeover, unless CommitTimeout is set; with DisableExternalCache that option is refused.
* Address Ignore looks at the original source and the reply's source, the real ends of a flow. So the virtual
  addresses can be there: they keep out what ends on the firewall itself, not what is source-NATed to them
  (tried).
* Setting socket buffers needs CAP_NET_ADMIN outside of any user namespace; without, it does not start.
* conntrackd writes the number of committed states to its log file only.
"""

from ipaddress import IPv4Interface

from agent.model.pair import Interface, IPInterface, Pair, SyncMode
from agent.paths import Paths
from agent.render.block import Lines, because, block, text_of

HASH_SIZE = 65_536
HASH_LIMIT = 2_097_152
# 13,000 events for each 16 MiB (measured): what may come while others have the processor
NETLINK_BUFFER = 33_554_432
NETLINK_BUFFER_MAX = 67_108_864
# for the states that a peer sends all at once: with an eighth of it most of 300,000 were lost (measured)
SOCKET_BUFFER = 67_108_864
# longer than the two hours after which TCP asks an idle peer: a connection that lives shows itself in time
COMMIT_TIMEOUT_S = 10_800
PROTOCOLS = ("TCP", "UDP", "SCTP", "ICMP", "IPv6-ICMP")
"""Whose states go to the peer."""


def render(pair: Pair, node: str, paths: Paths, *, privileged: bool = True) -> str:
    """conntrackd.conf for `node`. `privileged=False` for a daemon that runs inside a user namespace."""
    return text_of(
        because(f"hafw render conntrackd --node {node}: made from the pair file, changes here are lost"),
        block("Sync", (*_mode(pair), *_links(pair, node, privileged), *_options(pair))),
        block("General", (*_general(paths), *_filter(pair))),
    )


def hook_in(pair: Pair, node: str, paths: Paths) -> str:
    """The lines that a conntrackd.conf of `node` that was made by hand needs for the agent."""
    return text_of(
        block("Sync", ("# ...", *_mode(pair), *_links(pair, node, privileged=True))),
        block(
            "General",
            (
                "# ...",
                *because("8192 or less breaks every failover after the first", f"HashSize {HASH_SIZE}"),
                *because("the agent reads here what a commit did", f"LogFile {paths.conntrackd_log}"),
                *block("UNIX", (f"Path {paths.conntrackd_socket}",)),
                *block("Filter From Userspace", ("# ...", *block("Protocol Accept", PROTOCOLS))),
            ),
        ),
    )


def _mode(pair: Pair) -> Lines:
    if pair.sync.mode is SyncMode.DIRECT:
        body = because("the peer's states go straight into this kernel", "DisableExternalCache yes")
    else:
        body = because(
            "a clock that jumps must not shorten committed states",
            "DisableExternalCache no",
            f"CommitTimeout {COMMIT_TIMEOUT_S}",
        )
    return block("Mode FTFW", (*body, "StartupResync yes"))


def sync_addresses(pair: Pair, link: Interface, node: str) -> tuple[IPInterface, IPInterface]:
    """The two ends of a sync link, or of a tunnel over it, ours first: IPv4 if both nodes have it there."""
    own, peer = (link.own(name) for name in (node, pair.peer_of(node).name))
    return min(
        ((mine, theirs) for mine in own for theirs in peer if mine.version == theirs.version),
        key=lambda ends: ends[0].version,
    )


def _links(pair: Pair, node: str, privileged: bool) -> Lines:
    """Of two the first one, as long as it has a carrier."""
    first, *others = pair.replication_links
    head = "UDP Default" if others else "UDP"
    return (
        *_link(pair, first, node, privileged, head),
        *(line for one in others for line in _link(pair, one, node, privileged, "UDP")),
    )


def _link(pair: Pair, link: Interface, node: str, privileged: bool, head: str) -> Lines:
    mine, theirs = sync_addresses(pair, link, node)
    version = f"IPv{mine.version}"
    buffers = (f"SndSocketBuffer {SOCKET_BUFFER}", f"RcvSocketBuffer {SOCKET_BUFFER}") if privileged else ()
    return block(
        head,
        (
            f"{version}_address {mine.ip}",
            f"{version}_Destination_Address {theirs.ip}",
            f"Port {pair.sync.port}",
            f"Interface {link.name}",
            *buffers,
            "Checksum on",
        ),
    )


def _options(pair: Pair) -> Lines:
    expectations = block("ExpectationSync", pair.helpers) if pair.helpers else ()
    return block(
        "Options",
        (
            *because("TCP windows from the other node are always outdated", "TCPWindowTracking off"),
            *expectations,
        ),
    )


def _general(paths: Paths) -> Lines:
    return (
        "Systemd yes",
        *because("8192 or less breaks every failover after the first", f"HashSize {HASH_SIZE}"),
        f"HashLimit {HASH_LIMIT}",
        *because("the agent reads here what a commit did", f"LogFile {paths.conntrackd_log}"),
        "Syslog on",
        f"LockFile {paths.conntrackd_lock}",
        *block("UNIX", (f"Path {paths.conntrackd_socket}",)),
        *because(
            "the kernel keeps an event until it is read, so nothing has to be read again",
            "NetlinkEventsReliable yes",
        ),
        "NetlinkOverrunResync no",
        f"NetlinkBufferSize {NETLINK_BUFFER}",
        f"NetlinkBufferSizeMaxGrowth {NETLINK_BUFFER_MAX}",
        *because(
            "below keepalived, whose advertisements come first",
            *block("Scheduler", ("Type RR", "Priority 1")),
        ),
    )


def _filter(pair: Pair) -> Lines:
    return block(
        "Filter From Userspace",
        (
            *block("Protocol Accept", PROTOCOLS),
            *because(
                "connections to a firewall itself end with it", *block("Address Ignore", _ignored(pair))
            ),
        ),
    )


def ignored_addresses(pair: Pair) -> tuple[IPInterface, ...]:
    """Of the firewalls themselves, beside loopback: connections with such an end are not replicated."""
    every: list[IPInterface] = []
    for interface in pair.every_interface:
        every += (address for _, addresses in interface.addresses for address in addresses)
        every += interface.vips
    return tuple(sorted(every, key=lambda one: one.version))


def _ignored(pair: Pair) -> Lines:
    lines = (
        f"{'IPv4' if isinstance(address, IPv4Interface) else 'IPv6'}_address {address.ip}"
        for address in ignored_addresses(pair)
    )
    return ("IPv4_address 127.0.0.0/8", "IPv6_address ::1", *lines)
