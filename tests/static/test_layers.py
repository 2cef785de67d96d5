# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may import whom: a package may import any package of a tier below its own, none beside or above it.

CONTRIBUTING.md draws the same picture for people. A new package has to be given its tier here.
"""

import ast
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
# These meet the rest at run time only: keepalived starts the hook, and a lab's supervisor is another
# process, which shares with the lab's clients what goes over the wire.
ALONE = {
    ("agent", "notify"): frozenset[str](),
    ("hafw_lab", "supervisor"): frozenset({"model", "plan", "kernel", "vm"}),
}
LAB_MAY_USE = {
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


def find_offences(name: str, tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """What the module `name` imports against the directions, each as one line with its number."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in modules:
                    bound[alias.asname or alias.name] = full
                yield from judge(name, full if full in modules else node.module, node.lineno)
                if is_private(alias.name) and split(name) != split(node.module):
                    yield f"{name}:{node.lineno}: {full} is private"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from judge(name, alias.name, node.lineno)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and is_private(node.attr):
            module = bound.get(node.value.id)
            if module and split(name) != split(module):
                yield f"{name}:{node.lineno}: {module}.{node.attr} is private"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def judge(name: str, imported: str, line: int) -> Iterator[str]:
    root, package = split(name)
    their_root, theirs = split(imported)
    if their_root not in TIERS:
        return
    where = f"{name}:{line}: imports {imported}"
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


def test_every_package_has_its_tier(root: Path) -> None:
    for name, path in modules_of(root).items():
        if path.name == "__init__.py" and name.count(".") == 1:
            assert split(name)[1] is not None, f"{name}: give it a tier"


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
    ],
)
def test_the_directions_can_be_offended(name: str, code: str, said: str | None) -> None:
    modules = {name, "agent.core.plan", "agent.engine.loop", "agent.cli.main"}
    offences = list(find_offences(name, ast.parse(code), modules))
    assert [said in offence for offence in offences if said] == ([True] if said else [])
    assert bool(offences) is (said is not None), offences
