# SPDX-License-Identifier: GPL-2.0-or-later
"""What the files of keepalived, conntrackd and tunnels say to the other node, and where two differ. Pure.

Two nodes with files that differ here do not understand each other: with keepalived's both are primary, with
conntrackd's, or with those of its links, no state goes over.

Hard facts (keepalived 2.2.7 and 2.3.3, conntrackd 1.4.7):
* VRRP is version 2 unless vrrp_version or the instance's own `version` says otherwise; over IPv6 always 3.
* An advertisement of another version, with other authentication, sent to another address, or that names
  other virtual addresses is dropped, and so does not keep a backup from becoming primary. With version 2 so
  is one with another advert_int. (2.3.3 takes other addresses in version 3 and complains; 2.2.7 drops.)
  virtual_ipaddress_excluded is not sent.
* A tunnel of WireGuard hears only what comes to its port with a key that it knows. It would follow a sender
  that has moved, but our rules let in nothing past the addresses that the pair file has.
* `!` begins a comment in keepalived.conf, as `#` does; in conntrackd.conf only `#`.
"""

import ipaddress
from collections.abc import Iterator

from agent.setup.blocks import NotUnderstoodError, Statement, parse_blocks

Key = tuple[str, ...]
Spoken = dict[str, str]
"""What is said on the wire, under a name for people."""

MULTICAST = {4: ("vrrp_mcast_group4", "224.0.0.18"), 6: ("vrrp_mcast_group6", "ff02::12")}
LINKS = ("Multicast", "UDP", "TCP")
_OF_TUNNEL = {
    "ListenPort": "UDP port",
    "PublicKey": "key of the other node",
    "AllowedIPs": "address of the other node inside",
    "Endpoint": "other node at",
}


def wire_differences(name: str, old: str, new: str) -> tuple[str, ...]:
    """Sentences; empty when nodes with the old and the new file understand each other.

    `name` says which kind of file it is. Raises NotUnderstoodError for an old file.
    """
    if name == "conntrackd.conf":
        return tuple(_replication_differences(old, new))
    before, after = instances(read_keepalived(old)), instances(read_keepalived(new))
    return tuple(_instance_differences(before, after)) if before else ()


def read_keepalived(text: str) -> Statement:
    """Raises NotUnderstoodError."""
    return parse_blocks(text, "#!")


def read_conntrackd(text: str) -> Statement:
    """Raises NotUnderstoodError."""
    return parse_blocks(text, "#")


def _globals(file: Statement, keyword: str) -> str | None:
    return next((value for one in file.all("global_defs") if (value := one.last(keyword))), None)


# -- VRRP --


def instances(file: Statement) -> dict[Key, Spoken]:
    """What each VRRP instance says, under its interface, number and family."""
    found = {}
    for instance in file.all("vrrp_instance"):
        addresses = _addresses(instance)
        six = instance.last("native_ipv6") is not None or (bool(addresses) and ":" in addresses[0])
        found[_key(file, instance, 6 if six else 4)] = _spoken(file, instance, 6 if six else 4, addresses)
    return found


def _key(file: Statement, instance: Statement, family: int) -> Key:
    interface = instance.last("interface") or _globals(file, "default_interface") or "no interface"
    return interface, instance.last("virtual_router_id") or "without a number", f"IPv{family}"


def _addresses(instance: Statement) -> list[str]:
    words = [one.keyword for block in instance.all("virtual_ipaddress") for one in block.body]
    try:
        return [str(ipaddress.ip_interface(word).ip) for word in words]
    except ValueError as error:
        raise NotUnderstoodError(f"line {instance.line}: {error}") from error


def _spoken(file: Statement, instance: Statement, family: int, addresses: list[str]) -> Spoken:
    version = instance.last("version") or _globals(file, "vrrp_version") or "2"
    if family == 6:
        version = "3"
    keyword, group = MULTICAST[family]
    peers = sorted(one.keyword for block in instance.all("unicast_peer") for one in block.body)
    types = [one.last("auth_type") or "PASS" for one in instance.all("authentication")]
    own_interval = instance.last("advert_int")
    return {
        "VRRP version": version,
        "authentication": types[-1] if types and version == "2" else "none",
        "advert_int": _seconds(own_interval or "1", instance.line) if version == "2" else "any",
        "sent to": ", ".join(peers) or _globals(file, keyword) or group,
        "virtual addresses": ", ".join(sorted(addresses)) or "none",
    }


def _seconds(text: str, line: int) -> str:
    try:
        return f"{float(text):g} s"
    except ValueError as error:
        raise NotUnderstoodError(f"line {line}: advert_int is not a number") from error


def key_of(file: Statement, instance: Statement) -> Key:
    (key,) = instances(Statement(0, (), (*file.all("global_defs"), instance)))
    return key


def _instance_differences(before: dict[Key, Spoken], after: dict[Key, Spoken]) -> Iterator[str]:
    for key, new in after.items():
        who = f"virtual router {key[1]} on {key[0]} ({key[2]})"
        old = before.get(key)
        if old is None:
            yield f"{who} is in the new file only"
            continue
        for name, value in new.items():
            if old[name] != value:
                yield f"{who}: {name}: {old[name]} in the existing file, {value} in the new one"


# -- replication --


def _replication_differences(old: str, new: str) -> Iterator[str]:
    before, after = (_replication(read_conntrackd(text)) for text in (old, new))
    for name, value in after.items():
        # a file for statistics only replicates nothing that could be lost
        if before and before.get(name) != value:
            yield f"{name}: {before.get(name, 'none')} in the existing file, {value} in the new one"


def _replication(file: Statement) -> Spoken:
    sync = next(file.all("Sync"), None)
    if sync is None:
        return {}
    modes = [one.value for one in sync.all("Mode")]
    links = [_link(one) for one in sync.body if one.keyword in LINKS]
    return {"replication mode": ", ".join(modes) or "none", "replicated over": "; ".join(links) or "nothing"}


def _link(link: Statement) -> str:
    where = {
        "Multicast": ("IPv4_address", "IPv6_address", "Group"),
        "UDP": ("IPv4_Destination_Address", "IPv6_Destination_Address", "Port"),
        "TCP": ("IPv4_Destination_Address", "IPv6_Destination_Address", "Port"),
    }[link.keyword]
    if any(len(one.words) > 2 for one in link.body):
        raise NotUnderstoodError(f"line {link.line}: several settings on a line")
    values = [value for keyword in where if (value := link.last(keyword))]
    return f"{link.keyword} {' port '.join(values)} on {link.last('Interface')}"


def replicates_over(conntrackd: str) -> str | None:
    """For people; None when it replicates nothing. Raises NotUnderstoodError."""
    return _replication(read_conntrackd(conntrackd)).get("replicated over")


# -- the links below it, in systemd-networkd's files --


def tunnel_differences(name: str, old: str, new: str) -> Iterator[str]:
    """Between two .netdev files of the tunnel `name`."""
    for setting, word in _OF_TUNNEL.items():
        before, after = (", ".join(_networkd_values(text, setting)) or "none" for text in (old, new))
        if before != after:
            yield f"tunnel {name}: {word}: {before} in the existing file, {after} in the new one"


def address_losses(name: str, old: str, new: str) -> Iterator[str]:
    """Of a sync link, between two .network files: the other node sends to what this node had there."""
    before, after = ([one.split("/")[0] for one in _networkd_values(text, "Address")] for text in (old, new))
    for address in before:
        if address not in after:
            yield f"{name}: {address} is in the existing file only, and the other node sends to it"


def _networkd_values(text: str, setting: str) -> list[str]:
    found = (line.partition("=") for line in text.splitlines())
    return [value.strip() for key, _, value in found if key.strip() == setting]
