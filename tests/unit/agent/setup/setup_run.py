# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw setup` below a directory of the test's, and what it finds and leaves there."""

import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.__main__ import main
from agent.config import loader
from agent.paths import Paths
from agent.setup.changes import FileChange, find_changes
from agent.setup.plan import plan_setup
from tests.checkout import ROOT
from tests.forked import run_forked

PAIR_FILE = ROOT / "examples" / "pair.yaml"
PAIR, FILES = loader.load_with_files(PAIR_FILE)
PATHS = Paths()
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LIMIT_S = 60
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
HAND_MADE = "vrrp_instance old {\n    interface eth0\n}\n"
WRITTEN = (
    "etc/conntrackd/conntrackd.conf",
    "etc/hafw/hafw.yaml",
    "etc/keepalived/keepalived.conf",
    "etc/modules-load.d/hafw.conf",
    "etc/sysctl.d/60-hafw.conf",
    "etc/systemd/network/60-hafw-eth0.network",
    "etc/systemd/network/60-hafw-eth1.network",
    "etc/systemd/network/60-hafw-eth2.network",
    "etc/systemd/system/nftables.service.d/hafw.conf",
)

needs_root = pytest.mark.root(reason="needs a mount namespace of root's")


def setup(
    root: Path,
    *arguments: str | Path,
    stdin: int = subprocess.DEVNULL,
    prefix: tuple[str, ...] = (),
    largest_file: int | None = None,
    start: bool = False,
) -> "subprocess.CompletedProcess[str]":
    """With `prefix` or `largest_file`, and where `start` is true, with a Python of its own."""
    argv = ("setup", "--root", str(root), *map(str, arguments))
    if prefix or largest_file is not None or start:
        done = start_hafw((*prefix, sys.executable, "-P", "-m", "agent", *argv), stdin, largest_file)
    else:
        forked = run_forked(main, argv, ENV, stdin)
        done = subprocess.CompletedProcess(
            forked.args, forked.returncode, forked.stdout.decode(), forked.stderr.decode()
        )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def start_hafw(
    argv: tuple[str, ...], stdin: int, largest_file: int | None
) -> "subprocess.CompletedProcess[str]":
    def limit_files() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        argv,
        # Python keeps what it has compiled also where the limit has cut it short, and fails on it ever after
        env={**ENV, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        stdin=stdin,
        text=True,
        timeout=LIMIT_S,
        check=False,
        preexec_fn=limit_files,
    )


def install(
    root: Path, node: str = "fw-1", *arguments: str, start: bool = False
) -> "subprocess.CompletedProcess[str]":
    done = setup(root, "--file", PAIR_FILE, "--node", node, "--yes", *arguments, start=start)
    assert done.returncode == 0, done.stderr
    return done


def files_in(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()
    }


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def changes_below(root: Path, node: str = "fw-1", replace: tuple[str, ...] = ()) -> tuple[FileChange, ...]:
    return find_changes(plan_setup(PAIR, node, PATHS, FILES), PATHS, root, replace)[0]
