# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair file: YAML in, a `Pair` out, or a ConfigError with every problem in it.

Two steps, `files.read` and `parse_files`, so that what was checked is what is kept. Nothing is opened
here, and nothing behind it checks again: what comes out of `parse_files` can be given to nft, keepalived and
conntrackd. What must hold inside one value is checked where it is read, what must hold between values in
`checks`.
"""

import re
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Named
from pathlib import Path

from agent.config.addresses import read_sets
from agent.config.checks import INTERFACE_NAME, NODE_NAME, PAIR_NAME, ZONE_NAME, check
from agent.config.files import Document, Documents, Files, PairFiles, Unreadable, document_of, read
from agent.config.nat import read_nat
from agent.config.policy import Words, read_policy, read_zones
from agent.config.reader import MAX_PROBLEMS, Problems, Spot, TooManyProblemsError, suggestion
from agent.config.services import read_own_services, read_services
from agent.config.source_tree import FILE_END, Mapping, Node, Sequence, shown, tree_problems
from agent.errors import ConfigError, Problem
from agent.model.pair import (
    AfterLimit,
    Drift,
    Encryption,
    Failover,
    Gate,
    Interface,
    IPInterface,
    IPNetwork,
    Management,
    Pair,
    Protocol,
    Sync,
    SyncMode,
)
from agent.model.pair import Node as PairNode
from agent.model.services import BFD_PORTS, SERVICES

VERSION = 1
_ANY = re.compile(r".*", re.DOTALL)
_REQUIRED = ("version", "pair", "nodes", "interfaces")
_INCLUDED = ("zones", "services", "sets", "policy", "nat")
_OPTIONAL = ("failover", "sync", "gate", "drift", "management", "include", *_INCLUDED)
_REASON = (re.compile(r"[A-Za-z][ -~]{2,79}", re.ASCII), "a reason; write why, in 3 to 80 plain characters")
_CARRY_LOGINS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.ANY)
MAX_INTERFACES = 256
_AND_MORE = Problem("", f"there are more than these {MAX_PROBLEMS} problems; correct them first")
_OLD_DRIFT = {"mend": Drift.REPAIR}
"""The word of the first releases, in pair files that are in use."""
_LOCKOUT = "this would lock management out"


def load(path: Path) -> Pair:
    """The pair in the file at `path`. Raises ConfigError, also when a file cannot be read."""
    return load_with_files(path)[0]


def load_with_files(path: Path) -> tuple[Pair, Files]:
    """The pair, and the texts that it was made of: to be kept, so that no one has to read them again. Raises
    ConfigError as load()."""
    files = read(path)
    return parse_files(files), files.readable


def parse(text: str, label: str = "pair file", texts: Named[str, str | Unreadable] | None = None) -> Pair:
    """parse_files() of a text that is not in a file. `texts` has the files that it names, by their names."""
    named = {name: Document(one) if isinstance(one, str) else one for name, one in (texts or {}).items()}
    return parse_files(PairFiles(label, label, Document(text), named))


def parse_files(files: PairFiles) -> Pair:
    """The pair that `files` describe. Raises ConfigError with every problem at once, and nothing else."""
    label = files.label
    tree = files.main.tree(label)
    problems = Problems([(tree, "")])
    try:
        _add_problems_of(tree, "", problems)
        pair = _read_pair(Spot(tree, "", problems), files.named)
    except TooManyProblemsError:
        raise ConfigError((*problems.in_order(), _AND_MORE), label) from None
    if problems.found or pair is None:
        raise ConfigError(problems.in_order(), label)
    return pair


def _add_problems_of(tree: Node, path: str, problems: Problems) -> None:
    for line, problem in tree_problems(tree, path):
        problems.note(line, Problem(problem.path, f"{problem.message} (line {line})"))


def _read_included(spot: Spot | None, named: Documents) -> Iterator[dict[str, Spot]]:
    """The sections of each included file, by name."""
    for item in spot.one_or_more() if spot else ():
        name = item.text()
        document = document_of(item, name, named) if name is not None else None
        if name is None or document is None:
            continue
        if name in item.problems.files:
            item.refuse(f"{name} is already included; remove one")
            continue
        item.problems.files.append(name)
        try:
            tree = document.tree(name)
        except ConfigError as error:
            for problem in error.problems:
                item.problems.note(0, Problem(name, problem.message))
            continue
        root = name + FILE_END
        item.problems.trees.append((tree, root))
        _add_problems_of(tree, root, item.problems)
        yield Spot(tree, root, item.problems).fields((), _INCLUDED)


def _read_pair(spot: Spot, named: Documents) -> Pair | None:
    """None only when a problem was reported."""
    fields = spot.fields(_REQUIRED, _OPTIONAL)
    version = fields["version"].integer(0, 9999) if "version" in fields else None
    if version is not None and version != VERSION:
        fields["version"].refuse(
            f"this hafw reads version {VERSION}, not {version}; write version: {VERSION}"
        )
    name = fields["pair"].matching(*PAIR_NAME) if "pair" in fields else None
    nodes = _read_nodes(fields["nodes"]) if "nodes" in fields else ()
    interfaces = tuple(_read_interfaces(fields["interfaces"], nodes)) if "interfaces" in fields else ()
    complete = "interfaces" in fields and _count(fields["interfaces"].node) == len(interfaces) > 0
    parts = (fields, *_read_included(fields.get("include"), named))
    every = {name: tuple(part[name] for part in parts if name in part) for name in _INCLUDED}
    # with an interface unread, it is not known whether a zone exists
    words = Words(
        interfaces if complete else (),
        read_own_services(every["services"]),
        read_sets(every["sets"], named),
    )
    nat = read_nat(every["nat"], words)
    pair = Pair(
        name=name or "",
        nodes=nodes,
        interfaces=interfaces,
        management=_read_management(fields.get("management"), interfaces, spot, words),
        failover=_read_failover(fields["failover"]) if "failover" in fields else Failover(),
        sync=_read_sync(fields["sync"]) if "sync" in fields else Sync(),
        gate=_read_gate(fields["gate"]) if "gate" in fields else Gate(),
        drift=(fields["drift"].choice(Drift, _OLD_DRIFT) if "drift" in fields else None) or Drift.REPAIR,
        policy=tuple(read_policy(every["policy"], words)),
        nat=nat.sources,
        forwards=nat.forwards,
        sets=tuple(words.sets.values()),
        zones=tuple(read_zones(every["zones"], words)),
    )
    check(pair, spot.problems, complete)
    return pair if name else None


def _count(node: Node) -> int | None:
    return len(node.entries) if isinstance(node, Mapping) else None


def _read_nodes(spot: Spot) -> tuple[PairNode, ...]:
    nodes = []
    for name, below in spot.entries():
        if not NODE_NAME[0].fullmatch(name):
            below.refuse(f"{shown(name)} is not {NODE_NAME[1]}")
        fields = below.fields(("priority",))
        priority = fields["priority"].integer(1, 254) if "priority" in fields else None
        # a node without a good priority stays in: its name is known to the rest of the file
        nodes.append(PairNode(name, priority or 0))
    if len(nodes) != 2 and isinstance(spot.node, Mapping):
        spot.refuse(f"a pair has exactly two nodes, not {len(nodes)}")
    return tuple(nodes)


def _read_interfaces(spot: Spot, nodes: tuple[PairNode, ...]) -> Iterator[Interface]:
    if _count(spot.node) == 0:
        spot.refuse("is empty; write every interface of the pair")
    if len(spot.entries()) > MAX_INTERFACES:
        spot.refuse(f"has {len(spot.entries())} interfaces; a pair has at most {MAX_INTERFACES}")
        return
    for name, below in spot.entries():
        if not INTERFACE_NAME[0].fullmatch(name):
            below.refuse(f"{shown(name)} is not {INTERFACE_NAME[1]}")
        fields = below.fields(("zone", "addresses"), ("vip", "vrid", "no_source_check"))
        zone = fields["zone"].matching(*ZONE_NAME) if "zone" in fields else None
        vips = tuple(_read_addresses(fields["vip"])) if "vip" in fields else ()
        vrid = fields["vrid"].integer(1, 255) if "vrid" in fields else None
        own = tuple(_read_own(fields["addresses"], nodes)) if "addresses" in fields else ()
        reason = fields["no_source_check"].matching(*_REASON) if "no_source_check" in fields else None
        if zone:
            yield Interface(name, zone, own, vips, vrid, reason)


def _read_own(spot: Spot, nodes: tuple[PairNode, ...]) -> Iterator[tuple[str, tuple[IPInterface, ...]]]:
    names = [node.name for node in nodes]
    entries = spot.entries()
    for name, below in entries:
        if names and name not in names:
            below.refuse(f"no node has this name{suggestion(name, names)}")
            continue
        yield name, tuple(_read_addresses(below))
    for name in names:
        if entries and name not in dict(entries):
            spot.refuse(f"{name} has no address here; write one")


def _read_addresses(spot: Spot) -> Iterator[IPInterface]:
    for item in spot.one_or_more():
        address = item.interface_address()
        if address:
            yield address


def _read_failover(spot: Spot) -> Failover:
    fields = spot.fields((), ("advert_interval", "preempt"))
    default = Failover()
    # VRRPv3 counts in hundredths of a second, in twelve bits
    interval = (
        fields["advert_interval"].duration_ms(10, 40_000, step=10) if "advert_interval" in fields else None
    )
    preempt = fields["preempt"].boolean() if "preempt" in fields else None
    return Failover(interval or default.advert_interval_ms, default.preempt if preempt is None else preempt)


def _read_sync(spot: Spot) -> Sync:
    fields = spot.fields((), ("mode", "port", "refresh", "channel_port", "encrypt", "wireguard_port"))
    mode = fields["mode"].choice(SyncMode) if "mode" in fields else None
    port = fields["port"].integer(1, 65535) if "port" in fields else None
    if port in BFD_PORTS:
        fields["port"].refuse(
            "is that of BFD, which only its port distinguishes from replication; write another one"
        )
    refresh = fields["refresh"].duration_ms(100, 3_600_000) if "refresh" in fields else None
    channel = fields["channel_port"].integer(1024, 65535) if "channel_port" in fields else None
    encrypt = fields["encrypt"].choice(Encryption) if "encrypt" in fields else None
    # a second sync link has the next one
    wireguard = fields["wireguard_port"].integer(1024, 65534) if "wireguard_port" in fields else None
    if "wireguard_port" in fields and "encrypt" not in fields:
        fields["wireguard_port"].refuse(
            "there is no tunnel without encrypt: wireguard; add that, or remove it"
        )
    default = Sync()
    return Sync(
        mode or default.mode,
        port or default.port,
        refresh / 1000 if refresh else None,
        channel or default.channel_port,
        encrypt,
        wireguard or default.wireguard_port,
    )


def _read_gate(spot: Spot) -> Gate:
    fields = spot.fields((), ("limit", "then"))
    limit = fields["limit"].duration_ms(10, 600_000) if "limit" in fields else None
    then = fields["then"].choice(AfterLimit) if "then" in fields else None
    default = Gate()
    return Gate(limit / 1000 if limit else default.limit_s, then or default.then)


def _read_management(
    spot: Spot | None, interfaces: tuple[Interface, ...], root: Spot, words: Words
) -> Management:
    everywhere = _outermost(network for interface in interfaces for network in interface.networks)
    if spot is None:
        return Management(everywhere, SERVICES["ssh"])
    for part in (spot, *(below for _, below in spot.entries())):
        if part.node in (Mapping((), part.node.line), Sequence((), part.node.line)):
            part.refuse(f"is empty: {_LOCKOUT}; write who may log in, or leave management out")
            return Management(everywhere, SERVICES["ssh"])
    fields = spot.fields(("from",), ("services",))
    sources = _read_sources(fields["from"], interfaces) if "from" in fields else everywhere
    services = read_services(fields["services"], words.services) if "services" in fields else SERVICES["ssh"]
    if services and not any(service.protocol in _CARRY_LOGINS for service in services):
        fields["services"].refuse(f"{_LOCKOUT}: no login works over {services[0].name}; add ssh")
    return Management(sources, services)


def _read_sources(spot: Spot, interfaces: tuple[Interface, ...]) -> tuple[IPNetwork, ...]:
    found: list[IPNetwork] = []
    zones = {interface.zone for interface in interfaces}
    own_versions = {network.version for interface in interfaces for network in interface.networks}
    for item in spot.one_or_more():
        word = item.matching(_ANY, "a word")
        if word in zones:
            found += (network for one in interfaces if one.zone == word for network in one.networks)
        elif word is not None and ZONE_NAME[0].fullmatch(word) and zones:
            item.refuse(f"no interface is in a zone named {shown(word)}{suggestion(word, sorted(zones))}")
        elif word is not None:
            network = item.network()
            if network and own_versions and network.version not in own_versions:
                reason = f"the firewalls have no IPv{network.version} address"
                item.refuse(f"no host in {network} can reach the firewalls: {reason}; remove it")
            elif network:
                found.append(network)
    return _outermost(found)


def _outermost(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """Without networks that lie in others: an nft set takes no overlaps."""
    every = dict.fromkeys(networks)
    lengths = sorted({(network.version, network.prefixlen) for network in every})
    return tuple(
        one
        for one in every
        if not any(
            one.supernet(new_prefix=length) in every
            for version, length in lengths
            if version == one.version and length < one.prefixlen
        )
    )
