# SPDX-License-Identifier: GPL-2.0-or-later
"""Our own rules: who may import what, and how large a file may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.static.imports import imports_of, tree_of

MAX_LINES = 500

# What the pure core may use: no clock, no files, no processes, no logging. Time arrives inside events.
PURE = {
    "__future__",
    "bisect",
    "collections",
    "collections.abc",
    "dataclasses",
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "struct",
    "types",
    "typing",
}
MODEL = PURE | {"agent.model", "agent.errors"}
CORE = PURE | {"agent.core", "agent.model.pair", "agent.errors"}
# The hook runs as root for every notice: it starts at once and leans on nothing that others could put there.
HOOK = {"_socket", "errno", "os", "posix", "socket", "sys", "time"}

# One foreign library, one file that knows it.
IMPORTERS: dict[str, set[str]] = {
    "dbus_next": {"agent/adapters/keepalived.py"},
    "dbus_fast": {"agent/adapters/keepalived.py"},
    "nftables": {"agent/adapters/nft_context.py"},
    "pyroute2": {"agent/adapters/netlink.py", "host-tools/hafw_lab/kernel/rtnetlink.py"},
    "systemd.journal": {"agent/adapters/journal.py"},
    "systemd.daemon": {"agent/adapters/service.py"},
}
# The same, but for the agent only: the lab reads files of its own and starts processes all day.
AGENT_IMPORTERS: dict[str, set[str]] = {
    "yaml": {"agent/config/source_tree.py"},
    "subprocess": {"agent/adapters/process.py"},
    "multiprocessing": set(),
    "pty": set(),
}
# Starting a process without the module named subprocess.
STARTERS = {
    "create_subprocess_exec",
    "create_subprocess_shell",
    "posix_spawn",
    "posix_spawnp",
    "popen",
    "system",
}
STARTING = {"agent/adapters/process.py"}
# What the lab prints goes through spoken.py; these are programs of their own, read by another one.
PRINTING = {
    "spoken.py",
    "bench/command_timer.py",
    "bench/rules_node.py",
    "desktop/usb_devices.py",
    "desktop/usb_export.py",
    "guest/files/etc/hafw-lab/ssh-port",
}


def is_of(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def outside(tree: ast.AST, allowed: set[str]) -> list[str]:
    """Imports that are neither in `allowed` nor below one of them."""
    return [module for module in imports_of(tree) if not any(is_of(module, one) for one in allowed)]


def of_agent(root: Path, python_files: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(path for path in python_files if (root / "agent") in path.parents)


@pytest.mark.parametrize(("package", "allowed"), [("model", MODEL), ("core", CORE)])
def test_model_and_core_are_pure(
    root: Path, python_files: tuple[Path, ...], package: str, allowed: set[str]
) -> None:
    pure = [path for path in python_files if path.parent == root / "agent" / package]
    assert pure
    for path in pure:
        assert not outside(tree_of(path), allowed), path


@pytest.mark.parametrize("package", ["rules", "render"])
def test_rules_and_renderers_are_pure(root: Path, python_files: tuple[Path, ...], package: str) -> None:
    pure = [path for path in python_files if path.parent == root / "agent" / package]
    assert pure
    # `pathlib` for types: the paths of others are written into their files; `zlib` only computes
    allowed = CORE | {
        f"agent.{package}",
        "agent.paths",
        "agent.model.services",
        "pathlib.Path",
        "pathlib.PurePath",
        "zlib",
    }
    for path in pure:
        found = [module for module in outside(tree_of(path), allowed) if module != "pathlib"]
        assert not found, path


def test_hook_leans_on_nothing(root: Path, python_files: tuple[Path, ...]) -> None:
    hook = [path for path in python_files if path.parent == root / "agent" / "notify"]
    assert hook
    for path in hook:
        assert not outside(tree_of(path), HOOK), path


def importers(root: Path, paths: tuple[Path, ...], package: str) -> set[str]:
    found = (path for path in paths if any(is_of(module, package) for module in imports_of(tree_of(path))))
    return {str(path.relative_to(root)) for path in found}


@pytest.mark.parametrize("package", IMPORTERS)
def test_one_importer(root: Path, python_files: tuple[Path, ...], package: str) -> None:
    ours = tuple(path for path in python_files if (root / "tests") not in path.parents)
    assert importers(root, ours, package) <= IMPORTERS[package]


@pytest.mark.parametrize("package", AGENT_IMPORTERS)
def test_one_importer_in_the_agent(root: Path, python_files: tuple[Path, ...], package: str) -> None:
    assert importers(root, of_agent(root, python_files), package) <= AGENT_IMPORTERS[package]


def test_only_one_file_of_the_agent_starts_processes(root: Path, python_files: tuple[Path, ...]) -> None:
    for path in of_agent(root, python_files):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and node.attr in STARTERS:
                assert str(path.relative_to(root)) in STARTING, f"{path}:{node.lineno}: {node.attr}"


def test_one_file_of_the_lab_speaks_to_people(root: Path, python_files: tuple[Path, ...]) -> None:
    lab = root / "host-tools" / "hafw_lab"
    found = {
        str(path.relative_to(lab))
        for path in python_files
        if lab in path.parents
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert found == PRINTING


def test_no_shell(python_files: tuple[Path, ...]) -> None:
    for path in python_files:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                value = node.value
                assert isinstance(value, ast.Constant), f"{path}:{node.value.lineno}"
                assert value.value is False, f"{path}:{node.value.lineno}: an argv, not a line for a shell"


def polls(tree: ast.AST) -> Iterator[int]:
    """The lines where something is asked again and again whether it has come, with a sleep between."""
    for node in ast.walk(tree):
        if isinstance(node, ast.While) and len(node.body) == 1 and not isinstance(node.test, ast.Constant):
            (only,) = node.body
            value = only.value if isinstance(only, ast.Expr) else None
            called = value.value if isinstance(value, ast.Await) else value
            if isinstance(called, ast.Call) and ast.unparse(called.func).rpartition(".")[2] == "sleep":
                yield node.lineno


def test_the_agent_waits_for_what_happens(root: Path, python_files: tuple[Path, ...]) -> None:
    found = {path: lines for path in of_agent(root, python_files) if (lines := [*polls(tree_of(path))])}
    assert found == {}


def test_a_poll_is_found() -> None:
    code = "async def f(loop):\n    while not loop.is_idle:\n        await asyncio.sleep(0.02)\n"
    assert [*polls(ast.parse(code))] == [2]
    assert [*polls(ast.parse(code.replace("not loop.is_idle", "True")))] == []


def test_files_are_of_a_size_to_read(python_files: tuple[Path, ...], shell_files: tuple[Path, ...]) -> None:
    for path in (*python_files, *shell_files):
        assert len(path.read_text().splitlines()) <= MAX_LINES, f"{path}: split it"


@pytest.mark.parametrize(
    ("code", "allowed", "found"),
    [
        ("import time", PURE, ["time"]),
        ("def f():\n    import os.path", PURE, ["os.path"]),
        ("from collections.abc import Iterator", PURE, []),
        ("from agent.model import pair", {"agent.model.pair"}, ["agent.model"]),
        ("from agent.model.pair import Pair", {"agent.model.pair"}, []),
        (
            "from agent.model.pairs import Pair",
            {"agent.model.pair"},
            ["agent.model.pairs", "agent.model.pairs.Pair"],
        ),
    ],
)
def test_the_rules_can_fail(code: str, allowed: set[str], found: list[str]) -> None:
    assert outside(ast.parse(code), allowed) == found
