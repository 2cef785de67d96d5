# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of one machine in its lab's directory: kernel, initrd with the node's seed, disk, sockets."""

import base64
import contextlib
import os
import shutil
import socket
from collections import deque
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.plan.values import Machine, NodePlan
from hafw_lab.process import run
from hafw_lab.terminal import clean
from hafw_lab.vm import command_line
from hafw_lab.vm.command_line import Accelerator
from hafw_lab.vm.guest_ssh import SSH_SOCKET

QMP_SOCKET, CONSOLE_SOCKET, AGENT_SOCKET = "qmp.sock", "con.sock", "qga.sock"
_COPY_TIMEOUT_S = 600.0
QEMU_LOG, BY_HAND = "qemu.log", "start-by-hand.sh"


class MachineFiles:
    """`user` is who qemu runs as."""

    def __init__(self, plan: NodePlan, lab: Path, user: int) -> None:
        machine = plan.machine
        assert machine is not None
        self._machine = machine
        self.directory = lab / plan.name
        self.own = self.directory / "own"
        self.directory.mkdir(mode=0o711)
        self.directory.chmod(0o711)
        self.own.mkdir(mode=0o700)
        os.chown(self.own, user, user)
        self._user = user

    def write(self, plan: NodePlan, accelerator: Accelerator) -> None:
        """Everything that a start needs. Raises LabError, OSError."""
        machine = self._machine
        kernel = self.own / command_line.KERNEL
        if not kernel.exists():
            copy_kernel(machine.kernel, kernel)
        _write(self.own / command_line.INITRD, compose_initrd(machine))
        if not self.disk.exists() and machine.snapshot:
            copy_sparse(Path(machine.snapshot), self.disk)
            os.chown(self.disk, self._user, self._user)
        elif not self.disk.exists():
            base = ("-F", machine.disk_format, "-b", machine.disk)
            run(["qemu-img", "create", "-q", "-f", "qcow2", *base, str(self.disk)])
            os.chown(self.disk, self._user, self._user)
        script = self.directory / BY_HAND
        script.write_text(command_line.write_by_hand(plan, accelerator, str(self.own)), encoding="utf-8")
        script.chmod(0o755)

    @property
    def disk(self) -> Path:
        return self.own / command_line.OVERLAY

    def listen(self, name: str, backlog: int = 1) -> socket.socket:
        """A UNIX socket that listens, for qemu to take over."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(backlog)
        except OSError as error:
            listener.close()
            raise LabError(f"cannot listen on {path}: {error}") from error
        return listener

    def console_size(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return (self.own / command_line.CONSOLE_LOG).lstat().st_size
        return 0

    def read_console(self) -> str:
        """All that the machine has written on its console. The file is qemu's, so it is not trusted to be
        one."""
        try:
            descriptor = os.open(
                self.own / command_line.CONSOLE_LOG, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except FileNotFoundError:
            return ""
        with open(descriptor, encoding="utf-8", errors="replace") as file:
            return file.read()

    def console_tail(self, lines: int = 12) -> str:
        return "\n".join(deque((line for line in self.read_console().splitlines() if line.strip()), lines))

    def last_line(self) -> str:
        """The last line on the console, in a form that fits into another line."""
        lines = (clean(line) for line in reversed(self.console_tail().splitlines()))
        return next((line for line in lines if line), "")[:70]

    def qemu_words(self) -> str:
        """The last line that qemu itself has said."""
        text = (self.directory / QEMU_LOG).read_text(errors="replace").strip()
        return text.splitlines()[-1] if text else ""


def compose_initrd(machine: Machine) -> bytes:
    """The image's initrd with what makes this node of it."""
    initrd = Path(machine.initrd).read_bytes()
    # Each archive of an initrd begins at a multiple of four bytes.
    padding = bytes(-len(initrd) % 4)
    return initrd + padding + base64.b64decode(machine.seed)


def copy_sparse(source: Path, target: Path) -> None:
    """Raises LabError."""
    run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)], timeout_s=_COPY_TIMEOUT_S)


def copy_kernel(source: str, target: Path) -> None:
    """Where qemu's user can read it. Raises LabError."""
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        text = f"cannot copy the kernel {source}: {error.strerror}"
        raise LabError(text, "hafw-lab image build --fresh") from error
    target.chmod(0o644)


def _write(target: Path, content: bytes) -> None:
    target.write_bytes(content)
    target.chmod(0o644)


__all__ = ["AGENT_SOCKET", "BY_HAND", "CONSOLE_SOCKET", "QMP_SOCKET", "SSH_SOCKET", "MachineFiles"]
