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
* A tunnel has no hardware address, so networkd would wait for a link-local address that never comes. It
  has a carrier always. conntrackd leaves a link that has none, so of two tunnels each is down while the
  wire below it has none (BindCarrier=). The kernel keeps its addresses, as our sysctl file wants it.
* A carrier loss that is to be ignored takes no link down that is bound to that carrier either.
* networkd reads the keys of a tunnel as its own user. When it starts it gives a tunnel that is there the
  keys of its file, and forgets what it knew of the other node.
* The first file that matches a link counts, in the order of the names, wherever they lie.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from agent.model.pair import TUNNEL, Encryption, Interface, IPInterface, Pair, Tunnel
from agent.paths import Paths
from agent.render.block import Lines, because, text_of
from agent.render.conntrackd import sync_addresses

# the form of names that vconfig, ifupdown and iproute2's manual give to VLAN interfaces
_VLAN = re.compile(r"(?P<link>.+)\.(?P<id>[1-9][0-9]{0,3})", re.ASCII)
_LARGEST_VLAN = 4094
_OURS = "60-hafw-"
TUNNEL_MTU = 1420
_KEPT = ("IgnoreCarrierLoss=yes",)


def files(pair: Pair, node: str) -> tuple[tuple[str, str], ...]:
    """Name and text of each file, in the order of the names."""
    head = tuple(
        because(f"hafw render networkd --node {node}: made from the pair file, changes here are lost")
    )
    texts: dict[str, str] = {}
    links = _links(pair)
    for name, interface in links.items():
        above = tuple(other for other in links if (vlan := vlan_of(other)) and vlan[0] == name)
        bound = len(pair.tunnels) > 1 and interface in pair.sync_interfaces
        texts[file_name(name, "network")] = text_of(head, *_network(name, interface, node, above, bound))
        if vlan := vlan_of(name):
            texts[file_name(name, "netdev")] = text_of(head, *_netdev(name, vlan[1]))
    for tunnel in pair.tunnels:
        texts[file_name(tunnel.inside.name, "network")] = text_of(head, *_tunnel_network(pair, tunnel, node))
    return tuple(sorted(texts.items()))


def tunnel_files(
    pair: Pair, node: str, paths: Paths, peer_keys: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Name and text of the files that make the tunnels. `peer_keys`: the other node's public key for each,
    by the name of its interface."""
    head = tuple(
        because(f"hafw render networkd --node {node}: made from the pair file, changes here are lost")
    )
    return tuple(
        (
            file_name(one.inside.name, "netdev"),
            text_of(head, *_tunnel(pair, one, node, paths, peer_keys.get(one.inside.name))),
        )
        for one in pair.tunnels
    )


def render(pair: Pair, node: str, paths: Paths) -> str:
    """All files, each under its path; those of tunnels without what is made of the key of the pair."""
    every = sorted((*files(pair, node), *tunnel_files(pair, node, paths, {})))
    return text_of(*((f"# {paths.network_dir / name}", text.rstrip("\n")) for name, text in every))


def file_name(interface: str, kind: str) -> str:
    return f"{_OURS}{interface}.{kind}"


def tunnel_of(path: Path) -> str | None:
    """The interface of the tunnel that a file makes; None for any other file."""
    name = path.stem.removeprefix(_OURS)
    return name if path.name == file_name(name, "netdev") and name.startswith(TUNNEL) else None


def tunnel_key_file(paths: Paths, interface: str) -> Path:
    """This node's private key for a tunnel, which networkd reads as a user of its own."""
    return paths.pair_key.with_name(f"{interface}.key")


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


def _network(
    name: str, interface: Interface | None, node: str, vlans: tuple[str, ...], bound: bool
) -> Iterator[Lines]:
    """`bound`: the link above is to be down while this one has no carrier."""
    own = interface.own(node) if interface else ()
    local = "ipv6" if any(address.version == 6 for address in own) else "no"
    lines = (f"VLAN={vlan}" for vlan in vlans)
    loss = because("an unplugged cable takes the tunnel down as well", "IgnoreCarrierLoss=no")
    yield from _any_network(name, own, local, "no-carrier", lines, loss if bound else _KEPT)


def _tunnel_network(pair: Pair, tunnel: Tunnel, node: str) -> Iterator[Lines]:
    own = tunnel.inside.own(node)
    if len(pair.tunnels) == 1:
        yield from _any_network(tunnel.inside.name, own, "no", "no-carrier", (), _KEPT)
        return
    bound = because("conntrackd uses the other one meanwhile", f"BindCarrier={tunnel.wire.name}")
    yield from _any_network(tunnel.inside.name, own, "no", "off", bound, _KEPT)


def _any_network(
    name: str,
    own: tuple[IPInterface, ...],
    local: str,
    online: str,
    lines: Iterable[str],
    loss: Iterable[str],
) -> Iterator[Lines]:
    yield ("[Match]", f"Name={name}")
    yield (
        "[Link]",
        *because("booting does not wait for an unplugged cable", f"RequiredForOnline={online}"),
    )
    yield (
        "[Network]",
        *lines,
        *because("keepalived's virtual addresses stay when networkd restarts", "KeepConfiguration=yes"),
        *because("an unplugged cable removes no address", "ConfigureWithoutCarrier=yes"),
        *loss,
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


def _tunnel(pair: Pair, tunnel: Tunnel, node: str, paths: Paths, peer_key: str | None) -> Iterator[Lines]:
    name = tunnel.inside.name
    _, outside = sync_addresses(pair, tunnel.wire, node)
    _, inside = sync_addresses(pair, tunnel.inside, node)
    yield (
        "[NetDev]",
        f"Name={name}",
        f"Kind={Encryption.WIREGUARD.value}",
        *because("what 1500 bytes of the wire leave, over IPv6 as well", f"MTUBytes={TUNNEL_MTU}"),
    )
    yield ("[WireGuard]", f"ListenPort={tunnel.port}", f"PrivateKeyFile={tunnel_key_file(paths, name)}")
    known = "hafw setup makes PublicKey= of the key of the pair"
    yield (
        "[WireGuardPeer]",
        *((f"PublicKey={peer_key}",) if peer_key else because(known)),
        f"AllowedIPs={inside.ip}/{inside.max_prefixlen}",
        f"Endpoint={outside.ip if outside.version == 4 else f'[{outside.ip}]'}:{tunnel.port}",
    )
