# SPDX-License-Identifier: GPL-2.0-or-later
"""No module reaches itself through what it imports, wherever in it the import stands."""

import graphlib
from pathlib import Path

import pytest

from tests.static.imports import imports_of, modules_below, tree_of

Imports = dict[str, set[str]]


def read_imports(folder: Path) -> Imports:
    modules = modules_below(folder)
    return {
        name: {other for other in imports_of(tree_of(path)) if other in modules} - {name}
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
