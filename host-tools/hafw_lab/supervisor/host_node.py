# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor's side of the node that is this machine itself: only its links are the lab's. Standard
library only."""

import contextlib
import os
from collections.abc import Callable, Set

from hafw_lab.errors import LabError
from hafw_lab.kernel.namespaces import inside_network
from hafw_lab.kernel.rtnetlink import Address, LinkSwitch
from hafw_lab.plan import fabric
from hafw_lab.plan.host_link import describe_change, require_room
from hafw_lab.plan.values import Cable, NodePlan
from hafw_lab.process import run, run_ip
from hafw_lab.progress import Progress
from hafw_lab.supervisor.node import Powered
from hafw_lab.wire import Message


class PoweredHost(Powered):
    """It is on as long as the lab is: the supervisor itself is the process with which it ends. `home` is the
    path of the network namespace from which the lab was started."""

    def __init__(self, plan: NodePlan, home: str, switch: LinkSwitch, on_change: Callable[[], None]) -> None:
        super().__init__(plan, switch, on_change)
        self._home = home
        self._begin(os.getpid())

    def plug_in(self, tell: Progress) -> None:
        """Make its links. Raises LabError, before anything is changed if there is no room for them."""
        with open(self._home, "rb") as file, inside_network(file.fileno()):
            addresses = run(["ip", "-json", "address"])
            for version in ("-4", "-6"):
                require_room(self.plan, addresses, run(["ip", version, "-json", "route"]))
        tell(describe_change(self.plan))
        run_ip(fabric.plan_cables(self.plan.cables, self._home))
        with open(self._home, "rb") as file, inside_network(file.fileno()):
            run_ip(self.plan.network)

    def end(self) -> None:
        """Of all that is this machine, only the links end with the lab."""
        with contextlib.suppress(LabError):  # they were not made, or have been removed
            run_ip(fabric.plan_unplug(self.plan.cables))

    # -- what it does not let a lab do --

    async def power_on(self) -> None:
        """It is on."""

    def _inject_power(self) -> None:
        raise self._refusal("switch off")

    async def _inject_shutdown(self) -> None:
        raise self._refusal("shut down")

    async def _inject_reset(self) -> None:
        raise self._refusal("reset")

    async def _inject_pause(self) -> None:
        raise self._refusal("pause")

    def _refusal(self, what: str) -> LabError:
        faults = ", ".join(f"link:{cable.name}" for cable in self.plan.cables)
        text = f"{self.plan.name} is this machine itself, which a lab does not {what}"
        return LabError(text, f"what can fail is {faults}")

    async def order(self, op: str, **_fields: object) -> Message:
        if op == "status":
            return {}
        raise LabError(f"{self.plan.name} is this machine itself", "the lab runs no services on it")

    def open_file(self, path: str, _flags: int) -> int:
        raise LabError(f"{self.plan.name} is this machine itself, so {path} is a file of this one")

    def log_names(self) -> list[str]:
        return []

    # -- links --

    async def _set_carrier(self, cable: Cable, *, up: bool) -> None:
        self._switch.set([cable.fabric], up=up)

    @property
    def _addresses(self) -> Set[Address]:
        """None that a firewall could have."""
        return frozenset()
