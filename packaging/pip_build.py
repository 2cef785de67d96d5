# SPDX-License-Identifier: GPL-2.0-or-later
"""How pip builds hafw: setuptools does it, in a copy of the checkout, so that the checkout stays clean and
may belong to another user. What the Debian packages put beside the code goes into the package `agent` here.
"""

import importlib
import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
CODE = ("agent", "host-tools/hafw_lab")
BESIDE = ("pyproject.toml", "README.md", "LICENSE")
BOOT_POLICY = "systemd/boot.nft"


def build_wheel(
    wheel_directory: str, _settings: object = None, _metadata_directory: str | None = None
) -> str:
    """A hook of PEP 517; returns the name of the file."""
    build_meta = _require_setuptools()
    wheels = os.path.abspath(wheel_directory)
    with tempfile.TemporaryDirectory(prefix="hafw-pip-") as directory:
        copy_to(Path(directory))
        os.chdir(directory)
        return str(build_meta.build_wheel(wheels))


def _require_setuptools() -> ModuleType:
    if all(map(_is_there, ("setuptools.build_meta", "wheel"))) or _is_there(
        "setuptools.command.bdist_wheel"
    ):
        return importlib.import_module("setuptools.build_meta")
    sys.exit("hafw cannot be built: install Debian's packages python3-setuptools and python3-wheel")


def _is_there(module: str) -> bool:
    """setuptools brings its own bdist_wheel since 70.1; before, it was a part of wheel."""
    return find_spec(module.partition(".")[0]) is not None and find_spec(module) is not None


def build_sdist(_directory: str, _settings: object = None) -> str:
    """The other hook that has to be there."""
    sys.exit("hafw has no source package for pip: build the wheel (python3 -m build --wheel)")


def copy_to(target: Path) -> None:
    """The sources, with what only this way of installing needs."""
    for name in CODE:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        shutil.copy(ROOT / name, target / name)
    agent = target / "agent"
    shutil.copy(ROOT / BOOT_POLICY, agent)
    (agent / "VERSION").write_text(_find_version())
    (agent / "INSTALLED_BY_PIP").touch()


def _find_version() -> str:
    sys.path.insert(0, str(ROOT))
    from agent import __version__

    return f"{__version__}\n"
