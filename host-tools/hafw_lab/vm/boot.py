# SPDX-License-Identifier: GPL-2.0-or-later
"""The start of a machine, from its first instruction until the system in it has started everything."""

import asyncio
import contextlib
from collections.abc import Callable

from hafw_lab.errors import LabError
from hafw_lab.progress import Progress
from hafw_lab.vm import command_line
from hafw_lab.vm.boot_watch import BootWatch
from hafw_lab.vm.files import MachineFiles
from hafw_lab.vm.guest import Guest

_LOOK_S = 0.5


async def wait_up(
    name: str, own: MachineFiles, guest: Guest, is_on: Callable[[], bool], tell: Progress
) -> None:
    """Tells the phases. Raises LabError with the console's last lines when nothing moves any more, or when
    the machine goes off."""
    watch = BootWatch(own, guest.link, tell)
    while not guest.ready:
        watch.look()
        if not is_on():
            raise _stopped(name, own, f"its qemu ended: {own.qemu_words() or 'without a message'}")
        stall_s = watch.find_stall_s()
        if stall_s is not None:
            raise _stopped(name, own, f"no progress for {stall_s:.0f} s")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(guest.link.ready.wait(), _LOOK_S)
    tell("network")
    state = await guest.finish_start()
    tell("services" if state == "running" else f"services, but {state}")


def _stopped(name: str, own: MachineFiles, what: str) -> LabError:
    log = own.own / command_line.CONSOLE_LOG
    text = f"{name} does not come up: {what}; the last on its console ({log}):"
    return LabError(f"{text}\n{own.console_tail()}")
