# SPDX-License-Identifier: GPL-2.0-or-later
"""The start of both commands: interrupted anywhere, or without a library."""

import subprocess
import sys

import pytest

from agent import __version__, entry
from tests.checkout import ROOT

ENV = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'host-tools'}",
    "HOME": "/nonexistent",
}
PATIENCE_S = 60
INTERRUPTED = """
import os, runpy, signal, sys
module, *sys.argv = sys.argv[1:]
def interrupt(event, arguments):
    if event == "import" and arguments[0] == module:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
WITHOUT_YAML = """
import runpy, sys
sys.modules["yaml"] = None
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def start(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-P", "-c", program, *arguments]
    return subprocess.run(argv, env=ENV, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.parametrize(
    ("module", "command"),
    [
        *((module, ("agent", "check")) for module in ("agent.cli.main", "argparse", "agent.config.loader")),
        ("yaml", ("agent", "check")),
        *(
            (module, ("hafw_lab", "graph"))
            for module in ("hafw_lab.verbs.main", "agent.config.loader", "yaml", "hafw_lab.report.topology")
        ),
    ],
)
def test_an_interrupt_while_modules_are_loaded(module: str, command: tuple[str, ...]) -> None:
    done = start(INTERRUPTED, module, *command)
    assert (done.returncode, done.stdout, done.stderr) == (entry.INTERRUPTED, "", "")


@pytest.mark.parametrize(("module", "program"), [("agent", "hafw"), ("hafw_lab", "hafw-lab")])
def test_the_version_needs_no_library(module: str, program: str) -> None:
    done = start(WITHOUT_YAML, module, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{program} {__version__}\n", "")
    done = start(WITHOUT_YAML, module, "graph" if module == "hafw_lab" else "check")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{program}: Python cannot import yaml; install from Debian: ")


def test_who_ignores_interrupts_is_not_interrupted() -> None:
    program = f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{INTERRUPTED}"
    done = start(program, "argparse", "agent", "--version")
    assert (done.returncode, done.stderr) == (0, "")
