# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may import whom: a package may import any package of a tier below its own, none beside or above it.

CONTRIBUTING.md draws the same picture for people. A new package has to be given its tier here.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.static.imports import modules_below, tree_of

# from the bottom up; the files that stand beside the packages are below all of them
AGENT = (
    {"model"},
    {"core"},
    {"config", "render"},
    {"rules"},
    {"adapters"},
    {"channel"},
    {"rollout", "setup"},
    {"engine"},
    {"cli"},
)
LAB = (
    {"model"},
    {"plan"},
    {"kernel"},
    {"node", "vm"},
    {"image"},
    {"compose"},
    {"client"},
    {"desktop", "traffic"},
    {"measure"},
    {"report"},
    {"arguments"},
    {"bench", "doctor"},
    {"verbs"},
)
TIERS = {"agent": AGENT, "hafw_lab": LAB}
# These are joined to the rest at run time only: keepalived starts the hook, and a lab's supervisor is
# another process, which shares with the lab's clients what goes over the wire.
ALONE = {
    ("agent", "notify"): frozenset[str](),
    ("hafw_lab", "supervisor"): frozenset({"model", "plan", "kernel", "vm"}),
}
LAB_MAY_USE = {
    "arguments",
    "errors",
    "paths",
    "regular_file",
    "streams",
    "model",
    "core",
    "config",
    "render",
    "rules",
    "adapters",
    "setup",
}
SHIM = "__main__"
# What is imported by a string, no test can see.
HIDDEN = {"importlib", "runpy", "pkgutil", "imp"}
ASKING_ONLY = {"importlib.util.find_spec"}
BY_STRING = {"import_module", "__import__"}
BY_TEXT = {"exec", "eval"}
SAY_WHY = "import it by name, or give the reason in MAY_IMPORT_BY_STRING"
MAY_IMPORT_BY_STRING = {
    "agent.adapters.netlink": "one module of pyroute2, without its __init__",
    "hafw_lab.desktop.clipboard_bridge": "gi and what is below it, which may be missing",
    "hafw_lab.verbs.main": "the verbs beside it, one of them at a time",
}


def find_offences(name: str, tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """What the module `name` imports against the directions, each as one line with its number."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from judge_from(name, node, modules, bound)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                bound[alias.asname or alias.name] = alias.name
                yield from judge(name, alias.name, node.lineno)
        elif isinstance(node, ast.Call):
            yield from judge_call(name, node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            module = bound.get(ast.unparse(node.value))
            if module in modules and split(name) != split(module):
                yield f"{name}:{node.lineno}: {module}.{node.attr} is private"


def judge_from(name: str, node: ast.ImportFrom, modules: set[str], bound: dict[str, str]) -> Iterator[str]:
    if node.level or not node.module:
        yield f"{name}:{node.lineno}: {ast.unparse(node)}: imports are absolute"
        return
    for alias in node.names:
        full = f"{node.module}.{alias.name}"
        if full in modules:
            bound[alias.asname or alias.name] = full
        known = full in modules or full in ASKING_ONLY
        yield from judge(name, full if known else node.module, node.lineno)
        if is_private(alias.name) and full not in modules and split(name) != split(node.module):
            yield f"{name}:{node.lineno}: {full} is private"


def judge_call(name: str, node: ast.Call) -> Iterator[str]:
    """An import whose name is a string is an import."""
    called = ast.unparse(node.func).rpartition(".")[2]
    if called in BY_STRING | BY_TEXT and name not in MAY_IMPORT_BY_STRING:
        yield f"{name}:{node.lineno}: {called}() hides what is imported; {SAY_WHY}"
    if called in BY_STRING and node.args and isinstance(node.args[0], ast.Constant):
        yield from judge(name, str(node.args[0].value), node.lineno)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def judge(name: str, imported: str, line: int) -> Iterator[str]:
    root, package = split(name)
    their_root, theirs = split(imported)
    where = f"{name}:{line}: imports {imported}"
    if their_root in HIDDEN and imported not in ASKING_ONLY and name not in MAY_IMPORT_BY_STRING:
        yield f"{where}, which hides what is imported; {SAY_WHY}"
    if their_root not in TIERS:
        return
    if imported.rpartition(".")[2] == SHIM:
        yield f"{where}, which is where a program starts"
    if any(map(is_private, imported.split("."))) and (root, package) != (their_root, theirs):
        yield f"{where}, which is private"
    if theirs is None and imported.count(".") > 1:
        yield f"{where}, whose folder has no tier"
    if root != their_root:
        if root == "agent":
            yield f"{where}, but the agent knows no lab"
        elif theirs and theirs not in LAB_MAY_USE:
            yield f"{where}, which is the agent's own affair"
    elif theirs is None or package == theirs or name == f"{root}.{SHIM}":
        return
    elif (root, theirs) in ALONE:
        yield f"{where}, which is another process"
    elif package is not None and (root, package) in ALONE:
        if theirs not in ALONE[root, package]:
            yield f"{where}; it may only use {sorted(ALONE[root, package])}"
    elif tier_of(root, theirs) >= tier_of(root, package):
        yield f"{where}, which is not below it"


def split(module: str) -> tuple[str, str | None]:
    """The import package and the folder in it; None for a file beside the folders."""
    root, *rest = module.split(".")
    known = rest and (any(rest[0] in tier for tier in TIERS.get(root, ())) or (root, rest[0]) in ALONE)
    return root, rest[0] if known else None


def tier_of(root: str, package: str | None) -> int:
    return next((number for number, tier in enumerate(TIERS[root]) if package in tier), -1)


def modules_of(root: Path) -> dict[str, Path]:
    return modules_below(root / "agent") | modules_below(root / "host-tools" / "hafw_lab")


def test_imports_run_one_way(root: Path) -> None:
    modules = modules_of(root)
    assert len(modules) > 200
    offences = [
        offence
        for name, path in sorted(modules.items())
        for offence in find_offences(name, tree_of(path), set(modules))
    ]
    assert not offences, "\n".join(offences)


def without_tier(modules: dict[str, Path]) -> list[str]:
    """Folders with code in them that no tier names, whether they have an __init__ or not."""
    packages = {
        ".".join(name.split(".")[:2])
        for name, path in modules.items()
        if name.count(".") > 1 or (name.count(".") == 1 and path.name == "__init__.py")
    }
    return sorted(package for package in packages if split(package)[1] is None)


def test_every_folder_with_code_has_its_tier(root: Path) -> None:
    assert without_tier(modules_of(root)) == [], "give each its tier in AGENT or LAB"


def test_a_folder_without_tier_is_found(tmp_path: Path) -> None:
    for folder, name in (("extra", "thing.py"), ("more", "__init__.py"), ("core", "plan.py")):
        (tmp_path / "agent" / folder).mkdir(parents=True)
        (tmp_path / "agent" / folder / name).touch()
    (tmp_path / "agent" / "errors.py").touch()
    assert without_tier(modules_below(tmp_path / "agent")) == ["agent.extra", "agent.more"]


def test_whoever_may_import_by_a_string_does(root: Path) -> None:
    modules = modules_of(root)
    for name in MAY_IMPORT_BY_STRING:
        called = [node for node in ast.walk(tree_of(modules[name])) if isinstance(node, ast.Call)]
        assert any(ast.unparse(node.func).rpartition(".")[2] in BY_STRING for node in called), name


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("agent.core.machine", "from agent.engine.loop import Loop", "is not below it"),
        ("agent.rules.nat", "from agent.adapters import nftables", "is not below it"),
        ("agent.rollout.apply", "import agent.setup.plan", "is not below it"),
        ("agent.core.machine", "from agent.core import plan", None),
        ("agent.paths", "from agent.core import plan", "is not below it"),
        ("agent.engine.loop", "def f():\n    from agent.cli import main", "is not below it"),
        ("agent.engine.loop", "from agent.core.plan import _steps", "is private"),
        ("agent.engine.loop", "from agent.core import plan\nplan._steps()", "is private"),
        ("agent.core.machine", "from agent.core.plan import _steps", None),
        ("agent.notify.hook", "from agent.errors import HafwError", None),
        ("agent.notify.hook", "from agent.core import plan", "may only use"),
        ("agent.cli.main", "from agent.notify import hook", "another process"),
        ("agent.cli.main", "import hafw_lab", "knows no lab"),
        ("hafw_lab.client.lab", "from hafw_lab.supervisor import nodes", "another process"),
        ("hafw_lab.supervisor.nodes", "from hafw_lab.client import lab", "may only use"),
        ("hafw_lab.vm.qmp", "from hafw_lab.node import init", "is not below it"),
        ("hafw_lab.verbs.demo", "from agent.engine import loop", "own affair"),
        ("hafw_lab.verbs.demo", "from hafw_lab.measure.failover import run_failover", None),
        ("hafw_lab.model.fault", "from agent.__main__ import main", "is where a program starts"),
        ("agent.model.pair", "from agent import __main__", "is where a program starts"),
        ("agent.model.pair", "import agent.__main__ as start", "is where a program starts"),
        ("agent.model.pair", "import importlib", "hides what is imported"),
        ("agent.model.pair", "from importlib import import_module as load", "hides what is imported"),
        ("agent.model.pair", "from runpy import run_module", "hides what is imported"),
        ("agent.model.pair", "__import__('json')", "hides what is imported"),
        ("agent.model.pair", "exec('import agent.engine.loop')", "hides what is imported"),
        ("agent.adapters.netlink", "importlib.import_module('agent.engine.loop')", "is not below it"),
        ("agent.adapters.netlink", "importlib.import_module('pyroute2')", None),
        ("agent.adapters.frame", "from importlib.util import find_spec", None),
        ("agent.engine.loop", "import agent.core.plan as z\nz._secret()", "is private"),
        ("agent.engine.loop", "import agent.core.plan\nagent.core.plan._secret()", "is private"),
        ("agent.engine.loop", "import agent.core._x", "is private"),
        ("agent.engine.loop", "from agent.core import _x", "is private"),
        ("agent.engine.loop", "from agent.core._x import public", "is private"),
        ("agent.core.machine", "import agent.core.plan as z\nz._secret()", None),
        ("agent.core.machine", "from . import plan", "agent.core.machine:1: from . import plan"),
        ("agent.core.machine", "\nfrom ..engine.pulse import Pulse", "agent.core.machine:2: from ..engine"),
        ("agent.model.pair", "from agent.extra import thing", "no tier"),
        ("agent.model.pair", "import agent.extra.thing", "no tier"),
    ],
)
def test_the_directions_can_be_offended(name: str, code: str, said: str | None) -> None:
    modules = {
        name,
        "agent.__main__",
        "agent.cli.main",
        "agent.core._x",
        "agent.core.plan",
        "agent.engine.loop",
        "agent.extra.thing",
    }
    offences = list(find_offences(name, ast.parse(code), modules))
    assert [said in offence for offence in offences if said] == ([True] if said else [])
    assert all(re.match(rf"{re.escape(name)}:\d+: ", offence) for offence in offences)
    assert bool(offences) is (said is not None), offences
