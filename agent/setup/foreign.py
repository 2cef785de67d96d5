# SPDX-License-Identifier: GPL-2.0-or-later
"""What a keepalived.conf or conntrackd.conf made by hand does beside, or against, the pair. Pure."""

from collections.abc import Iterator

from agent.model.pair import TUNNEL
from agent.render.conntrackd import HASH_SIZE, PROTOCOLS
from agent.setup.blocks import Statement
from agent.setup.wire import LINKS, MULTICAST, instances, key_of, read_conntrackd, read_keepalived

_OURS = ("global_defs", "vrrp_sync_group", "vrrp_instance", "track_file", "vrrp_track_file")
_PARTS = (
    *("virtual_routes", "virtual_rules", "virtual_ipaddress_excluded"),
    *("track_interface", "track_script", "track_process", "track_bfd"),
)
_SMALLEST_HASH = 8193


def what_would_go(old: str, new: str) -> tuple[str, ...]:
    """What an old keepalived.conf does that the new one does not. Raises NotUnderstoodError."""
    return tuple(_going(read_keepalived(old), read_keepalived(new)))


def _going(before: Statement, after: Statement) -> Iterator[str]:
    kept = instances(after)
    for one in before.body:
        if one.keyword not in _OURS or (one.keyword == "vrrp_instance" and key_of(before, one) not in kept):
            yield str(one)
        elif one.keyword in ("vrrp_instance", "vrrp_sync_group"):
            yield from (f"{part} of {one}" for part in one.body if part.keyword in _PARTS)


def unfit_for_agent(name: str, there: str, rendered: str, hook: str) -> tuple[str, ...]:
    """What has to be taken out of a file that stays, or be changed in it; `name` says which kind it is.

    `rendered` is the file as we would write it. Raises NotUnderstoodError.
    """
    if name == "conntrackd.conf":
        return tuple(_unfit_replication(read_conntrackd(there), read_conntrackd(rendered)))
    return tuple(_unfit_vrrp(read_keepalived(there), read_keepalived(rendered), hook))


def _unfit_vrrp(file: Statement, rendered: Statement, hook: str) -> Iterator[str]:
    ours, there = instances(rendered), instances(file)
    for one in (*file.all("global_defs"), *file.all("vrrp_sync_group"), *file.all("vrrp_instance")):
        for part in one.body:
            if part.keyword.startswith(("notify", "vrrp_notify_fifo")) and hook not in part.words:
                yield f"remove {part} from {one}: two would act at a failover, and the agent is one of them"
    groups = {
        name
        for group in file.all("vrrp_sync_group")
        for one in group.all("group")
        for name in _names_in(one)
    }
    for one in file.all("vrrp_instance"):
        if one.last("state") == "MASTER":
            yield (
                f"write state BACKUP in {one}: with MASTER a node that boots takes over before it has the"
                " states"
            )
        if key_of(file, one) in ours and one.value not in groups:
            yield f"put {one} into the group of the pair: else one node may hold a part of the addresses"
    yield from _unknown_senders(file, rendered)
    for key, spoken in ours.items():
        who = f"virtual router {key[1]} on {key[0]} ({key[2]})"
        if key not in there:
            yield f"add an instance for {who} with {spoken['virtual addresses']}"
        elif there[key]["virtual addresses"] != spoken["virtual addresses"]:
            yield (
                f"{who} has {there[key]['virtual addresses']}, and the pair file wants"
                f" {spoken['virtual addresses']}"
            )


def _unknown_senders(file: Statement, rendered: Statement) -> Iterator[str]:
    """Over IPv6, on a link where VRRP over IPv4 does not show the sender's hardware address to the rules."""
    there = instances(file)
    shown = {key[0] for key, said in there.items() if said["sent to"] == MULTICAST[4][1]}
    known = {key_of(rendered, one): one.last("mcast_src_ip") for one in rendered.all("vrrp_instance")}
    for one in file.all("vrrp_instance"):
        key = key_of(file, one)
        address = known.get(key)
        source = one.last("mcast_src_ip") or one.last("unicast_src_ip")
        if (
            address
            and key[0] not in shown
            and there[key]["sent to"] == MULTICAST[6][1]
            and source != address
        ):
            yield (
                f"write mcast_src_ip {address} in {one}, and {address}/64 dev {key[0]} in static_ipaddress:"
                " the other node's rules take any other sender for a stranger, and both nodes become primary"
            )


def _names_in(block: Statement) -> Iterator[str]:
    return (word for one in block.body for word in one.words)


def _unfit_replication(file: Statement, rendered: Statement) -> Iterator[str]:
    syncs, generals = list(file.all("Sync")), list(file.all("General"))
    if not syncs:
        yield "add a Sync block: without one nothing goes to the peer"
    yield from (f"remove {one}: there is no Sync beside it" for one in file.all("Stats"))
    for sync in syncs:
        yield from _unfit_links(sync, next(rendered.all("Sync")))
    for general in generals:
        yield from _unfit_general(general)


def _unfit_links(sync: Statement, rendered: Statement) -> Iterator[str]:
    yield from (f"write Mode FTFW instead of {one}" for one in sync.all("Mode") if one.value != "FTFW")
    links = [one for one in sync.body if one.keyword in LINKS]
    if not links:
        yield "add the UDP block: without one there is no peer"
    port = next(rendered.all("UDP")).last("Port")
    if links and len(links) < len(list(rendered.all("UDP"))):
        yield "add the UDP block of the second sync link, as in `hafw render conntrackd`"
    there = [one.last("Interface") for one in links]
    for name in (one.last("Interface") for one in rendered.all("UDP")):
        if name is not None and name.startswith(TUNNEL) and links and name not in there:
            yield f"put the UDP block of {name} in, as in `hafw render conntrackd`: that of the tunnel"
    for link in links:
        if link.keyword != "UDP":
            yield f"put the UDP block in the place of {link}: the rules let in UDP from the peer only"
        elif link.last("Port") != port:
            yield f"write Port {port} in {link}: the rules let in no other"


def _unfit_general(general: Statement) -> Iterator[str]:
    size = general.last("HashSize")
    if size is not None and not (size.isdecimal() and int(size) >= _SMALLEST_HASH):
        yield (f"write HashSize {HASH_SIZE} instead of {size}: with 8192 or less, failovers lose states")
    yield from (
        f"remove {one}: what opens between two looks at the kernel does not go to the peer"
        for one in general.all("PollSecs")
    )
    for rule in (one for each in general.all("Filter") for one in each.all("Protocol")):
        named = set(_names_in(rule))
        wrong = [one for one in PROTOCOLS if (one in named) == (rule.value == "Ignore")]
        if wrong:
            yield f"the Filter keeps {', '.join(wrong)} from the peer: let it accept {', '.join(PROTOCOLS)}"
