# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the interfaces of the pair file and those of this host do not agree."""

import os
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from agent.adapters.iproute import HostLink
from agent.model.pair import Pair
from agent.render.networkd import vlan_of


def host_warnings(pair: Pair, links: Collection[HostLink], session: str | None) -> Iterator[str]:
    """What is missing here, and where no login will work any more. `session` is what ssh says of the session
    that asks (SSH_CONNECTION)."""
    there = {link.name for link in links}
    for interface in pair.interfaces:
        if not _can_be(interface.name, there):
            yield f"{interface.name} of the pair file is not on this host; nothing passes there"
    known = {interface.name for interface in pair.every_interface}
    ours = _end_of(session)
    for link in links:
        if link.name in (*known, "lo") or not link.is_up or not link.addresses:
            continue
        addresses = ", ".join(map(str, link.addresses))
        said = (
            f"{link.name} ({addresses}) is in no zone of the pair file: ssh arriving there will be dropped"
        )
        if ours in {address.ip for address in link.addresses}:
            said = f"YOUR OWN SSH SESSION COMES IN OVER {said}, and you are locked out"
        yield f"{said}; put {link.name} into the pair file, or come in over another interface"


def find_ssh_session() -> str | None:
    """SSH_CONNECTION of this process, or of one that it comes from: sudo takes it away."""
    found = os.environ.get("SSH_CONNECTION")
    process = os.getppid()
    while found is None and process > 1:
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            status = Path(f"/proc/{process}/stat").read_text(errors="replace")
        except OSError:
            return None
        values = (one for one in environment if one.startswith(b"SSH_CONNECTION="))
        found = next(values, b"").partition(b"=")[2].decode(errors="replace") or None
        process = int(status.rpartition(")")[2].split()[1])
    return found


def _can_be(name: str, there: Collection[str]) -> bool:
    """A VLAN's interface is made by systemd-networkd, on the one below."""
    vlan = vlan_of(name)
    return name in there or (vlan is not None and _can_be(vlan[0], there))


def _end_of(session: str | None) -> IPv4Address | IPv6Address | None:
    """The address that a session was opened to: `CLIENT PORT SERVER PORT`."""
    words = (session or "").split()
    try:
        address = IPv6Address(words[2].partition("%")[0]) if ":" in words[2] else IPv4Address(words[2])
    except (IndexError, ValueError):
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
