# SPDX-License-Identifier: GPL-2.0-or-later
"""One name for one thing: what two modules of the agent define under one name is named here."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.static.imports import modules_below, tree_of

TWICE = {
    *(
        "Action",
        "Addresses",
        "Asked",
        "Command",
        "Ends",
        "Event",
        "Found",
        "Gate",
        "Helper",
        "IPAddress",
        "Key",
    ),
    *("Line", "Lines", "Node", "Rule", "Seen", "Translation", "Values"),
}
"""Known in two places that have nothing to do with each other. Nothing is to be added."""


def defined_twice(modules: dict[str, ast.Module]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for module, tree in sorted(modules.items()):
        for name in _types_of(tree):
            places.setdefault(name, []).append(module)
    return {name: where for name, where in places.items() if len(where) > 1}


def _types_of(tree: ast.Module) -> Iterator[str]:
    """Classes and type aliases, which are written in CamelCase."""
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]) if name[0].isupper() and not name.isupper():
                yield name


def test_a_name_stands_for_one_thing(root: Path) -> None:
    modules = {name: tree_of(path) for name, path in modules_below(root / "agent").items()}
    found = defined_twice(modules)
    new = {name: where for name, where in found.items() if name not in TWICE}
    assert not new, "\n".join(f"{name} means two things: {', '.join(where)}" for name, where in new.items())


def test_a_name_of_two_things_is_found() -> None:
    one, two = ast.parse("class Answer: ...\nLIMIT = 1"), ast.parse("Answer = dict[str, int]\nLIMIT = 2")
    assert defined_twice({"a": one, "b": two}) == {"Answer": ["a", "b"]}
