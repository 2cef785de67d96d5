# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw setup` below a directory of the test's, and what it finds and leaves there."""

import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.config import loader
from agent.paths import Paths
from agent.setup.changes import Change, find_changes
from agent.setup.plan import plan_setup
from tests.checkout import ROOT

PAIR_FILE = ROOT / "examples" / "pair.yaml"
PAIR, FILES = loader.load_with_files(PAIR_FILE)
PATHS = Paths()
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LIMIT_S = 60
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
    **more: object,
) -> "subprocess.CompletedProcess[str]":
    argv = (*prefix, sys.executable, "-P", "-m", "agent", "setup", "--root", str(root), *map(str, arguments))
    limit = more.get("largest_file")
    done = subprocess.run(
        argv,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        stdin=stdin,
        text=True,
        timeout=LIMIT_S,
        check=False,
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        if isinstance(limit, int)
        else None,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def install(root: Path, node: str = "fw-1", *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = setup(root, "--file", PAIR_FILE, "--node", node, "--yes", *arguments)
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


def changes_below(root: Path, node: str = "fw-1", replace: tuple[str, ...] = ()) -> tuple[Change, ...]:
    return find_changes(plan_setup(PAIR, node, PATHS, FILES), PATHS, root, replace)[0]
