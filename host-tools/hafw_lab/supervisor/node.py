"""The supervisor's side of one node: what is the same for one that is made of namespaces
(namespace_node.py), for a machine (machine_node.py) and for this machine itself (host_node.py).
Standard library only."""

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Set
from ipaddress import ip_address

from hafw_lab.errors import LabError, NodeDownError
from hafw_lab.kernel.rtnetlink import Address, LinkSwitch
from hafw_lab.plan.values import Cable, NodePlan
from hafw_lab.progress import Progress
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
    async def power_on(self, tell: Progress) -> None:
        """With all services, if it is off; tells the phases that take long. Raises LabError."""

    def cut_power(self) -> None:
        """All links first, in one system call, so that the node falls silent at once; then its process, and
        with it all that runs in it. The links keep their carrier: a machine without power does not live to
        see them go."""
        if not self.alive:
            raise NodeDownError(self.plan.name)
        try:
            self._switch.block([cable.fabric for cable in self.plan.cables])
        finally:  # a node that is cut off and still runs would come back into the lab as it was
            self.kill()

    @abstractmethod
    async def shut_down(self) -> None:
        """In order, until it is off. Raises LabError."""

    @abstractmethod
    async def reset(self) -> None: ...

    @abstractmethod
    async def pause(self) -> None: ...

    @property
    def alive(self) -> bool:
        return self.pid is not None and not self._dying

    @property
    def made(self) -> bool:
        """Whether it is on, and as far as its plan says that one may enter it."""
        return self.alive

    def kill(self) -> None:
        if self.pid is not None:
            self._dying = True
            os.kill(self.pid, signal.SIGKILL)
            self._on_change()

    async def wait_if_dying(self) -> None:
        """Until the kernel has taken apart what kill() ended."""
        if self._dying:
            await self._wait_gone()

    async def _wait_gone(self) -> None:
        await asyncio.wait_for(self._gone.wait(), _END_TIMEOUT_S)

    def _begin(self, pid: int) -> None:
        self.pid = pid
        self._gone.clear()

    def _end(self) -> None:
        """Its process is gone, whoever ended it."""
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
        """Have its init carry out one order, and return the answer. Raises LabError."""

    @abstractmethod
    def open_file(self, path: str, flags: int) -> int:
        """A descriptor of a file of the node. Raises LabError."""

    @abstractmethod
    def log_names(self) -> list[str]: ...
