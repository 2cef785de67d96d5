# SPDX-License-Identifier: GPL-2.0-or-later
"""YAML text -> a plain tree with line numbers, without a single guess about what a word means.

Hard facts: YAML 1.1, which PyYAML reads, makes true of `on`, 90 of `1:30`, 8 of `010` and 1000 of `1_000`;
it keeps the last of two equal keys and says nothing; and a few lines of aliases grow to gigabytes. So
nothing is resolved here: the events of the parser become scalars as they were written; anchors, aliases and
tags are refused where they stand.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import yaml

from agent.errors import ConfigError, Problem
from agent.streams import harmless

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 10
MAX_SKIPPED_DEPTH = 100
"""Deeper than this nothing is looked at: libyaml takes time with the square of the depth."""
MAX_NODES = 250_000
"""Words, lists and mappings in one file: 14,000 rules have 140,000."""
_MAX_TABS = 20
FILE_END = ":"
"""In a path, between the name of an included file and the place in it."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A word as written. `plain` is false for anything quoted."""

    text: str
    plain: bool
    line: int


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple["Node", ...]
    line: int


@dataclass(frozen=True, slots=True)
class Mapping:
    entries: tuple[tuple[Scalar, "Node"], ...]
    line: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that YAML allows and a pair file does not; its reader need not complain again."""

    message: str
    line: int


Node = Scalar | Sequence | Mapping | Refused

_NO_ALIAS = "anchors and aliases (& and *) are not used here; write the value again"
_NO_TAG = "tags (!) are not used here; write the value without it"
_NO_COMPLEX_KEY = "a key must be a single word"


def tree_of(text: str, name: str) -> Node:
    """The tree of one document. Raises ConfigError for what is not YAML at all."""
    unfit = tuple(_unfit(text))
    if unfit:
        raise ConfigError(unfit, name)
    try:
        return _Builder(iter(yaml.parse(text, Loader=yaml.CSafeLoader))).document()
    except _OverLimitError as error:
        raise ConfigError((Problem("", str(error)),), name) from None
    except yaml.YAMLError as error:
        raise ConfigError((Problem("", _words_of(error)),), name) from None


def tree_problems(node: Node, path: str = "") -> Iterator[tuple[int, Problem]]:
    """Every refused thing and every repeated key in the tree, with its line."""
    if isinstance(node, Refused):
        yield node.line, Problem(path, node.message)
    elif isinstance(node, Mapping):
        yield from _repeated_keys(node, path)
    for below, child in children(node, path):
        yield from tree_problems(child, below)


def children(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    """The nodes right below `node`, each with its path, as in `nodes.fw-1` and `policy[0]`."""
    if isinstance(node, Sequence):
        for index, item in enumerate(node.items):
            yield f"{path}[{index}]", item
    elif isinstance(node, Mapping):
        for key, value in node.entries:
            yield joined(path, key.text), value


def find_line(node: Node, path: str, wanted: str) -> int | None:
    """Of the node at the path `wanted`, somewhere below `node`, which is at `path`; the last of equals."""
    found = None
    for below, child in children(node, path):
        if below == wanted:
            found = child.line
        elif wanted.startswith(below) and (deeper := find_line(child, below, wanted)):
            found = deeper
    return found


def joined(path: str, key: str) -> str:
    word = key if key.isascii() and key.isprintable() and 0 < len(key) <= 64 else shown(key)
    return f"{path}.{word}" if path and not path.endswith(FILE_END) else path + word


def shown(text: str) -> str:
    """A foreign word for a message: quoted, on one line, not too long."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")


def on_one_line(message: str) -> str:
    """A message may name what the file calls something, whatever characters that has."""
    text = harmless(message[:601], keep="")
    return text if len(text) <= 600 else text[:597] + "..."


def _repeated_keys(node: Mapping, path: str) -> Iterator[tuple[int, Problem]]:
    seen: dict[str, int] = {}
    for key, value in node.entries:
        if key.text in seen and not isinstance(value, Refused):
            message = f"is there twice, first in line {seen[key.text]}; keep one of them"
            yield key.line, Problem(joined(path, key.text), message)
        seen.setdefault(key.text, key.line)


def _unfit(text: str) -> Iterator[Problem]:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        yield Problem("", "is not UTF-8 text; save it as UTF-8")
        return
    if size > MAX_BYTES:
        yield Problem("", f"has {size} bytes; such a file has at most {MAX_BYTES}")
        return
    lines = (number for number, line in enumerate(text.split("\n"), start=1) if "\t" in line)
    for number in islice(lines, _MAX_TABS):
        yield Problem("", f"line {number} has a tab; write spaces")


def _words_of(error: yaml.YAMLError) -> str:
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f" (line {mark.line + 1})" if mark else ""
    return f"is not valid YAML: {what}{where}; look at the indents, the colons and the brackets"


class _OverLimitError(Exception):
    """To continue would take time, or memory, for as long as the file likes."""


class _Builder:
    """Takes parser events, gives nodes. Recursion ends at MAX_DEPTH; deeper events are skipped, for a
    while."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._nodes = 0

    def document(self) -> Node:
        next(self._events)  # the start of the stream
        start = next(self._events)
        if not isinstance(start, yaml.DocumentStartEvent):
            return Mapping((), 1)
        if start.version or start.tags:
            return Refused("directives (lines with %) are not used here; remove them", 1)
        root = self._node(next(self._events), 0)
        next(self._events)  # the end of the document
        more = next(self._events)
        if isinstance(more, yaml.DocumentStartEvent):
            return Refused("a second document begins (---); there is one in a file", _line(more))
        return root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        line = _line(event)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _OverLimitError(
                f"has more than {MAX_NODES} words, lists and mappings (line {line}); put addresses into "
                "files of their own, and rules into files to include"
            )
        if isinstance(event, yaml.AliasEvent):
            return Refused(_NO_ALIAS, line)
        node = self._value(event, line, depth)
        if getattr(event, "anchor", None):
            return Refused(_NO_ALIAS, line)
        if getattr(event, "tag", None):
            return Refused(_NO_TAG, line)
        return node

    def _value(self, event: yaml.Event, line: int, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.value, not event.style, line)
        if depth == MAX_DEPTH:
            return self._skip(line)
        if isinstance(event, yaml.SequenceStartEvent):
            return Sequence(tuple(self._items(depth + 1)), line)
        return Mapping(tuple(self._entries(depth + 1)), line)

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, depth)

    def _entries(self, depth: int) -> Iterator[tuple[Scalar, Node]]:
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth)
            value = self._node(next(self._events), depth)
            if isinstance(key, Scalar):
                yield key, value
            else:
                message = key.message if isinstance(key, Refused) else _NO_COMPLEX_KEY
                yield Scalar("?", True, key.line), Refused(message, key.line)

    def _skip(self, line: int) -> Refused:
        open_ends = 1
        while open_ends:
            event = next(self._events)
            open_ends += isinstance(event, yaml.CollectionStartEvent) - isinstance(
                event, yaml.CollectionEndEvent
            )
            if open_ends > MAX_SKIPPED_DEPTH:
                raise _OverLimitError(
                    f"lists and mappings are more than {MAX_SKIPPED_DEPTH} deep (line {_line(event)}); "
                    "look for a bracket that is never closed"
                )
        return Refused(
            f"lists and mappings are more than {MAX_DEPTH} deep here; nothing in such a file is", line
        )


def _line(event: yaml.Event) -> int:
    return int(event.start_mark.line) + 1
