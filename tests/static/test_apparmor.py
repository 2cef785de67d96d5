# SPDX-License-Identifier: GPL-2.0-or-later
"""The AppArmor profile of the agent's unit lets it open the files that its code names.

Without such a rule the agent of a confined machine ends at its start, or sees less, and where the tests run
nothing is confined.
"""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.paths import Paths
from tests.static.imports import imports_of, modules_below, tree_of

PROFILE = "packaging/debian/apparmor/hafw-agent"
START = "agent.engine.agent"
"""With all that it imports this is the agent's process."""
PLACES = re.compile(r"/(?:dev|etc|proc|run|sys|tmp|usr|var)(?:/[^:\s]*)?")
VARIABLES = {"@{run}": "/run", "@{PROC}": "/proc", "@{pid}": "[1-9]*", "@{pids}": "[1-9]*"}
UNKNOWN = "1"
"""For a part of a path that is known at run time only: a number, as most of them are."""
LINKS = {
    "/var/run": "/run",
    "/var/lock": "/run/lock",
    "/proc/net": "/proc/self/net",
    "/proc/thread-self": "/proc/self/task/1",
    "/proc/self": "/proc/1",
}
"""A profile is asked about the file that a link leads to."""
NOT_OURS = {
    "/run/systemd/journal/socket": "abstractions/base has it",
    "/run/dbus/system_bus_socket": "abstractions/dbus-strict has it",
    "/var/log/hafw/agent.jsonl": "written only where there is no journald, as in the lab",
    "/run/log/journal": "read by `hafw history`, which is not confined",
    "/var/log/journal": "read by `hafw history`",
    "/usr/sbin/ip": "run by `hafw rules apply`, which is not confined either",
    "/var/lib/dpkg/status": "read by `hafw setup`",
    "/dev/null": "a name in the differences that `hafw setup` prints",
    "/etc/systemd/network": "the agent reads the files in it, by the names that `hafw setup` gives them",
    "/usr/libexec/hafw/notify": "run by keepalived",
    "/usr/libexec/hafw/nftables-guard": "run by nftables.service",
}
"""Paths in the code that the agent does not open itself, or that the profile allows by what it includes."""


def rules_of(profile: str, letter: str = "") -> list[re.Pattern[str]]:
    """What the path rules of a profile match, of those with `letter` among their permissions."""
    found = re.findall(rf"^  ((?:/|@\{{)\S+) \w*{letter}\w*,$", profile, re.MULTILINE)
    for name, value in VARIABLES.items():
        found = [rule.replace(name, value) for rule in found]
    return [re.compile(expression_of(rule)) for rule in found]


def expression_of(rule: str) -> str:
    """apparmor.d(5): `**` crosses slashes, `*` and `?` do not; `{a,b}` is either."""
    signs = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|"}
    parts = re.findall(r"\*\*|\[[^]]*\]|.", rule)
    return "".join(part if part.startswith("[") else signs.get(part, re.escape(part)) for part in parts)


def is_allowed(path: str, rules: list[re.Pattern[str]]) -> bool:
    """As a file, or as a directory, whose rules end with a slash."""
    for link, target in LINKS.items():
        if path == link or path.startswith(f"{link}/"):
            path = target + path.removeprefix(link)
    return any(rule.fullmatch(name) for rule in rules for name in (path, f"{path}/"))


def find_paths(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The paths that a module writes down, with their lines; of one that is put together, the whole."""
    known = bound_in(tree)
    left = list(ast.iter_child_nodes(tree))
    while left:
        node = left.pop()
        if isinstance(node, ast.expr) and not isinstance(getattr(node, "ctx", None), ast.Store):
            paths = [path for path in values_of(node, known) if PLACES.fullmatch(path)]
            if paths:
                yield from ((node.lineno, path) for path in paths)
                continue
        left += [child for child in ast.iter_child_nodes(node) if not is_bound(node, child, known)]


def bound_in(tree: ast.Module) -> dict[str, list[str]]:
    """What a name stands for: a constant, the default of an argument, the steps of a loop over constants."""
    known: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            known[node.targets[0].id] = values_of(node.value, known)
        elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Tuple):
            each = [value for one in node.iter.elts for value in values_of(one, known)]
            known[ast.unparse(node.target)] = each
        elif isinstance(node, ast.arguments):
            for argument, default in zip(reversed(node.args), reversed(node.defaults), strict=False):
                known[argument.arg] = values_of(default, known)
    return {name: values for name, values in known.items() if values}


def is_bound(node: ast.AST, child: ast.AST, known: dict[str, list[str]]) -> bool:
    """Where a name gets its path, nothing is opened: that is where the name stands."""
    if isinstance(node, ast.Assign):
        return child is node.value and ast.unparse(node.targets[0]) in known
    return isinstance(node, ast.arguments) and isinstance(child, ast.expr)


def values_of(node: ast.expr, known: dict[str, list[str]]) -> list[str]:
    """The strings or paths that an expression may be; none where it is something else."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.Name):
        return known.get(node.id, [])
    if isinstance(node, ast.FormattedValue):
        return values_of(node.value, known)
    if isinstance(node, ast.JoinedStr):
        return combine("", [values_of(part, known) for part in node.values])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        first = values_of(node.left, known)
        return combine("/", [first, values_of(node.right, known)]) if first else []
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Path" and node.args:
        return combine("/", [values_of(part, known) for part in node.args])
    return []


def combine(between: str, parts: list[list[str]]) -> list[str]:
    return [between.join(chosen) for chosen in itertools.product(*(part or [UNKNOWN] for part in parts))]


def modules_of_the_agent(root: Path) -> dict[str, Path]:
    """By name, all that START imports."""
    modules = modules_below(root / "agent")
    found, left = dict[str, Path](), [START]
    while left:
        name = left.pop()
        if name in modules and name not in found:
            found[name] = modules[name]
            left += imports_of(tree_of(modules[name]))
    return found


@pytest.fixture(scope="module")
def named(root: Path) -> dict[str, str]:
    """Where each path is written."""
    paths = Paths()
    found = {str(getattr(paths, name)): f"Paths.{name}" for name in dir(Paths) if not name.startswith("_")}
    modules = modules_of_the_agent(root)
    del modules["agent.paths"]
    for file in modules.values():
        for line, path in find_paths(tree_of(file)):
            found.setdefault(path, f"{file.relative_to(root)}:{line}")
    return found


def test_the_profile_allows_what_the_agent_opens(root: Path, named: dict[str, str]) -> None:
    rules = rules_of((root / PROFILE).read_text())
    refused = [
        f"{where}: {path}"
        for path, where in named.items()
        if path not in NOT_OURS and not is_allowed(path, rules)
    ]
    assert not refused, f"{PROFILE} has no rule for\n" + "\n".join(sorted(refused))


@pytest.mark.parametrize(
    "path",
    [
        Paths().pair_file,
        Paths().run_dir / "any",
        Paths().state_dir / "any",
        Paths().conntrackd_socket,
        Path("/run/systemd/notify"),
    ],
    ids=str,
)
def test_the_profile_lets_the_agent_write_where_it_keeps_and_sends_things(root: Path, path: Path) -> None:
    assert is_allowed(str(path), rules_of((root / PROFILE).read_text(), "w"))


def test_no_exception_is_left_over(root: Path, named: dict[str, str]) -> None:
    rules = rules_of((root / PROFILE).read_text())
    assert [path for path in NOT_OURS if path not in named or is_allowed(path, rules)] == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/etc/some/file", True),
        ("/etc/some/file/below", False),
        ("/var/run/a.pid", True),
        ("/run/c.pid", False),
        ("/proc", True),
        ("/proc/thread-self/status", True),
        ("/proc/1/task/1/stat", False),
        ("/proc/self/stat", False),
        ("/var/lib/hafw", True),
        ("/var/lib/hafw/generations/1", True),
        ("/usr/bin/sh", False),
    ],
)
def test_which_paths_a_rule_is_about(path: str, allowed: bool) -> None:
    profile = """
  # /usr/bin/sh r,
  /etc/[s]ome/* r,
  /var/lib/hafw/{,**} rw,
  @{run}/{a,b}.pid r,
  @{PROC}/ r,
  @{PROC}/@{pids}/task/@{pids}/{children,status} r,
"""
    assert is_allowed(path, rules_of(profile)) is allowed


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f():\n    '/etc/a is read'\n    open('/etc/a')", [(3, "/etc/a")]),
        ("P = Path('/proc')\n(P / str(pid) / 'stat').read_text()", [(2, "/proc/1/stat")]),
        ("open(f'/proc/{pid}/task/{tid}/status')", [(1, "/proc/1/task/1/status")]),
        ("Path('/proc/sys', name).write_text(x)", [(1, "/proc/sys/1")]),
        ("N = Path('/proc/net')\ndef f(net=N):\n    read(net / 'raw')", [(3, "/proc/net/raw")]),
        (
            "for n in ('a', 'b'):\n    open('/sys/' + n)\n    open(f'/sys/{n}')",
            [(2, "/sys/"), (3, "/sys/a"), (3, "/sys/b")],
        ),
        ("environment = {'PATH': '/usr/sbin:/usr/bin'}; sep = '/'; net = '/24'", []),
    ],
)
def test_which_paths_are_found(code: str, found: list[tuple[int, str]]) -> None:
    assert sorted(find_paths(ast.parse(code))) == found
