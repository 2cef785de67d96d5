# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor's side of a node that is a virtual machine. What it is made of: files (vm/files.py), its
qemu (vm/qemu.py), the system in that (vm/guest.py), its boot (vm/boot.py), and a screen, if it has one
(vm/spice.py). What is left here is how these go together.

Hard facts
* qemu tells by VSERPORT_CHANGE when the guest opens or closes a serial port; that is how a reboot, a restart
  of the sshd on the port and the end of a boot are noticed.
* A bridge port that is blocked lets no frame pass, and the machine does not notice; see LinkSwitch.
"""

import asyncio
import socket
from collections.abc import Callable, Set
from pathlib import Path

from hafw_lab.errors import LabError, NodeDownError
from hafw_lab.kernel.rtnetlink import Address, LinkSwitch
from hafw_lab.plan.values import Cable, NodePlan
from hafw_lab.progress import Progress
from hafw_lab.supervisor.node import Powered
from hafw_lab.vm import command_line, display
from hafw_lab.vm.boot import wait_up
from hafw_lab.vm.command_line import Accelerator
from hafw_lab.vm.files import MachineFiles
from hafw_lab.vm.guest import Guest
from hafw_lab.vm.qemu import Qemu
from hafw_lab.vm.qmp import Fields
from hafw_lab.vm.spice import SPICE_SOCKET, Door, Screen
from hafw_lab.vm.spice_certificates import make_certificates
from hafw_lab.vm.user import find_user
from hafw_lab.wire import Message


def silent(_: str) -> None:
    """For a boot without a viewer."""


class PoweredMachine(Powered):
    """A cut of its power leaves what the guest has written on its disk; what it has not is lost, as with a
    real machine."""

    def __init__(
        self,
        plan: NodePlan,
        lab: Path,
        accelerator: Accelerator,
        switch: LinkSwitch,
        on_change: Callable[[], None],
        door: socket.socket | None = None,
    ) -> None:
        """`door` listens on the network for those who look at the machine's screen."""
        super().__init__(plan, switch, on_change)
        assert plan.machine is not None
        self._snapshot = plan.machine.snapshot
        user = find_user()
        self.files = MachineFiles(plan, lab, user)
        self.screen = _make_screen(plan, self.files.own, door, user)
        self._qemu = Qemu(plan, accelerator, self.files, user)
        self._guest = Guest(plan, self.files.directory, self._require_running, on_change)
        self._begun = False

    @property
    def accelerator(self) -> Accelerator:
        return self._qemu.accelerator

    @property
    def paused(self) -> bool:
        return self._qemu.paused

    @property
    def ready(self) -> bool:
        """Whether commands can reach the guest."""
        return self._guest.ready

    def _require_on(self) -> Qemu:
        """Raises NodeDownError."""
        if not self.alive:
            raise NodeDownError(self.plan.name)
        return self._qemu

    def _require_running(self) -> None:
        """Raises LabError."""
        if self._require_on().paused:
            name = self.plan.name
            raise LabError(f"{name} is paused", f"let it continue with: hafw-lab heal {name}")

    # -- power --

    async def power_on(self) -> None:
        """Until the system in it has finished its start."""
        await self.wait_if_dying()
        if self.pid is None:
            await self.boot()
            return
        await self.resume()
        await self._wait_up(silent)

    async def boot(self, tell: Progress = silent, together: asyncio.Barrier | None = None) -> None:
        """Switch on, until the system in it has finished its start. Machines with a snapshot continue
        `together`. Raises LabError, and then it is off."""
        self._qemu.unplug()
        self.down_links.clear()
        self.files.write(self.plan, self.accelerator)
        tell("disk")
        warm = bool(self._snapshot) and not self._begun
        await self._spawn(halted=warm)
        tell("qemu")
        try:
            if warm:
                await self._wake(tell, together)
            self._begun = True
            await self._wait_up(tell)
            if warm:
                await self._guest.set_clock()
        except LabError:
            self._kill()
            raise

    async def _spawn(self, *, halted: bool) -> None:
        self._begin(self._qemu.launch(self._off, halted=halted))
        try:
            qmp = await self._qemu.connect(self._on_event)
        except (LabError, OSError) as error:
            self._kill()
            await self.wait_if_dying()
            raise self._qemu.describe_failure(error) from error
        if self.screen is not None:
            self.screen.attach(qmp, self.files.listen(SPICE_SOCKET, backlog=64))
        self._guest.link.start()
        self._on_change()

    async def _wake(self, tell: Progress, together: asyncio.Barrier | None) -> None:
        await self._require_on().load_snapshot()
        if together is not None:
            await together.wait()
        await self._require_on().resume()
        tell("snapshot loaded")

    async def _wait_up(self, tell: Progress) -> None:
        await wait_up(self.plan.name, self.files, self._guest, lambda: self.alive, tell)

    async def resume(self) -> None:
        """Let a paused machine continue, and talk to it again."""
        self._guest.link.pick_up()
        if self.paused:
            await self._require_on().resume()
            self._on_change()

    def _off(self) -> None:
        self._qemu.ended()
        self._guest.link.stop()
        if self.screen is not None:
            self.screen.detach()
        self._ended()

    def _on_event(self, name: str, data: Fields) -> None:
        """What qemu tells."""
        if self.screen is not None:
            self.screen.on_event(name, data)
        if name == "VSERPORT_CHANGE" and data.get("id") == command_line.SSH_PORT:
            self._guest.link.set_port(is_open=bool(data.get("open")))
        elif name == "RESET":
            self._guest.link.set_port(is_open=False)

    # -- snapshots --

    async def hang_up(self) -> None:
        """End the connection into the guest, until resume()."""
        await self._guest.link.hang_up()

    async def save(self, target: Path) -> None:
        """Write the machine, which must be paused, with everything in it to the disk `target`. Raises
        LabError."""
        await self._require_on().save_snapshot(target)

    # -- faults --

    async def _inject_shutdown(self) -> None:
        """The guest does it, when its agent is told to."""
        await self._guest.shut_down()
        await self._wait_gone()

    async def _inject_reset(self) -> None:
        """The reset button: the machine begins again with what its disk has."""
        await self._require_on().reset()
        self._guest.link.forget()
        self._on_change()

    async def _inject_pause(self) -> None:
        """The machine is paused with everything in it, until power_on()."""
        await self._require_on().pause()
        self._on_change()

    async def _set_carrier(self, cable: Cable, *, up: bool) -> None:
        await self._require_on().set_carrier(cable.name, up=up)

    @property
    def _addresses(self) -> Set[Address]:
        """A paused one answers for none."""
        return frozenset() if self.paused else self._guest.addresses

    # -- inside --

    async def order(self, op: str, **fields: object) -> Message:
        """The orders that a node's init takes. The status is empty when the machine does not answer; what it
        holds and whether it is on is known without."""
        if op == "status":
            return await self._guest.status() if self.ready and not self.paused else {}
        return await self._guest.order(op, **fields)

    def open_file(self, path: str, _flags: int) -> int:
        raise LabError(f"{self.plan.name} is a machine, so {path} is not a file of this one")

    def log_names(self) -> list[str]:
        return [*(f"{service.name}.journal" for service in self.plan.services), "console.log"]


def _make_screen(plan: NodePlan, own: Path, door: socket.socket | None, user: int) -> Screen | None:
    """`own` is the directory in which its qemu works."""
    if plan.machine is None or not plan.machine.video:
        return None
    if door is None:
        return Screen(plan.name, own, None)
    authority = make_certificates(plan.name, own / display.CERTIFICATES, user)
    return Screen(plan.name, own, Door(door, authority))
