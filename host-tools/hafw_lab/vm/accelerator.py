# SPDX-License-Identifier: GPL-2.0-or-later
"""Can machines run on this machine's KVM? Found out by booting their kernel on it.

Hard facts
* /dev/kvm may be there, open, and run a few instructions, and still stop at a real kernel: qemu then reports
  the state internal-error. `-accel kvm -accel tcg` does not fall back in that case.
* A kernel that gets as far as looking for its root file system has run millions of instructions of all
  kinds.
"""

import asyncio
import contextlib
import grp
import os
import subprocess
from pathlib import Path

from hafw_lab.plan.values import Machine
from hafw_lab.process import ENVIRONMENT
from hafw_lab.programs import QEMU
from hafw_lab.vm import command_line
from hafw_lab.vm.command_line import Accelerator
from hafw_lab.vm.files import copy_kernel
from hafw_lab.vm.user import find_user, plan_leash

_DEVICE = Path("/dev/kvm")
_TRY_S = 20.0
_LARGEST = 1 << 20
_REACHED = b"Kernel panic"
"""Without a disk and without an initrd that is where a kernel ends."""


async def find_accelerator(machine: Machine, directory: Path) -> tuple[Accelerator, str]:
    """What machines should run on, and in words why, if that is the slow one."""
    problem = find_obstacle() or await try_kernel(machine.kernel, directory)
    if problem is None:
        return Accelerator.KVM, ""
    return Accelerator.TCG, f" (about ten times slower than KVM, which cannot be used: {problem})"


def find_obstacle() -> str | None:
    """What can be seen without starting anything."""
    try:
        facts = _DEVICE.stat()
    except OSError:
        return f"{_DEVICE} is not there"
    if os.geteuid() != 0:
        if os.access(_DEVICE, os.R_OK | os.W_OK):
            return None
        return f"{_DEVICE} is not accessible to this user{_find_group(facts)}"
    if facts.st_gid == 0 or facts.st_mode & 0o060 != 0o060:
        return f"{_DEVICE} is accessible to root only, and qemu does not run as root"
    return None


def _find_group(facts: os.stat_result) -> str:
    if facts.st_gid == 0 or facts.st_mode & 0o060 != 0o060:
        return ""
    try:
        name = grp.getgrgid(facts.st_gid).gr_name
    except KeyError:
        return ""
    return f", who is not in its group {name}"


async def try_kernel(source: str, directory: Path) -> str | None:
    """Boot a kernel from `directory`, where qemu's user can read it, and say what is wrong, if anything.
    Raises LabError."""
    kernel = directory / "vmlinuz"
    copy_kernel(source, kernel)
    argv = [
        *(QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "256"),
        *(
            "-machine",
            "q35,usb=off",
            *command_line.plan_accelerator(Accelerator.KVM),
            *command_line.plan_sandbox(),
        ),
        *("-kernel", str(kernel), "-append", "console=ttyS0 panic=-1", "-serial", "stdio"),
    ]
    process = await asyncio.create_subprocess_exec(
        *plan_leash(find_user(), Accelerator.KVM),
        *argv,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT,
        limit=_LARGEST,
    )
    assert process.stdout is not None
    try:
        said = await asyncio.wait_for(process.stdout.readuntil(_REACHED), _TRY_S)
    except asyncio.IncompleteReadError as error:
        said = error.partial
    except (TimeoutError, asyncio.LimitOverrunError):
        return "a kernel that was started on it did not boot"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if _REACHED in said:
        return None
    lines = said.decode(errors="replace").strip().splitlines()
    return f"a kernel that was started on it stopped: {lines[-1] if lines else 'without a message'}"
