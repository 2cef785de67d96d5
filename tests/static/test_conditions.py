# SPDX-License-Identifier: GPL-2.0-or-later
"""A condition that nobody looks for would stand in the catalog and the pages, and never begin."""

import ast
from pathlib import Path

from agent.core.conditions import Condition
from tests.static.imports import tree_of

TABLE = "agent/core/conditions.py"


def named_in(tree: ast.AST) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == Condition.__name__
    }


def test_every_condition_is_posted_somewhere(root: Path, python_files: tuple[Path, ...]) -> None:
    code = [path for path in python_files if root / "agent" in path.parents and path != root / TABLE]
    named = set().union(*(named_in(tree_of(path)) for path in code))
    assert [one.name for one in Condition if one.name not in named] == []


def test_a_condition_that_is_only_in_the_table_is_found() -> None:
    assert named_in(ast.parse("note(state, Condition.STATES, False, text)")) == {"STATES"}
