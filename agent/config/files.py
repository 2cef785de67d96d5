# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair file and the files that it names: policy files to include, and lists of addresses.

They lie below the pair file's own directory, so that one directory is what both nodes have alike. Each is
opened once and its YAML parsed once, here: the readers of the pair file open nothing, and what was checked
is what is kept as a generation and put in force.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.config.reader import Spot
from agent.config.source_tree import MAX_BYTES, Node, Scalar, Sequence, shown, tree_of
from agent.config.source_tree import Mapping as Tree
from agent.errors import ConfigError, Problem
from agent.regular_file import UnfitFileError, find_weakness, read_regular

MAX_ALL_BYTES = 16 * 1024 * 1024
"""Of the pair file and all that it names: they are kept together, ten generations of them."""
MAX_FILES = 256
NAME = re.compile(r"(?=.{1,200}\Z)[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_NAME_WORDS = "write it relative to the directory of the pair file and below it, as in policy.d/web.yaml"


@dataclass(frozen=True, slots=True)
class Unreadable:
    reason: str


Files = tuple[tuple[str, str], ...]
"""Names and texts: the pair file first, under whatever name; the others relative to its directory."""


def digest_of(files: Files) -> str:
    """The same on both nodes for the same files, whatever the name of the main one."""
    (_, main), *others = files
    return hashlib.sha256(json.dumps([main, sorted(others)]).encode()).hexdigest()[:12]


class Document:
    """One file as it was read. Its YAML is parsed when it is first asked for, and not again."""

    __slots__ = ("_tree", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._tree: Node | tuple[Problem, ...] | None = None

    def tree(self, source: str) -> Node:
        """Raises ConfigError, about `source`, for what is not YAML at all."""
        if self._tree is None:
            try:
                self._tree = tree_of(self.text, source)
            except ConfigError as error:
                self._tree = error.problems
        if isinstance(self._tree, tuple):
            raise ConfigError(self._tree, source)
        return self._tree


Documents = Mapping[str, Document | Unreadable]


@dataclass(frozen=True, slots=True)
class PairFiles:
    """The pair file and all that it names. `label` is what messages call the pair file, `name` its own
    name; `named` has the others by their names."""

    label: str
    name: str
    main: Document
    named: Documents

    @property
    def readable(self) -> Files:
        """What can be kept."""
        named = ((name, one.text) for name, one in self.named.items() if isinstance(one, Document))
        return ((self.name, self.main.text), *named)


def read(path: Path) -> PairFiles:
    """Every file that makes up the pair file at `path`. Raises ConfigError when that one cannot be read;
    what is wrong with one that it names is in `named`."""
    main = _read(path, MAX_BYTES, "write the pair file there or name another one")
    if isinstance(main, Unreadable):
        raise ConfigError((Problem("", main.reason),), str(path))
    name = os.fsencode(path.name).decode(errors="replace")
    return PairFiles(str(path), name, main, _read_named(main, path.parent))


def of_texts(files: Files, label: str = "pair file") -> PairFiles:
    """Of texts that were read before: of a generation, or composed here."""
    (name, text), *named = files
    return PairFiles(label, name, Document(text), {name: Document(text) for name, text in named})


def _read_named(main: Document, directory: Path) -> Documents:
    """The files that the pair file names, and those that its included files name, by their names."""
    reader = _Reader(directory, MAX_ALL_BYTES - len(main.text.encode(errors="replace")))
    tree = _tree(main)
    included = [*dict.fromkeys(_includes(tree))]
    reader.read_all(included, MAX_BYTES)
    trees = (tree, *(_tree(one) for name in included if isinstance(one := reader.found[name], Document)))
    reader.read_all((name for one in trees for name in _lists(one)), MAX_ALL_BYTES)
    return reader.found


@dataclass(slots=True)
class _Reader:
    """Reads each file once, and no more than `left` bytes of all of them."""

    directory: Path
    left: int
    found: dict[str, Document | Unreadable] = field(default_factory=dict)

    def read_all(self, names: Iterable[str], max_bytes: int) -> None:
        for name in names:
            if name not in self.found:
                self.found[name] = self._read_one(name, max_bytes)

    def _read_one(self, name: str, max_bytes: int) -> Document | Unreadable:
        if len(self.found) >= MAX_FILES:
            return Unreadable(f"is one too many; a pair file names at most {MAX_FILES} files")
        one = _read_below(self.directory, name, max_bytes)
        if isinstance(one, Unreadable):
            return one
        self.left -= len(one.text.encode())
        if self.left >= 0:
            return one
        limit = f"a pair file and all that it names have at most {MAX_ALL_BYTES} bytes together"
        return Unreadable(f"does not fit: {limit}; make a list shorter")


def document_of(spot: Spot, name: str, named: Documents) -> Document | None:
    """The file that `spot` calls `name`; None when there is a problem with it."""
    if not NAME.fullmatch(name):
        spot.refuse(f"{shown(name)} is not a file name for here; {_NAME_WORDS}")
        return None
    one = named.get(name, Unreadable("can be read only together with a pair file on disk"))
    if isinstance(one, Unreadable):
        spot.refuse(f"{name} {one.reason}")
        return None
    return one


def _read_below(directory: Path, name: str, max_bytes: int) -> Document | Unreadable:
    if not NAME.fullmatch(name):
        return Unreadable("is not a file name")
    path = directory / name
    try:
        if not path.resolve(strict=True).is_relative_to(directory.resolve(strict=True)):
            return Unreadable("leads out of the directory of the pair file; put the file itself there")
    except (OSError, RuntimeError) as error:
        return Unreadable(
            f"cannot be read: {getattr(error, 'strerror', None) or 'its links go in a circle'}"
        )
    return _read(path, max_bytes, "write the file there or name another one")


def _read(path: Path, max_bytes: int, else_do: str) -> Document | Unreadable:
    weakness = find_weakness(path)
    if weakness is not None:
        return Unreadable(weakness)
    try:
        raw = read_regular(path, max_bytes, else_do=else_do)
    except UnfitFileError as error:
        return Unreadable(error.reason)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return Unreadable(f"is not UTF-8 text in line {line}; save it as UTF-8")
    control = _CONTROL.search(text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        return Unreadable(f"has a control character in line {line}; remove it")
    return Document(text)


def _tree(one: Document) -> Node:
    """Only to look for names; the reader of the file reports what is wrong with it."""
    try:
        return one.tree("")
    except ConfigError:
        return Tree((), 1)


def _includes(tree: Node) -> Iterator[str]:
    for node in _values(tree, "include"):
        yield from (one.text for one in _items(node) if isinstance(one, Scalar))


def _lists(tree: Node) -> Iterator[str]:
    for sets in _values(tree, "sets"):
        for _, one in sets.entries if isinstance(sets, Tree) else ():
            yield from (node.text for node in _values(one, "file") if isinstance(node, Scalar))


def _values(node: Node, key: str) -> list[Node]:
    return [value for name, value in node.entries if name.text == key] if isinstance(node, Tree) else []


def _items(node: Node) -> tuple[Node, ...]:
    return node.items if isinstance(node, Sequence) else (node,)
