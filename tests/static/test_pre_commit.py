# SPDX-License-Identifier: GPL-2.0-or-later
"""A commit runs what the static tests run, no less and nothing else."""

import ast
from pathlib import Path

import yaml

TOOLS = "tests/static/test_tools.py"


def test_every_tool_has_its_hook_and_one_runs_the_rest(root: Path) -> None:
    config = yaml.safe_load((root / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    tests = [
        node.name
        for node in ast.parse((root / TOOLS).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    wanted = [f"./run test -q {TOOLS}::{name}" for name in tests]
    assert sorted(hook["entry"] for hook in hooks) == sorted(
        [*wanted, f"./run test -q --part static --deselect {TOOLS}"]
    )
    assert {hook["language"] for hook in hooks} == {"system"}, "the tools are those of ./run"
