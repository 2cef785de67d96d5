# SPDX-License-Identifier: GPL-2.0-or-later
"""A systemd of its own as the first process of a machine: units with our drop-ins."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.process import ENVIRONMENT
from tests.netns.pair_checks import until

PATIENCE_S = 60.0
_TARGET = "hafw-test.target"
# cgroup2 without any controller is enough for it to tell whose process is whose
_BEGIN = f"""
set -e
mount -t proc proc /proc
mount -t tmpfs none /run
mkdir -p /run/lock /run/systemd/system
cp -a /etc /run/etc
mount --bind /run/etc /etc
for place in /etc/systemd/system /usr/libexec /var/log /tmp; do mount -t tmpfs none $place; done
mount -t cgroup2 none /sys/fs/cgroup
printf '[Unit]\\nDefaultDependencies=no\\n' >/run/systemd/system/{_TARGET}
export container=hafw-test
exec /lib/systemd/systemd --system --unit={_TARGET} --log-target=null --show-status=no
"""


@dataclass(frozen=True, slots=True)
class Booted:
    pid: int

    def run(self, *argv: str, status: int | None = 0) -> str:
        """What it printed; `status` None takes every exit status."""
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", "--all", "--", *argv],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=ENVIRONMENT,
            cwd="/",
            check=False,
        )
        assert status in (None, done.returncode), f"{' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout

    def path(self, inside: str | Path) -> Path:
        return Path(f"/proc/{self.pid}/root", str(inside).lstrip("/"))

    def write(self, inside: str | Path, text: str) -> None:
        self.path(inside).parent.mkdir(parents=True, exist_ok=True)
        self.path(inside).write_text(text)

    def copy(self, source: Path, inside: str) -> None:
        self.path(inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, self.path(inside))

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()


@contextmanager
def start_booted() -> Iterator[Booted]:
    kinds = ["--mount", "--net", "--uts", "--pid", "--cgroup", "--propagation", "private"]
    holder = subprocess.Popen(
        ["unshare", *kinds, "--fork", "--kill-child", "sh", "-c", _BEGIN],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
    try:
        until(lambda: bool(children.read_text()), PATIENCE_S, "no first process")
        booted = Booted(int(children.read_text()))

        def is_up() -> bool:
            there = booted.path("/run/systemd/private").is_socket()
            return there and booted.run("systemctl", "is-active", _TARGET, status=None).strip() == "active"

        until(is_up, PATIENCE_S, "systemd does not start")
        yield booted
    finally:
        holder.kill()
        holder.wait()
