# SPDX-License-Identifier: GPL-2.0-or-later
"""Pair file -> files for /etc/systemd/network.

Hard facts (systemd-networkd 252 and 257, tried with the daemons):
* When networkd starts it removes every address that its files do not name, keepalived's virtual ones among
  them; the node then loses its role. KeepConfiguration=static does not do: IPv6 addresses with a preferred
  lifetime, which keepalived gives to each /128, count as dynamic. So `yes`; there is no DHCP here.
* Without carrier networkd takes even the static addresses away, and gives none at all to a link that has not
  had carrier since boot.
* Debian's keepalived waits for network-online.target, for two minutes when no cable is in or when no link is
  required. A link that is required to be no better than `no-carrier` delays no boot.
* An IPv6 address on a link without carrier stays tentative. networkd then never calls the link configured,
  and conntrackd cannot bind to the address, hence no duplicate address detection.
* Forwarding is set by our sysctl file; networkd leaves it alone as long as nothing here names it.
* The first file that matches a link counts, in the order of the names, wherever they lie.
"""

import re
from collections.abc import Iterator

from agent.model.pair import Interface, IPInterface, Pair
from agent.paths import Paths
from agent.render.block import Lines, because, text_of

# the form of names that vconfig, ifupdown and iproute2's manual give to VLAN interfaces
_VLAN = re.compile(r"(?P<link>.+)\.(?P<id>[1-9][0-9]{0,3})", re.ASCII)
_LARGEST_VLAN = 4094


def files(pair: Pair, node: str) -> tuple[tuple[str, str], ...]:
    """Name and text of each file, in the order of the names."""
    head = tuple(
        because(f"hafw render networkd --node {node}: made from the pair file, changes here are lost")
    )
    texts: dict[str, str] = {}
    links = _links(pair)
    for name, interface in links.items():
        above = tuple(other for other in links if (vlan := vlan_of(other)) and vlan[0] == name)
        texts[file_name(name, "network")] = text_of(head, *_network(name, interface, node, above))
        if vlan := vlan_of(name):
            texts[file_name(name, "netdev")] = text_of(head, *_netdev(name, vlan[1]))
    return tuple(sorted(texts.items()))


def render(pair: Pair, node: str, paths: Paths) -> str:
    """All files, each under its path."""
    return text_of(
        *((f"# {paths.network_dir / name}", text.rstrip("\n")) for name, text in files(pair, node))
    )


def file_name(interface: str, kind: str) -> str:
    return f"60-hafw-{interface}.{kind}"


def vlan_of(name: str) -> tuple[str, int] | None:
    """The link below and the VLAN's number, for a name like eth0.100."""
    found = _VLAN.fullmatch(name)
    if not found or int(found["id"]) > _LARGEST_VLAN:
        return None
    return found["link"], int(found["id"])


def _links(pair: Pair) -> dict[str, Interface | None]:
    """The interfaces of the pair, and those that only lie below a VLAN of it."""
    links: dict[str, Interface | None] = {interface.name: interface for interface in pair.interfaces}
    for interface in pair.interfaces:
        name = interface.name
        while vlan := vlan_of(name):
            name = vlan[0]
            links.setdefault(name, None)
    return links


def _network(name: str, interface: Interface | None, node: str, vlans: tuple[str, ...]) -> Iterator[Lines]:
    own = interface.own(node) if interface else ()
    local = "ipv6" if any(address.version == 6 for address in own) else "no"
    yield ("[Match]", f"Name={name}")
    yield (
        "[Link]",
        *because("booting does not wait for an unplugged cable", "RequiredForOnline=no-carrier"),
    )
    yield (
        "[Network]",
        *(f"VLAN={vlan}" for vlan in vlans),
        *because("keepalived's virtual addresses stay when networkd restarts", "KeepConfiguration=yes"),
        *because(
            "an unplugged cable removes no address",
            "ConfigureWithoutCarrier=yes",
            "IgnoreCarrierLoss=yes",
        ),
        *because(
            "addresses and routes are those of the pair file",
            "DHCP=no",
            "IPv6AcceptRA=no",
            f"LinkLocalAddressing={local}",
        ),
        *because("a firewall does not announce its name", "LLDP=no", "LLMNR=no", "MulticastDNS=no"),
    )

    for address in own:
        yield ("[Address]", f"Address={address}", *_checks(address))


def _checks(address: IPInterface) -> tuple[str, ...]:
    if address.version == 4:
        return ()
    return tuple(because("usable at once, even without a cable", "DuplicateAddressDetection=none"))


def _netdev(name: str, vlan: int) -> Iterator[Lines]:
    yield ("[NetDev]", f"Name={name}", "Kind=vlan")
    yield ("[VLAN]", f"Id={vlan}")
