"""The files that a pair file names: policy files to include, and lists of addresses.

They lie below the pair file's own directory, so that one directory is what both nodes have alike. The
readers of the pair file open nothing: they get the texts from here, by name.
"""

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


Texts = Mapping[str, str | Unreadable]
Files = tuple[tuple[str, str], ...]
"""Names and texts: the pair file first, under whatever name; the others relative to its directory."""


def read_main(path: Path) -> str:
    """The text of the pair file itself. Raises ConfigError."""
    text = _read(path, MAX_BYTES, "write the pair file there or name another one")
    if isinstance(text, Unreadable):
        raise ConfigError((Problem("", text.reason),), str(path))
    return text


def read_named(main: str, directory: Path) -> Texts:
    """The files that the pair file names, and those that its included files name, by their names."""
    reader = _Reader(directory, MAX_ALL_BYTES - len(main.encode(errors="replace")))
    tree = _tree(main)
    included = [*dict.fromkeys(_includes(tree))]
    reader.read_all(included, MAX_BYTES)
    trees = (tree, *(_tree(text) for name in included if isinstance(text := reader.texts[name], str)))
    reader.read_all((name for one in trees for name in _lists(one)), MAX_ALL_BYTES)
    return reader.texts


@dataclass(slots=True)
class _Reader:
    """Reads each file once, and no more than `left` bytes of all of them."""

    directory: Path
    left: int
    texts: dict[str, str | Unreadable] = field(default_factory=dict)

    def read_all(self, names: Iterable[str], most: int) -> None:
        for name in names:
            if name not in self.texts:
                self.texts[name] = self._read_one(name, most)

    def _read_one(self, name: str, most: int) -> str | Unreadable:
        if len(self.texts) >= MAX_FILES:
            return Unreadable(f"is one too many; a pair file names at most {MAX_FILES} files")
        text = _read_below(self.directory, name, most)
        if isinstance(text, Unreadable):
            return text
        self.left -= len(text.encode())
        if self.left >= 0:
            return text
        limit = f"a pair file and all that it names have at most {MAX_ALL_BYTES} bytes together"
        return Unreadable(f"does not fit: {limit}; make a list shorter")


def text_of(spot: Spot, name: str, texts: Texts) -> str | None:
    """The text of the file that `spot` calls `name`; None when there is a problem with it."""
    if not NAME.fullmatch(name):
        spot.refuse(f"{shown(name)} is not a file name for here; {_NAME_WORDS}")
        return None
    text = texts.get(name, Unreadable("can be read only together with a pair file on disk"))
    if isinstance(text, Unreadable):
        spot.refuse(f"{name} {text.reason}")
        return None
    return text


def _read_below(directory: Path, name: str, most: int) -> str | Unreadable:
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
    return _read(path, most, "write the file there or name another one")


def _read(path: Path, most: int, else_do: str) -> str | Unreadable:
    weakness = find_weakness(path)
    if weakness is not None:
        return Unreadable(weakness)
    try:
        raw = read_regular(path, most, else_do=else_do)
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
        return Unreadable(f"has a control character in line {line}; take it out")
    return text


def _tree(text: str) -> Node:
    """Only to look for names; whoever reads the file tells what is wrong with it."""
    try:
        return tree_of(text, "")
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
