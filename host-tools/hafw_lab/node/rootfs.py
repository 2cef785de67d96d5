# SPDX-License-Identifier: GPL-2.0-or-later
"""The file system of a node: the paths of an installed firewall, over the machine's own programs.

Hard facts
* keepalived refuses a script when any directory above it could be written by, or belongs to, a user other
  than root. In a user namespace every file of the machine belongs to nobody, so the directories above the
  hook are the node's.
* overlayfs over /usr does not work without privilege.
* An absolute symbolic link would lead out of the node for a process that looks in through /proc/PID/root:
  links are relative.
"""

import contextlib
import os
import shutil
import stat
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.kernel import namespaces as ns
from hafw_lab.plan.values import NodePlan
from hafw_lab.process import run

_DIRECTORIES = {
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "mnt": 0o755,
    "opt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "run/dbus": 0o755,
    "run/lock": 0o1777,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/local": 0o755,
    "usr/local/bin": 0o755,
    "usr/local/sbin": 0o755,
    "var": 0o755,
    "var/cache": 0o755,
    "var/lib": 0o755,
    "var/log": 0o755,
    "var/tmp": 0o1777,
}
_LINKS = {"var/run": "../run", "var/lock": "../run/lock"}
_OWN_IN_USR = ("sbin", "share", "libexec")
"""Directories of /usr into which the packages of the system under test put something."""
_NOT_IN_USR = ("local",)
_ETC = (
    "alternatives",
    "bash.bashrc",
    "dbus-1",
    "ethertypes",
    "gai.conf",
    "group",
    "host.conf",
    "inputrc",
    "iproute2",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "profile",
    "protocols",
    "python3",
    "services",
    "terminfo",
)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


def build_root(root: Path, log_store: Path, plan: NodePlan) -> None:
    """Make the node's root in `root` and move into it. Raises OSError or LabError."""
    ns.make_mounts_private()
    ns.mount("hafw-node", root, "tmpfs", data="mode=755")
    for name, mode in _DIRECTORIES.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    for name, target in _LINKS.items():
        (root / name).symlink_to(target)
    _show_programs(root)
    _copy_etc(root)
    _make_devices(root / "dev")
    ns.bind(log_store, root / "var/log")
    for bind in plan.binds:
        _parent_of(root, bind.path)
        (root / bind.path.lstrip("/")).mkdir(exist_ok=True)
        ns.bind(bind.source, root / bind.path.lstrip("/"), read_only=True)
    _write_files(root, plan)
    _move_into(root)


def _show_programs(root: Path) -> None:
    for entry in sorted(os.scandir("/usr"), key=lambda entry: entry.name):
        target = root / "usr" / entry.name
        if entry.is_symlink():
            target.symlink_to(os.readlink(entry.path))
        elif entry.name in _OWN_IN_USR:
            _show_children(Path(entry.path), target)
        elif entry.is_dir() and entry.name not in _NOT_IN_USR:
            target.mkdir()
            ns.bind(entry.path, target, read_only=True)
    for name in sorted(os.listdir("/")):
        if name not in ("bin", "sbin") and not name.startswith("lib"):
            continue
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}").lstrip("/"))
        elif os.path.isdir(f"/{name}"):  # a system whose /bin is not yet /usr/bin
            (root / name).mkdir()
            ns.bind(f"/{name}", root / name, read_only=True)


def _show_children(source: Path, target: Path) -> None:
    """A directory of the node's own with a link to each entry of the machine's: one mount instead of
    hundreds."""
    machine = target / ".machine"
    machine.mkdir(parents=True)
    ns.bind(source, machine, read_only=True)
    for name in os.listdir(source):
        (target / name).symlink_to(f".machine/{name}")


def _copy_etc(root: Path) -> None:
    version = os.path.basename(os.path.realpath("/usr/bin/python3"))
    for name in (*_ETC, version):
        source, target = Path("/etc", name), root / "etc" / name
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif source.is_dir():
            if not _find_closed(source.parent, [source.name]):
                shutil.copytree(
                    source, target, symlinks=True, ignore=_find_closed, copy_function=_copy_if_readable
                )
        elif source.exists():
            _copy_if_readable(source, target)


def _find_closed(directory: str | Path, names: list[str]) -> list[str]:
    """The directories that an ordinary user may not look into: keepalived 2.3.3 of Debian 13 makes
    /etc/iproute2, which is not there any more, with mode 600."""
    paths = {name: os.path.join(directory, name) for name in names}
    return [
        name
        for name, path in paths.items()
        if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK)
    ]


def _copy_if_readable(source: str | Path, target: str | Path) -> None:
    with contextlib.suppress(PermissionError):  # an ordinary user's lab does without the few secret ones
        shutil.copyfile(source, target)
        os.chmod(target, stat.S_IMODE(os.stat(source).st_mode) & 0o755)


def _make_devices(dev: Path) -> None:
    for name in _DEVICES:
        (dev / name).touch()
        ns.bind(f"/dev/{name}", dev / name)
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    ns.mount(
        "devpts", dev / "pts", "devpts", ns.MS_NOSUID | ns.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"
    )
    (dev / "shm").chmod(0o1777)
    for name, target in _DEVICE_LINKS.items():
        (dev / name).symlink_to(target)


def _parent_of(root: Path, path: str) -> None:
    """Make the directories above `path`. A directory that is only a link to the machine's becomes the node's
    own."""
    current = root
    for part in Path(path.lstrip("/")).parent.parts:
        current = current / part
        if current.is_symlink() and os.readlink(current).startswith(".machine/"):
            source = (current.parent / os.readlink(current)).resolve()
            current.unlink()
            _show_children(source, current)
        elif not current.is_dir():
            current.mkdir()
            current.chmod(0o755)


def _write_files(root: Path, plan: NodePlan) -> None:
    for copy in plan.copies:
        target = root / copy.path.lstrip("/")
        _parent_of(root, copy.path)
        target.unlink(missing_ok=True)
        try:
            shutil.copyfile(copy.source, target)
        except OSError as error:
            raise LabError(f"{plan.name}: cannot copy {copy.source}: {error.strerror}") from error
        target.chmod(copy.mode)
    for file in plan.files:
        target = root / file.path.lstrip("/")
        _parent_of(root, file.path)
        target.unlink(missing_ok=True)
        target.write_text(file.text, encoding="utf-8")
        target.chmod(file.mode)


def _move_into(root: Path) -> None:
    ns.mount("proc", root / "proc", "proc", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC)
    try:
        ns.mount("sysfs", root / "sys", "sysfs", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC | ns.MS_RDONLY)
    except PermissionError:  # inside some containers only the machine's own view is allowed
        ns.bind("/sys", root / "sys", read_only=True)
    os.chdir(root)
    run(["pivot_root", ".", "."])
    os.chdir("/")
    ns.unmount("/")
    os.chdir("/")
