# SPDX-License-Identifier: GPL-2.0-or-later
"""One spot of a pair file: its value, read as the type that is meant, or a problem with its path."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network
from typing import TypeVar

from agent.config.source_tree import (
    FILE_END,
    Mapping,
    Node,
    Refused,
    Scalar,
    Sequence,
    children,
    find_line,
    joined,
    on_one_line,
    shown,
)
from agent.errors import Problem
from agent.model.pair import IPInterface, IPNetwork
from agent.plain_address import NAMES_AN_INTERFACE, is_scoped

Choice = TypeVar("Choice", bound=Enum)
Wanted = tuple[re.Pattern[str], str]

WORD: Wanted = (
    re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII),
    "a name for this; write a small letter, then small letters, digits or -, at most 32",
)

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})(ms|s)", re.ASCII)
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{1,45}(/[0-9]{1,3})?", re.ASCII)


MAX_PROBLEMS = 100
_MAX_WORDS = 50


class TooManyProblemsError(Exception):
    """More are not read, and finding them takes time and memory."""


@dataclass(slots=True)
class Problems:
    """Collects what is wrong; a problem knows its line by its path."""

    trees: list[tuple[Node, str]] = field(default_factory=list)
    """Each file that is read, and its root path."""
    found: list[tuple[int, Problem]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """The included ones; the path of whatever is in one of them begins with `NAME:`."""

    def add(self, path: str, message: str, line: int | None = None) -> None:
        """`line`: where that is known, which saves a search for it."""
        line = line or self._find_line(path)
        text = on_one_line(message)
        where = path.removesuffix(FILE_END)
        self.note(line or 0, Problem(where, f"{text} (line {line})" if line else text))

    def note(self, line: int, problem: Problem) -> None:
        """Raises TooManyProblemsError when it is one too many."""
        if len(self.found) >= MAX_PROBLEMS:
            raise TooManyProblemsError
        self.found.append((line, problem))

    def is_written(self, path: str) -> bool:
        return self._find_line(path) is not None

    def _find_line(self, path: str) -> int | None:
        for tree, root in self.trees:
            if path.startswith(root) and (line := find_line(tree, root, path)):
                return line
        return None

    def are_in(self, path: str) -> bool:
        """Whether something at `path` or below was refused already."""
        return any(found.path == path or found.path.startswith(f"{path}.") for _, found in self.found)

    def in_order(self) -> tuple[Problem, ...]:
        """File by file, and in each by line."""
        return tuple(
            problem for _, problem in sorted(self.found, key=lambda one: (self._file(one[1].path), one[0]))
        )

    def _file(self, path: str) -> int:
        name = path.partition(FILE_END)[0]
        return self.files.index(name) + 1 if name in self.files else 0


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for a near miss, else the list of what there is."""
    every = list(known)
    words = every[:_MAX_WORDS]
    near = difflib.get_close_matches(word.lower(), words, n=1) if len(word) <= 40 else []
    more = ", ..." if len(every) > len(words) else ""
    return f"; did you mean {near[0]}?" if near else f"; write one of: {', '.join(words)}{more}"


@dataclass(frozen=True, slots=True)
class Spot:
    node: Node
    path: str
    problems: Problems

    def refuse(self, message: str) -> None:
        """A problem here, unless the YAML itself was refused here already."""
        if not isinstance(self.node, Refused):
            self.problems.add(self.path, message, self._line)

    @property
    def _line(self) -> int | None:
        """None for a whole file."""
        return self.node.line if self.path and not self.path.endswith(FILE_END) else None

    def fields(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, "Spot"]:
        """The spots below by key; unknown and missing keys are problems."""
        every = (*required, *optional)
        spots = dict(self.entries())
        if not isinstance(self.node, Mapping):
            return {}
        for name in spots:
            if name not in every and not isinstance(spots[name].node, Refused):
                message = f"unknown key{suggestion(name, every)}"
                self.problems.add(joined(self.path, name), message, spots[name].node.line)
        for name in required:
            if name not in spots:
                self.problems.add(self.path, f"{name} is missing", self._line)
        return {name: spot for name, spot in spots.items() if name in every}

    def entries(self) -> tuple[tuple[str, "Spot"], ...]:
        """Keys and spots of a mapping with free keys. The first of two equal keys counts."""
        if not isinstance(self.node, Mapping):
            self.refuse("must be a mapping, lines of `key: value`")
            return ()
        found: dict[str, Spot] = {}
        for (key, _), (path, value) in zip(self.node.entries, children(self.node, self.path), strict=True):
            found.setdefault(key.text, Spot(value, path, self.problems))
        return tuple(found.items())

    def items(self) -> tuple["Spot", ...]:
        if not isinstance(self.node, Sequence):
            self.refuse("must be a list, as in [a, b]")
            return ()
        return tuple(Spot(item, path, self.problems) for path, item in children(self.node, self.path))

    def one_or_more(self) -> tuple["Spot", ...]:
        """A single value stands for a list of one."""
        if not isinstance(self.node, Sequence):
            return (self,)
        if not self.node.items:
            self.refuse("is an empty list; write a value or leave the key out")
        return self.items()

    def text(self) -> str | None:
        if isinstance(self.node, Scalar):
            if self.node.text:
                return self.node.text
            self.refuse("has no value; write one, or leave the key out")
        else:
            self.refuse("must be a single value")
        return None

    def matching(self, pattern: re.Pattern[str], wanted: str) -> str | None:
        text = self.text()
        if text is None or pattern.fullmatch(text):
            return text
        self.refuse(f"{shown(text)} is not {wanted}")
        return None

    def integer(self, lowest: int, highest: int) -> int | None:
        text = self.text()
        if text is None:
            return None
        if isinstance(self.node, Scalar) and not self.node.plain:
            self.refuse(f"{shown(text)} is in quotes; write the number without them")
        elif not _NUMBER.fullmatch(text):
            self.refuse(f"{shown(text)} is not a whole number; write digits only, {lowest} to {highest}")
        elif not lowest <= int(text) <= highest:
            self.refuse(f"{text} is out of range; write {lowest} to {highest}")
        else:
            return int(text)
        return None

    def boolean(self) -> bool | None:
        text = self.text()
        if text is None:
            return None
        if text in ("true", "false") and isinstance(self.node, Scalar) and self.node.plain:
            return text == "true"
        self.refuse(f"{shown(text)} is neither true nor false; write true or false")
        return None

    def choice(self, kind: type[Choice], synonyms: dict[str, Choice] | None = None) -> Choice | None:
        """`synonyms` are accepted and never named."""
        text = self.text()
        if text is None:
            return None
        if synonyms and text in synonyms:
            return synonyms[text]
        words = [str(member.value) for member in kind]
        if text in words:
            return kind(text)
        self.refuse(f"unknown word {shown(text)}{suggestion(text, words)}")
        return None

    def duration_ms(self, lowest: int, highest: int, step: int = 1) -> int | None:
        """A time such as 100ms or 10s."""
        text = self.text()
        if text is None:
            return None
        parts = _DURATION.fullmatch(text)
        if not parts:
            self.refuse(
                f"{shown(text)} is an invalid time; write a whole number and its unit, as in 100ms or 10s"
            )
            return None
        time_ms = int(parts[1]) * (1000 if parts[2] == "s" else 1)
        if not lowest <= time_ms <= highest:
            self.refuse(f"{text} is out of range; write {_time(lowest)} to {_time(highest)}")
        elif time_ms % step:
            self.refuse(
                f"{text} is not a multiple of {step}ms; write {_time(time_ms // step * step + step)}, say"
            )
        else:
            return time_ms
        return None

    def _address(self) -> str | None:
        """The text of what has to be an address or a network of every node."""
        text = self.text()
        if text is not None and is_scoped(text):
            self.refuse(f"{shown(text)} {NAMES_AN_INTERFACE}")
            return None
        return text

    def interface_address(self) -> IPInterface | None:
        """An address of an interface, with the length of its network, as in 192.168.0.1/24."""
        text = self._address()
        if text is None:
            return None
        if "/" not in text and _ADDRESS.fullmatch(text):
            self.refuse(
                f"{shown(text)} has no prefix length; write it behind the address, as in 192.168.0.1/24"
            )
            return None
        try:
            if not _ADDRESS.fullmatch(text):
                raise ValueError
            address = ip_interface(text)
        except ValueError:
            self.refuse(f"{shown(text)} is not an address; write it as in 192.168.0.1/24 or fd00::1/64")
            return None
        unfit = _unfit(address)
        if unfit:
            self.refuse(f"{text} {unfit}; write an address of the interface's own network")
            return None
        return address

    def network(self) -> IPNetwork | None:
        """A network, or a single address, which is a network of one."""
        text = self._address()
        if text is None:
            return None
        try:
            if not _ADDRESS.fullmatch(text):
                raise ValueError
            network = ip_network(text, strict=False)
        except ValueError:
            self.refuse(f"{shown(text)} is not a network; write it as in 192.168.0.0/24 or fd00::/64")
            return None
        if ip_interface(text).ip != network.network_address:
            self.refuse(f"{text} is an address inside a network; write {network} or {text.split('/')[0]}")
            return None
        return network


def _unfit(address: IPInterface) -> str | None:
    ip = address.ip
    if ip.is_link_local:
        return "is link-local, which the system assigns itself"
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback:
        return "is not an address that an interface can have"
    if isinstance(ip, IPv4Address) and (ip.is_reserved or ip in ip_network("0.0.0.0/8")):
        return "is not an address that an interface can have"
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        return "is an IPv4 address written as IPv6"
    if address.network.prefixlen < address.max_prefixlen - 1 and ip == address.network.network_address:
        return "is the address of the network itself"
    if (
        isinstance(ip, IPv4Address)
        and address.network.prefixlen < 31
        and ip == address.network.broadcast_address
    ):
        return "is the broadcast address of its network"
    return None


def _time(time_ms: int) -> str:
    return f"{time_ms // 1000}s" if time_ms % 1000 == 0 else f"{time_ms}ms"
