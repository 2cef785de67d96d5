# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes and name servers that this host has for interfaces of the pair, and that `hafw setup` does not
carry over. Reads files below a root and writes none.

Hard facts (ifupdown 0.8, systemd-networkd 252):
* An `iface` stanza ends at the next word that begins one; a backslash continues a line; `eth0:1` is eth0.
* `source` takes patterns, `source-directory` a directory; both may lead to more of them.
* A drop-in of a .network file may have sections of its own, [Route] any number of times.
"""

import fnmatch
import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.iproute import HostRoute
from agent.model.pair import Pair
from agent.plain_address import read_plain_address
from agent.render.networkd import file_name

_BEGINS_A_STANZA = re.compile(
    r"iface|mapping|source|source-directory|auto|rename|no-auto-down|no-scripts|allow-\S+"
)
_COMMANDS = ("up", "post-up", "pre-up", "down", "pre-down", "post-down")
_MAX_FILES = 200
_LARGEST = 1_000_000
_MAX_ROUTES = 20
_SYSTEMD_DIRS = ("etc/systemd/network", "run/systemd/network", "usr/lib/systemd/network")
_OF_NETWORKS = {
    "Network": ("Gateway", "DNS", "Domains", "NTP", "DHCP"),
    "Route": ("Gateway", "Destination", "Table", "Metric"),
    "RoutingPolicyRule": ("From", "To", "Table"),
}


@dataclass(frozen=True, slots=True)
class Loss:
    """`lines` say the same to systemd-networkd; without any, only a person can."""

    interface: str
    file: str
    text: str
    lines: tuple[str, ...] = ()


def loss_notes(pair: Pair, root: Path, routes: Collection[HostRoute]) -> Iterator[str]:
    """A note for each interface of the pair that loses something; `routes` are those in the kernel."""
    found = (*_of_ifupdown(root), *_of_networkd(pair, root), *_of_kernel(routes))
    for interface in pair.interfaces:
        kept = _kept(root, interface.name)
        mine = [one for one in found if one.interface == interface.name and not _is_kept(one, kept)]
        if mine:
            yield _note(interface.name, mine)


def _note(name: str, losses: list[Loss]) -> str:
    named = "".join(dict.fromkeys(f"    {one.file}: {one.text}\n" for one in losses))
    sections = dict.fromkeys("\n    ".join(one.lines) for one in losses if one.lines)
    place = f"/etc/systemd/network/{file_name(name, 'network')}.d/own.conf"
    text = (
        f"these of {name} are not carried over, and are lost when systemd-networkd has {name}, at the next"
        f" boot at the latest:\n\n{named}\n"
    )
    if not sections:
        return f"{text}What you still need of them belongs into {place}, before anything is made live."
    return (
        f"{text}What you still need of them belongs into {place}, before anything is made live;"
        " as it seems:\n\n" + "\n".join(f"    {section}\n" for section in sections)
    ).rstrip("\n")


def _route(destination: str, gateway: str | None, table: str | None = None) -> tuple[str, ...]:
    """As systemd-networkd has it; nothing for what is no route of the plain kind."""
    lines = ["[Route]"]
    try:
        if destination != "default":
            network = ipaddress.ip_network(destination, strict=False)
            if network.prefixlen or gateway is None:
                lines.append(f"Destination={network}")
        elif gateway is None:
            lines.append("Destination=0.0.0.0/0")
        if gateway is not None:
            lines.append(f"Gateway={read_plain_address(gateway)}")
    except ValueError:
        return ()
    return (*lines, *((f"Table={table}",) if table else ()))


# -- ifupdown --


def _of_ifupdown(root: Path) -> Iterator[Loss]:
    for path, text in interfaces_files(root):
        name = ""
        for line in text.replace("\\\n", " ").splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if _BEGINS_A_STANZA.fullmatch(words[0]):
                name = words[1].partition(":")[0] if words[0] == "iface" and len(words) > 1 else ""
                if name and words[-1] in ("dhcp", "auto"):
                    yield Loss(name, path, f"{' '.join(words)} (its routes and name servers)")
            elif name:
                yield from (Loss(name, path, " ".join(words), lines) for lines in _option(words))


def _option(words: list[str]) -> Iterator[tuple[str, ...]]:
    """The lines for systemd-networkd of each thing that an option of a stanza makes."""
    key, values = words[0], words[1:]
    if key == "gateway" and values:
        yield _route("default", values[0])
    elif key in ("dns-nameservers", "dns-nameserver"):
        yield from (("[Network]", f"DNS={value}") for value in values)
    elif key in ("dns-search", "dns-domain") and values:
        yield ("[Network]", f"Domains={' '.join(values)}")
    elif key in _COMMANDS:
        yield _command(values) if key in ("up", "post-up") else ()


def _command(words: list[str]) -> tuple[str, ...]:
    """`ip route add DESTINATION via GATEWAY`, which is what most such commands are."""
    plain = [word for word in words if word not in ("-4", "-6", "||", "true")]
    if len(plain) < 6 or plain[0].rpartition("/")[2] != "ip" or not "route".startswith(plain[1]):
        return ()
    if plain[2] not in ("add", "replace", "append") or plain[4] != "via":
        return ()
    rest = plain[6:]
    table = rest[rest.index("table") + 1] if "table" in rest[:-1] else None
    return _route(plain[3], plain[5], table)


def interfaces_files(root: Path) -> Iterator[tuple[str, str]]:
    """Each file that ifupdown reads, with its text, under its name on the host."""
    waiting = [root / "etc/network/interfaces", *sorted(root.glob("etc/network/interfaces.d/*"))]
    seen: set[Path] = set()
    while waiting and len(seen) < _MAX_FILES:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        text = read_hint(path)
        yield str(Path("/") / path.relative_to(root)), text
        for words in map(str.split, text.splitlines()):
            if len(words) > 1 and words[0] in ("source", "source-directory"):
                pattern = words[1].lstrip("/") if words[1].startswith("/") else f"etc/network/{words[1]}"
                end = "/*" if words[0] == "source-directory" else ""
                if ".." not in pattern.split("/"):
                    waiting += sorted(root.glob(pattern + end))


# -- systemd-networkd --


def _of_networkd(pair: Pair, root: Path) -> Iterator[Loss]:
    for path in network_files(root):
        if path.name.startswith("60-hafw-"):
            continue
        text = read_hint(path)
        for interface in pair.interfaces:
            if matches_name(text, interface.name):
                yield from _settings(interface.name, str(Path("/") / path.relative_to(root)), text)


def network_files(root: Path) -> Iterator[Path]:
    for directory in _SYSTEMD_DIRS:
        yield from sorted((root / directory).glob("*.network"))


def matches_name(text: str, name: str) -> bool:
    """Does a .network file take this interface by its name? (By its driver or address it may still.)"""
    values = (
        line.partition("=")[2]
        for section in _sections(text)
        if section[0] == "[Match]"
        for line in section[1:]
        if line.startswith("Name=")
    )
    return any(fnmatch.fnmatchcase(name, pattern) for value in values for pattern in value.split())


def read_hint(path: Path) -> str:
    """A hint is not worth a failure: what cannot be read says nothing."""
    try:
        if not path.is_file():
            return ""
        with path.open(errors="replace") as file:
            return file.read(_LARGEST)
    except OSError:
        return ""


def _settings(name: str, file: str, text: str) -> Iterator[Loss]:
    for section in _sections(text):
        head = section[0].strip("[]")
        lines = [
            line for line in section[1:] if line.partition("=")[0].strip() in _OF_NETWORKS.get(head, ())
        ]
        if head == "Network":
            yield from (
                Loss(name, file, line, () if line.startswith("DHCP") else (section[0], line))
                for line in lines
            )
        elif lines:
            yield Loss(name, file, f"{section[0]} {' '.join(lines)}", (section[0], *lines))


def _kept(root: Path, name: str) -> set[tuple[str, ...]]:
    """What the drop-ins of our file for this interface say already."""
    found: set[tuple[str, ...]] = set()
    for directory in _SYSTEMD_DIRS:
        for path in sorted((root / directory).glob(f"{file_name(name, 'network')}.d/*.conf")):
            for head, *lines in _sections(read_hint(path)):
                found |= {(head, line) for line in lines} if head == "[Network]" else {_plain(head, lines)}
    return found | {
        ("[Route]", line) for head, line, *more in found if line.startswith("Gateway=") and not more
    }


def _is_kept(loss: Loss, kept: Collection[tuple[str, ...]]) -> bool:
    return bool(loss.lines) and _plain(loss.lines[0], loss.lines[1:]) in kept


def _plain(head: str, lines: Collection[str]) -> tuple[str, ...]:
    """In an order of ours, and without what goes without saying."""
    return (
        head,
        *sorted(line for line in lines if line not in ("Destination=0.0.0.0/0", "Destination=::/0")),
    )


def _sections(text: str) -> Iterator[list[str]]:
    section: list[str] = []
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            if section:
                yield section
            section = [line]
        elif section and line and line[0] not in "#;":
            section.append(re.sub(r"\s*=\s*", "=", line, count=1))
    if section:
        yield section


def _of_kernel(routes: Iterable[HostRoute]) -> Iterator[Loss]:
    for route in list(routes)[:_MAX_ROUTES]:
        yield Loss(
            route.interface,
            "the kernel has now",
            str(route),
            _route(route.destination, route.gateway, route.table),
        )
