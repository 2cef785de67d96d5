# SPDX-License-Identifier: GPL-2.0-or-later
"""A package as it is installed on this machine, built again: what a hafw-lab that is installed puts into its
machines.

Hard facts
* Byte-code is no file of the package, so dpkg does not list it.
* dpkg's list of control files leaves `conffiles` out; the status has them, with their sums.
* dpkg-deb writes no time later than SOURCE_DATE_EPOCH.
"""

import re
import shutil
import tempfile
from pathlib import Path

from hafw_lab.process import run

_OF_DPKG = re.compile(r"^(Status|Conffiles):.*\n(?:[ \t].*\n)*", re.MULTILINE)
_BUILD_TIMEOUT_S = 300.0
_WORK = "work-"


def repack(package: str, target: Path) -> None:
    """Make `target`, a .deb; the same files make the same bytes. Raises LabError."""
    for path in target.parent.glob(f"{_WORK}*"):  # of one that was killed
        shutil.rmtree(path)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=target.parent) as directory:
        root = Path(directory)
        for path in map(Path, _ask("--listfiles", package).splitlines()):
            if path.is_file():
                _copy(path, root / path.relative_to("/"))
        _write_control(package, root / "DEBIAN")
        for below in (root, *(path for path in root.rglob("*") if path.is_dir())):
            below.chmod(0o755)
        half = target.with_suffix(".half")
        build = ["dpkg-deb", "--root-owner-group", "--build", str(root), str(half)]
        run(["env", "SOURCE_DATE_EPOCH=0", *build], timeout_s=_BUILD_TIMEOUT_S)
        half.replace(target)


def compose_control(status: str) -> str:
    """The control file of a package whose status dpkg tells. Pure."""
    return _OF_DPKG.sub("", status)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


def _write_control(package: str, directory: Path) -> None:
    directory.mkdir()
    texts = {name: _ask("--control-show", package, name) for name in _ask("--control-list", package).split()}
    texts["control"] = compose_control(_ask("--status", package))
    kept = re.findall(r"^ (\S+)", _ask("--show", "--showformat=${Conffiles}", package), re.MULTILINE)
    texts["conffiles"] = "".join(f"{path}\n" for path in kept)
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
        (directory / name).chmod(0o755)


def _ask(*arguments: str) -> str:
    return run(["dpkg-query", *arguments])
