# SPDX-License-Identifier: GPL-2.0-or-later
"""No module reaches itself through what it imports, wherever in it the import stands."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

Imports = dict[str, set[str]]


def modules_below(folder: Path) -> dict[str, Path]:
    """Each by its full name. A package's own code is in its __init__."""
    top = folder.parent
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(top).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def read_imports(folder: Path) -> Imports:
    modules = modules_below(folder)
    return {
        name: {other for other in imported(ast.parse(path.read_text())) if other in modules} - {name}
        for name, path in modules.items()
    }


def find_circle(imports: Imports) -> list[str]:
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


@pytest.mark.parametrize("folder", ["agent", "host-tools/hafw_lab"])
def test_no_module_imports_itself_through_others(root: Path, folder: str) -> None:
    imports = read_imports(root / folder)
    assert any(imports.values())
    assert find_circle(imports) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    package = tmp_path / "p"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("from p import b\n")
    (package / "b.py").write_text("def f():\n    from p.a import g\n")
    assert set(find_circle(read_imports(package))) == {"p.a", "p.b"}
