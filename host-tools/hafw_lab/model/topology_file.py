# SPDX-License-Identifier: GPL-2.0-or-later
"""A topology from a YAML file.

    segments:
      br0: {zone: server, vip: 192.168.0.100/24, vrid: 62}
      br1: {zone: client, vip: 192.168.2.100/24, vrid: 61}
      br2: {zone: sync}
    nodes:
      client: {links: {eth0: {segment: br1, addresses: 192.168.2.10/24}}, routes: {default: 192.168.2.100}}
      fw-1:
        firewall: {priority: 150}
        links:
          eth0: {segment: br0, addresses: 192.168.0.1/24}
          eth1: {segment: br1, addresses: [192.168.2.1/24, "fd00:2::1/64"]}
          eth2: {segment: br2, addresses: 192.168.1.1/24}
      ...

What the firewalls' daemons need is checked by the pair file's own parser afterwards.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from agent.config import source_tree
from agent.config.source_tree import MAX_BYTES, Node, Scalar, tree_of, tree_problems
from agent.errors import ConfigError
from agent.regular_file import UnfitFileError, read_regular
from hafw_lab.errors import LabError
from hafw_lab.model.topology import DEFAULT, IPInterface, Link, NodeKind, NodeSpec, Route, Segment, Topology

_LINK_NAME = re.compile(r"[A-Za-z0-9._-]{1,15}")
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_ROUTE = "write for example default: 192.168.2.100"
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_NOTHING = dict.fromkeys(("", "~", "null"))
_Map = Mapping[str, Any]  # decoded YAML, narrowed field by field


def choose_topology(path: Path | None) -> Topology:
    """What the file says, or the built-in one without a file. Raises LabError."""
    return DEFAULT if path is None else load_topology(path)


def load_topology(path: Path) -> Topology:
    """Raises LabError that names the place in the file."""
    try:
        # as a pair file is read: no aliases, no key twice, and no word that YAML makes something else of
        tree = tree_of(read_regular(path, MAX_BYTES).decode(), str(path))
    except (UnfitFileError, ConfigError) as error:
        raise LabError(error.message) from error
    except UnicodeDecodeError as error:
        raise LabError(f"{path} is not UTF-8 text", "save it as UTF-8") from error
    for line, problem in tree_problems(tree):
        raise LabError(f"{path}: line {line}: {problem}")
    try:
        return parse_topology(_plain(tree))
    except LabError as error:
        raise LabError(f"{path}: {error.message}", error.hint) from error


def _plain(node: Node) -> object:
    match node:
        case Scalar():
            if not node.plain:
                return node.text
            return int(node.text) if _NUMBER.fullmatch(node.text) else _NOTHING.get(node.text, node.text)
        case source_tree.Sequence():
            return [_plain(item) for item in node.items]
        case source_tree.Mapping():
            return {key.text: _plain(value) for key, value in node.entries}
    return None


def parse_topology(data: object) -> Topology:
    """Raises LabError that names the place."""
    top = _map(data, "the file", ("segments", "nodes"))
    segments = tuple(_segment(name, entry) for name, entry in _named(top, "segments", _LINK_NAME))
    names = [segment.name for segment in segments]
    nodes = tuple(_node(name, entry, names) for name, entry in _named(top, "nodes", _HOST_NAME))
    return Topology(segments, nodes)


def _map(value: object, place: str, known: Sequence[str]) -> _Map:
    if not isinstance(value, dict):
        raise LabError(f"{place}: names and values are expected here", f"known are {', '.join(known)}")
    for key in value:
        if key not in known:
            raise LabError(f"{place}: unknown key {key!r}", f"known are {', '.join(known)}")
    return value


def _named(top: _Map, key: str, form: re.Pattern[str]) -> list[tuple[str, object]]:
    entries = top.get(key)
    if not isinstance(entries, dict) or not entries:
        raise LabError(
            f"{key} is missing or empty", "the built-in help of topology_file.py shows a whole file"
        )
    for name in entries:
        if not isinstance(name, str) or not form.fullmatch(name):
            raise LabError(
                f"{key}: {name!r} is not a valid name", "use letters, digits and hyphens, at most 15 of them"
            )
    return list(entries.items())


def _segment(name: str, entry: object) -> Segment:
    place = f"segments.{name}"
    fields = _map(entry, place, ("zone", "vip", "vrid"))
    zone, vrid = fields.get("zone"), fields.get("vrid")
    if not isinstance(zone, str):
        raise LabError(f"{place}.zone is missing", "write client, server or sync")
    if vrid is not None and (not isinstance(vrid, int) or isinstance(vrid, bool)):
        raise LabError(f"{place}.vrid: {vrid!r} is not a number from 1 to 255")
    return Segment(name, zone, _interfaces(fields.get("vip"), f"{place}.vip"), vrid)


def _interfaces(value: object, place: str) -> tuple[IPInterface, ...]:
    found = []
    for text in value if isinstance(value, list) else [] if value is None else [value]:
        try:
            if not isinstance(text, str) or "/" not in text:
                raise ValueError
            found.append(ip_interface(text))
        except ValueError:
            hint = "write for example 192.168.0.1/24"
            raise LabError(f"{place}: {text!r} is not an address with prefix length", hint) from None
    return tuple(found)


def _node(name: str, entry: object, segments: Sequence[str]) -> NodeSpec:
    place = f"nodes.{name}"
    fields = _map(entry, place, ("firewall", "links", "routes"))
    links = fields.get("links")
    if not isinstance(links, dict) or not links:
        raise LabError(f"{place}.links is missing or empty")
    priority = None
    if "firewall" in fields:
        priority = _map(fields["firewall"], f"{place}.firewall", ("priority",)).get("priority")
        if not isinstance(priority, int):
            raise LabError(f"{place}.firewall.priority must be a number from 1 to 254")
    return NodeSpec(
        name,
        NodeKind.HOST if priority is None else NodeKind.FIREWALL,
        tuple(_link(link, one, f"{place}.links.{link}", segments) for link, one in links.items()),
        tuple(_routes(fields.get("routes"), f"{place}.routes")),
        priority,
    )


def _link(name: object, entry: object, place: str, segments: Sequence[str]) -> Link:
    if not isinstance(name, str) or not _LINK_NAME.fullmatch(name):
        raise LabError(f"{place}: {name!r} is not a valid interface name")
    fields = _map(entry, place, ("segment", "addresses"))
    segment = fields.get("segment")
    if not isinstance(segment, str) or segment not in segments:
        raise LabError(
            f"{place}.segment: there is no segment {segment!r}", f"there are {', '.join(segments)}"
        )
    return Link(name, segment, _interfaces(fields.get("addresses"), f"{place}.addresses"))


def _routes(value: object, place: str) -> Iterator[Route]:
    if value is not None and not isinstance(value, dict):
        raise LabError(f"{place}: targets and gateways are expected here", _ROUTE)
    for target, via in (value or {}).items():
        yield _route(target, via, place)


def _route(target: object, via: object, place: str) -> Route:
    try:
        gateway = ip_address(str(via))
        anywhere = "0.0.0.0/0" if gateway.version == 4 else "::/0"
        return Route(ip_network(anywhere if target == "default" else str(target)), gateway)
    except ValueError as error:
        raise LabError(f"{place}: {target!r} via {via!r} is not a valid route ({error})", _ROUTE) from error
