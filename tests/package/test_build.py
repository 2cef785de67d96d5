# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in the packages, what lintian says of them, and that the same sources make the same bytes."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.checkout import ROOT
from tests.package.conftest import BUILD_TIMEOUT_S, build

DEBIAN = ROOT / "packaging" / "debian"
SYSTEMD = ROOT / "systemd"
PROFILES = ["/etc/apparmor.d/hafw-agent", "/etc/apparmor.d/hafw-channel"]
A_DAY_IN_2001 = 1_000_000_000


def run(*argv: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(deb: Path) -> dict[str, str]:
    """Path -> mode and owner."""
    listed = (line.split(maxsplit=5) for line in run("dpkg-deb", "--contents", deb).splitlines())
    return {path.removeprefix("."): f"{mode} {owner}" for mode, owner, _, _, _, path in listed}


def find_deb(directory: Path, package: str) -> Path:
    (found,) = directory.glob(f"{package}_*_all.deb")
    return found


def test_everything_is_at_its_place(built: Path) -> None:
    found = contents(find_deb(built, "hafw-agent")) | contents(find_deb(built, "hafw-host-tools"))
    for source, target in (
        ("agent", "/usr/share/hafw-agent/agent"),
        ("host-tools/hafw_lab", "/usr/share/hafw-host-tools/hafw_lab"),
    ):
        modules = [path.relative_to(ROOT / source) for path in (ROOT / source).rglob("*.py")]
        assert modules
        assert not [path for path in modules if f"{target}/{path}" not in found]
    assert not [path for path in found if "__pycache__" in path]
    assert [path for path in found if path.startswith("/etc/") and path[-1] != "/"] == PROFILES
    programs = ("/usr/sbin/hafw", "/usr/bin/hafw-lab", "/usr/libexec/hafw/notify")
    assert {found[path] for path in programs} == {"-rwxr-xr-x root/root"}
    # the pages link to each other by these names, which compressing would change
    pages = [path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.*"))]
    assert not [path for path in pages if f"/usr/share/doc/hafw-agent/{path}" not in found]
    # keepalived runs the hook only if nobody but root could have put it there
    assert {found[path] for path in ("/usr/libexec/", "/usr/libexec/hafw/")} == {"drwxr-xr-x root/root"}


def test_everything_in_systemd_is_installed_by_its_kind(built: Path) -> None:
    found = contents(find_deb(built, "hafw-agent"))
    places = {".service": "systemd/system", ".socket": "systemd/system", ".catalog": "systemd/catalog"}
    wanted = set()
    for path in (one for one in SYSTEMD.rglob("*") if one.is_file()):
        inside = path.relative_to(SYSTEMD)
        if path.suffix == ".nft":
            wanted.add(f"/usr/share/hafw-agent/{inside}")
        elif path.name in ("conntrackd-unlock", "nftables-guard"):
            wanted.add(f"/usr/libexec/hafw/{inside}")
        elif inside.parent.suffix == ".d" and path.suffix == ".conf":
            place = "systemd/system/" if inside.parent.name.endswith(".service.d") else ""
            wanted.add(f"/usr/lib/{place}{inside}")
        else:
            wanted.add(f"/usr/lib/{places[path.suffix]}/{inside}")
    assert "/usr/lib/systemd/system/hafw-agent.service" in wanted
    assert wanted <= found.keys()


def test_an_unknown_kind_of_file_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "hafw.device").touch()
    done = subprocess.run(
        [DEBIAN / "install-systemd", tmp_path / "from", tmp_path / "to"], capture_output=True, check=False
    )
    assert done.returncode == 1


def test_a_copy_without_git_is_built_as_well(built: Path, tmp_path: Path) -> None:
    """Also inside the checkout of something else."""
    copy = tmp_path / "outer" / "hafw"
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in (name for name in listed if (ROOT / name).is_file()):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    run("git", "init", "--quiet", tmp_path / "outer")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "left-over").touch()
    (copy / "agent" / "__pycache__").mkdir()
    (copy / "agent" / "__pycache__" / "x.pyc").touch()
    for deb in build(copy / ".cache" / "deb", script=copy / "packaging" / "build-deb"):
        assert deb.read_bytes() == (built / deb.name).read_bytes(), deb.name


def test_lintian(built: Path) -> None:
    (changes,) = built.glob("*.changes")  # names the source, too
    run("lintian", "--fail-on", "error,warning", "-EIi", "--pedantic", "--no-tag-display-limit", changes)


def test_every_override_has_its_reason() -> None:
    for path in DEBIAN.rglob("*lintian-overrides"):
        reason = ""
        for line in path.read_text().splitlines():
            assert line.startswith("#") or reason, f"{path.name}: no reason above {line!r}"
            reason = line if line.startswith("#") else reason if line else ""


def test_two_builds_make_the_same_bytes(built: Path, tmp_path: Path) -> None:
    """Another directory, another umask, another time zone, files of another age."""
    other = tmp_path / "another-checkout"
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    old_umask = os.umask(0o077)
    try:
        for name in (name for name in listed if (ROOT / name).is_file()):
            target = other / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target, follow_symlinks=False)
            if not target.is_symlink():
                target.chmod(0o700 if os.access(ROOT / name, os.X_OK) else 0o600)
                os.utime(target, (A_DAY_IN_2001, A_DAY_IN_2001))
        run("git", "init", "--quiet", other)
        environment = {**os.environ, "TZ": "Pacific/Kiritimati", "LC_ALL": "C", "HOME": str(tmp_path)}
        script = other / "packaging" / "build-deb"
        printed = run(script, tmp_path / "built", env=environment).splitlines()
    finally:
        os.umask(old_umask)
    assert len(printed) == 2
    for path in (*map(Path, printed), *(tmp_path / "built").glob("*.tar.xz")):
        assert path.read_bytes() == (built / path.name).read_bytes(), path.name


def test_what_did_not_change_is_not_built_again(built: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.glob("*.deb")}
    build(built)
    assert {path: path.stat().st_mtime_ns for path in built.glob("*.deb")} == before


@pytest.mark.parametrize("name", ["conntrackd", "keepalived", "netbase", "nftables", "python3-yaml"])
def test_the_agent_depends_on_what_it_drives(built: Path, name: str) -> None:
    depends = run("dpkg-deb", "--field", find_deb(built, "hafw-agent"), "Depends")
    assert re.search(rf"(^|, ){re.escape(name)}\b", depends)
