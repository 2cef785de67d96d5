# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of its own for the command `hafw`: its network, /run, /etc, /var/lib and /var/log are its own.

Its first process takes all others along when it ends.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.adapters.process import ENVIRONMENT
from tests.checkout import ROOT
from tests.netns.pair_checks import until

PATIENCE_S = 60.0
CHANGING = {"apply", "confirm", "rollback"}
_BEGIN = """
set -e
mount -t tmpfs none /run
mkdir -p /run/hafw
cp -a /etc /run/etc
mkdir -p /run/etc/hafw
mount --bind /run/etc /etc
mount -t tmpfs none /var/lib
mount -t tmpfs none /var/log
hostname fw-1
ip link set lo up
echo ready
exec sleep infinity
"""


@dataclass(frozen=True, slots=True)
class Machine:
    pid: int
    """Of its first process."""

    @property
    def root(self) -> Path:
        """Its files, from outside."""
        return Path(f"/proc/{self.pid}/root")

    def argv(self, *argv: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--uts", "--pid", "--", *argv]

    def run(self, *argv: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.argv(*argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
            cwd="/",
            check=False,
        )

    def must(self, *argv: str) -> str:
        """run(), which must end well; what it printed."""
        done = self.run(*argv)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout

    def rules(self, *arguments: str, status: int = 0) -> str:
        """`hafw rules ...` on this node alone, as a process; what it says on either output."""
        alone = ("--this-node",) if {*arguments[:1]} & CHANGING else ()
        done = self.run(sys.executable, "-P", "-m", "agent", "rules", *arguments, *alone)
        said = done.stdout + done.stderr
        assert done.returncode == status, f"{arguments}: {done.returncode}: {said}"
        assert "Traceback" not in said, said
        return said

    def rules_json(self, *arguments: str) -> Any:
        return json.loads(self.rules(*arguments, "--json"))

    def write(self, path: str, text: str) -> None:
        Path(self.root, path.lstrip("/")).write_text(text)

    def read(self, path: str) -> str:
        return Path(self.root, path.lstrip("/")).read_text()

    def digest(self) -> str | None:
        """Of the table that the kernel has."""
        listed = self.run("nft", "list", "chains").stdout.split()
        found = [word.removeprefix("digest-") for word in listed if word.startswith("digest-")]
        assert len(found) <= 1, found
        return found[0] if found else None

    def records(self) -> list[dict[str, Any]]:
        path = self.root / "var" / "log" / "hafw" / "agent.jsonl"
        # a line that is being written may be seen in part
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]


@contextmanager
def start_machine() -> Iterator[Machine]:
    unshare = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    holder = subprocess.Popen(
        [*unshare, "--propagation", "private", "sh", "-c", _BEGIN],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n", "the machine does not start"
        # the first process inside is unshare's one child
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        yield Machine(int(children[0]))
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


def unit_environment() -> dict[str, str]:
    lines = (ROOT / "systemd" / "hafw-agent.service").read_text().splitlines()
    words = [word for line in lines if line.startswith("Environment=") for word in line[12:].split()]
    return dict(word.split("=", 1) for word in words)


@contextmanager
def start_agent(
    machine: Machine, program: tuple[str, ...] = ("-m", "agent", "agent")
) -> Iterator["subprocess.Popen[bytes]"]:
    """The resident agent, in the environment that its unit gives it, without keepalived and bus."""
    argv = machine.argv(sys.executable, "-P", *program)
    environment = {**ENVIRONMENT, **unit_environment(), "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(argv, env=environment, cwd="/", stderr=subprocess.DEVNULL)
    try:
        until((machine.root / "run/hafw/control.sock").is_socket, PATIENCE_S, "the agent does not start")
        yield running
    finally:
        if running.poll() is None:
            tell_agent(machine, signal.SIGTERM)
        running.wait(PATIENCE_S)


def tell_agent(machine: Machine, number: signal.Signals) -> None:
    """The agent itself, whose number in there its lock has; what was started here only waits for it."""
    done = machine.run("sh", "-c", f"kill -{number.value} $(cat /run/hafw/agent.lock)")
    assert done.returncode == 0, done.stderr
