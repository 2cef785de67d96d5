"""The files that a pair file names: policy files to include, and lists of addresses.

They lie below the pair file's own directory, so that one directory is what both nodes have alike. The
readers of the pair file open nothing: they get the texts from here, by name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.config_values import Spot
from agent.config_yaml import MAX_BYTES, Node, Scalar, Sequence, shown, tree_of
from agent.config_yaml import Mapping as Tree
from agent.errors import ConfigError, Problem

MAX_LIST_BYTES = 16 * 1024 * 1024
_NAME = re.compile(r"(?=.{1,200}\Z)[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
_NAME_WORDS = "write it relative to the directory of the pair file and below it, as in policy.d/web.yaml"


@dataclass(frozen=True, slots=True)
class Unreadable:
    reason: str


Texts = Mapping[str, str | Unreadable]


def read_main(path: Path) -> str:
    """The text of the pair file itself. Raises ConfigError."""
    text = _read(path, MAX_BYTES)
    if isinstance(text, Unreadable):
        raise ConfigError((Problem("", text.reason),), str(path))
    return text


def read_named(main: str, directory: Path) -> Texts:
    """The files that the pair file names, and those that its included files name, by their names."""
    texts: dict[str, str | Unreadable] = {}
    tree = _tree(main)
    included = list(_includes(tree))
    for name in included:
        texts.setdefault(name, _read_below(directory, name, MAX_BYTES))
    trees = (tree, *(_tree(text) for name in included if isinstance(text := texts[name], str)))
    for name in (name for one in trees for name in _lists(one)):
        texts.setdefault(name, _read_below(directory, name, MAX_LIST_BYTES))
    return texts


def text_of(spot: Spot, name: str, texts: Texts) -> str | None:
    """The text of the file that `spot` calls `name`; None when there is a problem with it."""
    if not _NAME.fullmatch(name):
        spot.refuse(f"{shown(name)} is not a file name for here; {_NAME_WORDS}")
        return None
    text = texts.get(name, Unreadable("can be read only together with a pair file on disk"))
    if isinstance(text, Unreadable):
        spot.refuse(f"{name} {text.reason}")
        return None
    return text


def _read_below(directory: Path, name: str, most: int) -> str | Unreadable:
    if not _NAME.fullmatch(name):
        return Unreadable("is not a file name")
    path = directory / name
    try:
        if not path.resolve(strict=True).is_relative_to(directory.resolve(strict=True)):
            return Unreadable("leads out of the directory of the pair file; put the file itself there")
    except (OSError, RuntimeError) as error:
        return Unreadable(
            f"cannot be read: {getattr(error, 'strerror', None) or 'its links go in a circle'}"
        )
    return _read(path, most)


def _read(path: Path, most: int) -> str | Unreadable:
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        return Unreadable(
            f"cannot be read: {error.strerror}; write the pair file there or name another one"
            if most == MAX_BYTES
            else f"cannot be read: {error.strerror}; write the file there or name another one"
        )
    if len(raw) > most:
        return Unreadable(f"is too long; such a file has at most {most} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return Unreadable(f"is not UTF-8 text in line {line}; save it as UTF-8")


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
