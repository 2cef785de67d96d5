# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages built from this checkout, and a Debian to install them in."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hafw_lab.cache import cache_dir
from hafw_lab.image.debian import Release, cached_tree
from hafw_lab.image.store import read_depends
from tests.checkout import ROOT
from tests.package.debian_root import DebianRoot

BUILD_DEB = ROOT / "packaging" / "build-deb"
OLDER = "0.0.1~test"
BUILD_TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.package)


def build(directory: Path, *options: str, script: Path = BUILD_DEB) -> tuple[Path, ...]:
    """The two packages, built into `directory`."""
    done = subprocess.run(
        [script, *options, directory], capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(Path(line) for line in done.stdout.splitlines())


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with everything that a build makes."""
    directory = tmp_path_factory.mktemp("built")
    assert len(build(directory)) == 2
    return directory


@pytest.fixture(scope="session")
def built_older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("older")
    build(directory, "--version", OLDER)
    return directory


@pytest.fixture
def make_root(built: Path) -> Iterator[Callable[[Release], DebianRoot]]:
    """A Debian with everything in it that our packages depend on, and nothing of ours."""
    if os.geteuid() != 0:
        pytest.skip("installing packages takes root")
    needed = {name for deb in built.glob("*.deb") for name in read_depends(deb)}
    packages = sorted({name for name in needed if not name.startswith("hafw-")} | {"systemd"})
    with tempfile.TemporaryDirectory(dir=cache_dir(), ignore_cleanup_errors=True) as directory:

        def make(release: Release) -> DebianRoot:
            tree = cached_tree(release, packages, print, options=["--dpkgopt=force-unsafe-io"])
            root = Path(directory, release.value)
            root.mkdir()
            subprocess.run(["tar", "-C", root, "-xf", tree], timeout=BUILD_TIMEOUT_S, check=True)
            return DebianRoot(root)

        yield make
