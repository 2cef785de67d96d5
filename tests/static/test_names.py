# SPDX-License-Identifier: GPL-2.0-or-later
"""One name for one thing: what two modules of a tree define under one name is named here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.static.imports import modules_below, tree_of

ACTS = frozenset(
    ("add_arguments", "check", "hook_in", "main", "measure", "render", "run", "to_svg", "to_text")
)
"""The same act of several modules; its use names the module with it: `keepalived.render(pair)`."""

TWICE = {
    "agent": {
        *("Action", "Addresses", "Command", "Ends", "Event", "Gate", "Helper", "Line", "Lines", "Node"),
        *("Rule", "Translation", "Values"),
        *("in_place", "read_ways", "run_check", "run_settle", "sentence"),
    },
    "host-tools/hafw_lab": {
        *("Bridge", "Client", "File", "Json"),
        *("attach", "compute_key", "find_devices", "make_pair", "require_room", "write_by_hand"),
    },
}
"""Known in two places that have nothing to do with each other. Nothing is to be added."""


def defined_twice(modules: dict[str, ast.Module]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for module, tree in sorted(modules.items()):
        for name in names_of(tree):
            places.setdefault(name, []).append(module)
    return {name: where for name, where in places.items() if len(where) > 1}


def names_of(tree: ast.Module) -> Iterator[str]:
    """Classes and functions that others may use, and type aliases, which are written in CamelCase. A type
    variable stands for nothing by itself."""
    for node in tree.body:
        match node:
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar"))):
                continue
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if not name.startswith("_"):
                    yield name
            case ast.Assign(targets=[ast.Name(id=name)]) if name[0].isupper() and not name.isupper():
                yield name


@pytest.mark.parametrize("place", TWICE)
def test_a_name_stands_for_one_thing(root: Path, place: str) -> None:
    modules = {name: tree_of(path) for name, path in modules_below(root / place).items()}
    found = {name: where for name, where in defined_twice(modules).items() if name not in ACTS}
    new = {name: where for name, where in found.items() if name not in TWICE[place]}
    assert not new, "\n".join(f"{name} means two things: {', '.join(where)}" for name, where in new.items())
    assert found.keys() == TWICE[place], "one of them means one thing by now"


@pytest.mark.parametrize(
    "text", ["class Answer: ...", "Answer = dict[str, int]", "def answer(): ...", "async def answer(): ..."]
)
def test_a_name_of_two_things_is_found(text: str) -> None:
    one, two = ast.parse(f"{text}\nLIMIT = 1"), ast.parse(f"{text}\nLIMIT = 2")
    assert list(defined_twice({"a": one, "b": two}).values()) == [["a", "b"]]


@pytest.mark.parametrize("text", ["def _answer(): ...", "LIMIT = 1", "Found = TypeVar('Found')"])
def test_what_is_of_one_module_alone_may_stand_twice(text: str) -> None:
    assert defined_twice({"a": ast.parse(text), "b": ast.parse(text)}) == {}
