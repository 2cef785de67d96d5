# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor's side of one node: what is the same for one that is made of namespaces
(namespace_node.py), for a machine (machine_node.py) and for this machine itself (host_node.py).
Standard library only."""

import asyncio
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Set
from ipaddress import ip_address
from typing import assert_never

from hafw_lab.errors import LabError, NodeDownError
from hafw_lab.kernel.rtnetlink import Address, LinkSwitch
from hafw_lab.model.fault import Fault, FaultKind
from hafw_lab.plan.values import Cable, NodePlan
from hafw_lab.wire import Message

_END_TIMEOUT_S = 30.0


class Powered(ABC):
    """A node that can be switched on and off: one process on this machine, with which it ends. `on_change`
    is called when its addresses or its power change."""

    def __init__(self, plan: NodePlan, switch: LinkSwitch, on_change: Callable[[], None]) -> None:
        self.plan = plan
        self.pid: int | None = None
        self.down_links: set[str] = set()
        self._switch = switch
        self._on_change = on_change
        self._dying = False
        self._gone = asyncio.Event()

    # -- power --

    @abstractmethod
    async def power_on(self) -> None:
        """If it is off; one that is paused continues. Raises LabError."""

    # -- faults --

    async def inject(self, fault: Fault) -> int:
        """Break something, until heal(). Returns the moment, CLOCK_MONOTONIC in ns. Raises LabError."""
        moment_ns = time.monotonic_ns()
        match fault.kind:
            case FaultKind.POWER:
                self._inject_power()
            case FaultKind.SHUTDOWN:
                await self._inject_shutdown()
            case FaultKind.RESET:
                await self._inject_reset()
            case FaultKind.PAUSE:
                await self._inject_pause()
            case FaultKind.LINK:
                await self.set_link(str(fault.link), up=False)
            case FaultKind.KEEPALIVED:
                moment_ns = await self._inject_signal("keepalived", signal.SIGKILL, every=True)
            case FaultKind.KEEPALIVED_STOP:
                moment_ns = await self._inject_signal("keepalived", signal.SIGTERM)
            case FaultKind.CONNTRACKD:
                moment_ns = await self._inject_signal("conntrackd", signal.SIGKILL)
            case FaultKind.AGENT:
                moment_ns = await self._inject_signal("agent", signal.SIGKILL)
            case FaultKind.BUS:
                moment_ns = await self._inject_signal("bus", signal.SIGKILL)
            case _:
                assert_never(fault.kind)
        return moment_ns

    async def heal(self) -> None:
        """Repair everything that is broken: it is switched on, its links have carrier, and what does not run
        is started, in the order of a boot. Raises LabError."""
        await self.power_on()
        self.require_made()
        for name in sorted(self.down_links):
            await self.set_link(name, up=True)
        for service in self.plan.services:
            await self.order("start", service=service.name)

    def _inject_power(self) -> None:
        """All links first, in one system call, so that the node falls silent at once; then its process, and
        with it all that runs in it. The links keep their carrier: a machine without power does not live to
        see them go."""
        if not self.alive:
            raise NodeDownError(self.plan.name)
        try:
            self._switch.block([cable.fabric for cable in self.plan.cables])
        finally:  # a node that is cut off and still runs would come back into the lab as it was
            self._kill()

    @abstractmethod
    async def _inject_shutdown(self) -> None:
        """In order, until it is off. Raises LabError."""

    @abstractmethod
    async def _inject_reset(self) -> None: ...

    @abstractmethod
    async def _inject_pause(self) -> None: ...

    async def _inject_signal(self, service: str, number: signal.Signals, *, every: bool = False) -> int:
        """The same in every kind of node; with `every`, to all processes of the service."""
        self.require_made()
        fields = {"service": service, "signal": int(number), "every": every}
        return int((await self.order("signal", **fields))["at_ns"])

    # -- its process --

    @property
    def alive(self) -> bool:
        return self.pid is not None and not self._dying

    @property
    def made(self) -> bool:
        """Whether it is on, and as far as its plan says that one may enter it."""
        return self.alive

    def require_made(self) -> None:
        """Raises LabError for one that is on its way up, and may be entered only later."""
        if self.alive and not self.made:
            raise LabError(f"{self.plan.name} is just being switched on", "try it again in a moment")

    def end(self) -> None:
        """With the lab."""
        self._kill()

    def _kill(self) -> None:
        if self.pid is not None:
            self._dying = True
            os.kill(self.pid, signal.SIGKILL)
            self._on_change()

    async def wait_if_dying(self) -> None:
        """Until the kernel has taken apart what was killed."""
        if self._dying:
            await self._wait_gone()

    async def _wait_gone(self) -> None:
        await asyncio.wait_for(self._gone.wait(), _END_TIMEOUT_S)

    def _begin(self, pid: int) -> None:
        self.pid = pid
        self._gone.clear()

    def _ended(self) -> None:
        """Its process is gone, for any reason."""
        self.pid, self._dying = None, False
        self._gone.set()
        self._on_change()

    # -- links --

    async def set_link(self, name: str, *, up: bool) -> None:
        """Carrier on the node's interface `name`. Raises LabError for an unknown one."""
        cable = next((cable for cable in self.plan.cables if cable.name == name), None)
        if cable is None:
            known = ", ".join(cable.name for cable in self.plan.cables)
            raise LabError(f"{self.plan.name} has no link {name!r}", f"its links are {known}")
        await self._set_carrier(cable, up=up)
        (self.down_links.discard if up else self.down_links.add)(name)

    @abstractmethod
    async def _set_carrier(self, cable: Cable, *, up: bool) -> None: ...

    def holds(self, vips: tuple[str, ...]) -> list[str]:
        """Which of these addresses the node's kernel has, as far as it is known here."""
        return [vip for vip in vips if self.alive and ip_address(vip) in self._addresses]

    @property
    @abstractmethod
    def _addresses(self) -> Set[Address]: ...

    # -- inside --

    @abstractmethod
    async def order(self, op: str, **fields: object) -> Message:
        """Have its init carry out one request, and return the answer. Raises LabError."""

    @abstractmethod
    def open_file(self, path: str, flags: int) -> int:
        """A descriptor of a file of the node. Raises LabError."""

    @abstractmethod
    def log_names(self) -> list[str]: ...
