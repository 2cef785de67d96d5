"""The supervisor's side of a node that is a qemu machine.

Hard facts
* qemu tells by VSERPORT_CHANGE when the guest opens or closes a serial port; that is how a reboot, a restart
  of the sshd on the port and the end of a boot are noticed.
* A bridge port that is blocked lets no frame pass, and the machine does not notice; see LinkSwitch.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Set
from pathlib import Path

from hafw_lab.errors import LabError, NodeDownError
from hafw_lab.kernel.rtnetlink import Address, LinkSwitch
from hafw_lab.kernel.taps import open_taps
from hafw_lab.plan.values import Cable, NodePlan
from hafw_lab.progress import Progress
from hafw_lab.supervisor.node import Powered
from hafw_lab.vm import command_line, display, files, guest_services
from hafw_lab.vm.boot_watch import BOOT_TIMEOUT_S, BootWatch
from hafw_lab.vm.command_line import Accelerator
from hafw_lab.vm.files import MachineFiles, copy_sparse
from hafw_lab.vm.guest_agent import GuestAgent
from hafw_lab.vm.guest_link import GuestLink
from hafw_lab.vm.process import start_qemu, watch_end
from hafw_lab.vm.qmp import Fields, Qmp
from hafw_lab.vm.spice import SPICE_SOCKET, Door, Screen
from hafw_lab.vm.spice_certificates import make_certificates
from hafw_lab.vm.user import find_user
from hafw_lab.wire import Message

_LOOK_S = 0.5
_ASKED_AGAIN = 5
_SNAPSHOT = "hafw-lab"
_ORDER_TIMEOUT_S = 120.0
_STATUS_TIMEOUT_S = 45.0
"""Below what a client waits for the answer."""


def silent(_: str) -> None:
    """For a boot that nobody watches."""


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
        self._machine = plan.machine
        self.paused = False
        self._user = find_user()
        self.files = MachineFiles(plan, lab, self._user)
        self.accelerator = accelerator
        self._taps: list[int] = []
        self._qmp: Qmp | None = None
        self.screen: Screen | None = None
        if self._machine.video:
            self.screen = Screen(plan.name, self.files.own, self._furnish(door))
        self._link = GuestLink(plan.name, self.files.directory, self._machine.ssh_key, on_change)
        self._guest_agent = GuestAgent(plan.name, self.files.directory / files.AGENT_SOCKET)
        self._begun = False

    def _furnish(self, door: socket.socket | None) -> Door | None:
        if door is None:
            return None
        place = self.files.own / display.CERTIFICATES
        return Door(door, make_certificates(self.plan.name, place, self._user))

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
        """Switch on, until the system in it has finished its start. Machines with a snapshot go on
        `together`. Raises LabError, and then it is off."""
        self._forget_last_life()
        self.files.write(self.plan, self.accelerator)
        tell("disk")
        warm = bool(self._machine.snapshot) and not self._begun
        await self._spawn(halted=warm)
        tell("qemu")
        try:
            if warm:
                await self._job("snapshot-load")
                if together is not None:
                    await together.wait()
                await self._ask_qemu("cont")
                tell("snapshot loaded")
            self._begun = True
            await self._wait_up(tell)
            if warm:  # the clock stood still meanwhile
                await self._guest_agent.set_clock()
        except LabError:
            self._kill()
            raise

    async def _spawn(self, *, halted: bool) -> None:
        self._taps = open_taps(self.plan.cables)
        process = start_qemu(self.plan, self.accelerator, self.files, self._user, self._taps, halted=halted)
        self._begin(process.pid)
        watch_end(process, self._off)
        path = self.files.directory / files.QMP_SOCKET
        try:
            self._qmp = await Qmp.connect(self.plan.name, path, self._on_event, lambda: None)
        except (LabError, OSError) as error:
            self._kill()
            await self.wait_if_dying()
            text = f"{self.plan.name}: qemu does not start: {self.files.qemu_words() or error}"
            hint = f"its command line: {self.files.directory / files.BY_HAND}"
            raise LabError(text, hint) from error
        if self.screen is not None:
            self.screen.attach(self._qmp, self.files.listen(SPICE_SOCKET, backlog=64))
        self._link.start()
        self._on_change()

    def _off(self) -> None:
        self.paused = False
        self._link.stop()
        if self.screen is not None:
            self.screen.detach()
        self._ended()

    def _forget_last_life(self) -> None:
        for descriptor in self._taps:
            os.close(descriptor)
        self._taps.clear()
        self.down_links.clear()

    async def _inject_shutdown(self) -> None:
        """The guest does it, when its agent is told to."""
        if not self.alive:
            raise NodeDownError(self.plan.name)
        if self.paused:
            raise self._is_paused()
        await self._guest_agent.shut_down()
        await self._wait_gone()

    async def _inject_reset(self) -> None:
        """The reset button: the machine begins again with what its disk has."""
        await self._ask_qemu("system_reset")
        self._link.forget()
        self._on_change()

    async def _inject_pause(self) -> None:
        """The machine stands still with everything in it, until power_on()."""
        await self._ask_qemu("stop")
        self.paused = True
        self._on_change()

    async def resume(self) -> None:
        """Let a paused machine go on, and talk to it again."""
        self._link.pick_up()
        if self.paused:
            await self._ask_qemu("cont")
            self.paused = False
            self._on_change()

    @property
    def ready(self) -> bool:
        """Whether commands can reach the guest."""
        return self._link.ready.is_set()

    # -- snapshots --

    async def hang_up(self) -> None:
        """End the connection into the guest, until resume()."""
        await self._link.hang_up()

    async def save(self, target: Path) -> None:
        """Write the machine, which must be paused, with everything in it to the disk `target`. Raises
        LabError."""
        await self._job("snapshot-save")
        try:
            # in a thread: hundreds of megabytes, and the others want to be heard meanwhile
            await asyncio.to_thread(copy_sparse, self.files.disk, target)
        finally:
            await self._job("snapshot-delete")

    async def _job(self, command: str) -> None:
        """A job of qemu's about the snapshot. Raises LabError when it fails."""
        fields: Fields = {"tag": _SNAPSHOT, "devices": [command_line.DISK]}
        if command != "snapshot-delete":
            fields["vmstate"] = command_line.DISK
        await self._require_qmp().run_job(command, **fields)

    # -- links --

    async def _set_carrier(self, cable: Cable, *, up: bool) -> None:
        await self._ask_qemu("set_link", name=command_line.link_id(cable.name), up=up)

    @property
    def _addresses(self) -> Set[Address]:
        """As the guest told last; a paused one answers for none."""
        return frozenset() if self.paused else self._link.addresses

    # -- qemu --

    def _require_qmp(self) -> Qmp:
        if not self.alive or self._qmp is None:
            raise NodeDownError(self.plan.name)
        return self._qmp

    async def _ask_qemu(self, command: str, **arguments: object) -> object:
        return await self._require_qmp().execute(command, **arguments)

    def _on_event(self, name: str, data: Fields) -> None:
        if self.screen is not None:
            self.screen.on_event(name, data)
        if name == "VSERPORT_CHANGE" and data.get("id") == command_line.SSH_PORT:
            self._link.set_port(is_open=bool(data.get("open")))
        elif name == "RESET":
            self._link.set_port(is_open=False)

    # -- the boot --

    async def _wait_up(self, tell: Progress) -> None:
        """Raises LabError with the console's last lines when nothing moves any more."""
        watch = BootWatch(self.files, self._link, tell)
        while not self.ready:
            watch.look()
            if not self.alive:
                raise self._stopped(f"its qemu ended: {self.files.qemu_words() or 'without a word'}")
            stall_s = watch.find_stall_s()
            if stall_s is not None:
                raise self._stopped(f"nothing has moved for {stall_s:.0f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._link.ready.wait(), _LOOK_S)
        tell("network")
        state = await self._finish_start()
        tell("services" if state == "running" else f"services, but {state}")

    async def _finish_start(self) -> str:
        """Until systemd has nothing left to start; says which units failed, if any did."""
        state = ""
        for _ in range(_ASKED_AGAIN):
            text = await self._run("systemctl is-system-running --wait || true", timeout_s=BOOT_TIMEOUT_S)
            state = text.strip()
            if state in ("running", "degraded"):
                break  # else systemd was too busy to answer
        if state != "degraded":
            return state
        failed = await self._run("systemctl list-units --failed --plain --no-legend | cut -d' ' -f1")
        return "failed: " + ", ".join(failed.split())

    def _stopped(self, what: str) -> LabError:
        tail = self.files.console_tail()
        log = self.files.own / command_line.CONSOLE_LOG
        return LabError(
            f"{self.plan.name} does not come up: {what}; the last on its console ({log}):\n{tail}"
        )

    # -- orders --

    async def _run(self, script: str, *, timeout_s: float = _ORDER_TIMEOUT_S) -> str:
        """A script in the guest; its output. Raises LabError."""
        if not self.alive:
            raise NodeDownError(self.plan.name)
        if self.paused:
            raise self._is_paused()
        return await self._link.run(script, timeout_s=timeout_s)

    def _is_paused(self) -> LabError:
        return LabError(f"{self.plan.name} is paused", f"let it go on with: hafw-lab heal {self.plan.name}")

    async def order(self, op: str, **fields: object) -> Message:
        """The orders that a node's init takes, carried out by the guest's systemd."""
        services = tuple(service.name for service in self.plan.services)
        if op == "status":
            return await self._status(services)
        script = guest_services.plan_order(op, fields)
        moment_ns = time.monotonic_ns()
        await self._run(script)
        return {"at_ns": moment_ns if op == "signal" else time.monotonic_ns()}

    async def _status(self, services: tuple[str, ...]) -> Message:
        """Empty when the machine does not answer; what it holds and whether it is on is known without."""
        if not self.ready or self.paused:
            return {}
        try:
            text = await self._run(guest_services.plan_status(services), timeout_s=_STATUS_TIMEOUT_S)
        except LabError:
            return {}
        return guest_services.parse_status(text, services)

    # -- files --

    def open_file(self, path: str, _flags: int) -> int:
        raise LabError(f"{self.plan.name} is a machine, so {path} is not a file of this one")

    def log_names(self) -> list[str]:
        return [*(f"{service.name}.journal" for service in self.plan.services), "console.log"]
