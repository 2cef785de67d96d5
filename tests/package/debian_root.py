# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian in a directory, with namespaces of its own for whatever runs in it: no process, no mount and no
rule is left behind."""

import hashlib
import os
import subprocess
from pathlib import Path

TIMEOUT_S = 600
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
# as a container has it: a process of the lab that enters a namespace of the lab's gets the root of that one
_ENTER = 'mount --bind "$0" "$0"; mount -t proc proc "$0/proc"; mount -t sysfs -o ro sysfs "$0/sys"; '
_ENTER += 'cd "$0"; pivot_root . .; umount -l .; exec chroot . /bin/sh -c "$1"'
# what dpkg, apt and the like keep for themselves
_NOT_THEIRS = ("/var/cache", "/var/log", "/tmp", "/proc", "/sys", "/dev", "/var/lib/apt")
_OF_DPKG_NAMES = "status status-old lock lock-frontend triggers/File triggers/Lock triggers/Unincorp"
_OF_DPKG = tuple(f"/var/lib/dpkg/{name}" for name in _OF_DPKG_NAMES.split())


class DebianRoot:
    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, script: str, *, network: bool = False, status: int = 0) -> str:
        """What a shell in it says, both outputs together. AssertionError when it ends otherwise."""
        kinds = ["--mount", "--uts", "--ipc", "--pid", *([] if network else ["--net"])]
        done = subprocess.run(
            ["unshare", *kinds, "--fork", "--kill-child", "sh", "-ec", _ENTER, str(self.path), script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**ENVIRONMENT, **_find_proxies(network)},
            timeout=TIMEOUT_S,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"{script}\nended with {done.returncode}:\n{done.stdout[-5000:]}"
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        target = self.path / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def read(self, path: str) -> str:
        return (self.path / path.lstrip("/")).read_text()

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.path / path.lstrip("/"))

    def files(self) -> dict[str, str]:
        """Every file that belongs to packages or to nobody, with its mode and content."""
        found = {}
        for directory, names, others in os.walk(self.path):
            here = "/" + os.path.relpath(directory, self.path).removeprefix(".")
            if here.startswith(_NOT_THEIRS):
                names.clear()
                continue
            for name in (*names, *others):
                inside = os.path.join(here, name)
                if inside not in _OF_DPKG and not inside.startswith(_NOT_THEIRS):
                    found[inside] = _describe(os.path.join(directory, name))
        return found


def _find_proxies(network: bool) -> dict[str, str]:
    names = [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "no_proxy")]
    return {name: os.environ[name] for name in names if network}


def _describe(path: str) -> str:
    status = os.lstat(path)
    if os.path.islink(path):
        return f"-> {os.readlink(path)}"
    content = ""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {content}"
