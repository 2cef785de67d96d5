# SPDX-License-Identifier: GPL-2.0-or-later
"""The start of a machine's qemu, with the descriptors that it takes over, and the notice of its end."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from hafw_lab.plan.values import NodePlan
from hafw_lab.process import ENVIRONMENT
from hafw_lab.vm import command_line
from hafw_lab.vm.command_line import Accelerator, Wires
from hafw_lab.vm.files import AGENT_SOCKET, CONSOLE_SOCKET, QEMU_LOG, QMP_SOCKET, SSH_SOCKET, MachineFiles
from hafw_lab.vm.spice import make_password
from hafw_lab.vm.user import plan_leash


def start_qemu(
    plan: NodePlan,
    accelerator: Accelerator,
    files: MachineFiles,
    user: int,
    taps: Sequence[int],
    *,
    halted: bool,
) -> subprocess.Popen[bytes]:
    """As `user`, and in the directory that is its own. Raises LabError, OSError."""
    machine = plan.machine
    assert machine is not None
    with ExitStack() as stack:

        def own(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        base = own(os.open(machine.disk, os.O_RDONLY | os.O_CLOEXEC))
        names = (QMP_SOCKET, CONSOLE_SOCKET, AGENT_SOCKET, SSH_SOCKET)
        qmp, console, agent, ssh = (stack.enter_context(files.listen(name)).fileno() for name in names)
        password = own(make_password()) if machine.video else None
        wires = Wires(base, tuple(taps), qmp, console, agent, ssh, password)
        log = stack.enter_context((files.directory / QEMU_LOG).open("ab"))
        argv = command_line.plan_qemu(plan, accelerator, wires, halted=halted)
        return subprocess.Popen(
            [*plan_leash(user, accelerator), *argv],
            cwd=files.own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=wires.descriptors(),
            env=ENVIRONMENT,
            start_new_session=True,
            umask=0o077,
        )


def watch_end(process: subprocess.Popen[bytes], on_end: Callable[[], None]) -> None:
    """Calls `on_end` once, from the running loop, when the process is gone."""
    descriptor = os.pidfd_open(process.pid)
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        process.wait()
        on_end()

    loop.add_reader(descriptor, ended)
