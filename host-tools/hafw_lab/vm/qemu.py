# SPDX-License-Identifier: GPL-2.0-or-later
"""The qemu of one machine, one process after the other: its taps, what it is asked over its monitor, and its
snapshots."""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from hafw_lab.errors import LabError, NodeDownError
from hafw_lab.kernel.taps import open_taps
from hafw_lab.plan.values import NodePlan
from hafw_lab.vm import command_line, files
from hafw_lab.vm.command_line import Accelerator
from hafw_lab.vm.files import MachineFiles, copy_sparse
from hafw_lab.vm.process import start_qemu, watch_end
from hafw_lab.vm.qmp import Fields, Qmp

_SNAPSHOT = "hafw-lab"
_ON_ITS_DISK: Mapping[str, object] = {"tag": _SNAPSHOT, "devices": [command_line.DISK]}
_ITS_MEMORY: Mapping[str, object] = {"vmstate": command_line.DISK}


class Qemu:
    """Runs as `user`. What asks it raises LabError, or NodeDownError when there is none."""

    def __init__(self, plan: NodePlan, accelerator: Accelerator, own: MachineFiles, user: int) -> None:
        self.accelerator = accelerator
        self.paused = False
        self._plan, self._files, self._user = plan, own, user
        self._taps: list[int] = []
        self._qmp: Qmp | None = None

    # -- its process --

    def launch(self, on_end: Callable[[], None], *, halted: bool) -> int:
        """Its pid; `halted`, the machine does not begin before resume(). `on_end` is called when it is gone,
        for any reason. Raises LabError, OSError."""
        self._taps = open_taps(self._plan.cables)
        process = start_qemu(
            self._plan, self.accelerator, self._files, self._user, self._taps, halted=halted
        )
        watch_end(process, on_end)
        return process.pid

    async def connect(self, on_event: Callable[[str, Fields], None]) -> Qmp:
        """To its monitor, which tells what happens. Raises LabError, OSError."""
        path = self._files.directory / files.QMP_SOCKET
        self._qmp = await Qmp.connect(self._plan.name, path, on_event, lambda: None)
        return self._qmp

    def ended(self) -> None:
        """What belongs to a process that is gone, and not to the next one."""
        self.paused = False
        self._qmp = None

    def unplug(self) -> None:
        """Its taps stay beyond its end: with them the carrier of its links would go."""
        for descriptor in self._taps:
            os.close(descriptor)
        self._taps.clear()

    def describe_failure(self, error: Exception) -> LabError:
        """Why it does not start, in its own words if it has said any."""
        text = f"{self._plan.name}: qemu does not start: {self._files.qemu_words() or error}"
        return LabError(text, f"its command line: {self._files.directory / files.BY_HAND}")

    # -- its machine --

    async def ask(self, command: str, **arguments: object) -> object:
        return await self._monitor.execute(command, **arguments)

    async def reset(self) -> None:
        await self.ask("system_reset")

    async def pause(self) -> None:
        await self.ask("stop")
        self.paused = True

    async def resume(self) -> None:
        await self.ask("cont")
        self.paused = False

    async def set_carrier(self, link: str, *, up: bool) -> None:
        await self.ask("set_link", name=command_line.link_id(link), up=up)

    # -- snapshots --

    async def load_snapshot(self) -> None:
        """Into a machine that is halted."""
        await self._monitor.run_job("snapshot-load", **_ON_ITS_DISK, **_ITS_MEMORY)

    async def save_snapshot(self, target: Path) -> None:
        """Write the machine, which must be paused, with everything in it to the disk `target`."""
        await self._monitor.run_job("snapshot-save", **_ON_ITS_DISK, **_ITS_MEMORY)
        try:
            # in a thread: hundreds of megabytes, and the others want to be heard meanwhile
            await asyncio.to_thread(copy_sparse, self._files.disk, target)
        finally:
            await self._monitor.run_job("snapshot-delete", **_ON_ITS_DISK)

    @property
    def _monitor(self) -> Qmp:
        if self._qmp is None:
            raise NodeDownError(self._plan.name)
        return self._qmp
