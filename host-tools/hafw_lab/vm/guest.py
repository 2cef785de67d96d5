# SPDX-License-Identifier: GPL-2.0-or-later
"""The system in a machine: commands reach it over ssh, its clock and its end over the guest agent, and its
systemd takes the orders that the init of a node made of namespaces takes."""

import time
from collections.abc import Callable, Set
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.kernel.rtnetlink import Address
from hafw_lab.plan.values import NodePlan
from hafw_lab.vm import files, guest_services
from hafw_lab.vm.boot_watch import BOOT_TIMEOUT_S
from hafw_lab.vm.guest_agent import GuestAgent
from hafw_lab.vm.guest_link import GuestLink
from hafw_lab.wire import Message

_ASKED_AGAIN = 5
_ORDER_TIMEOUT_S = 120.0
_STATUS_TIMEOUT_S = 45.0
"""Below what a client waits for the answer."""


class Guest:
    """`require_running` raises LabError while the machine cannot run what it is asked for. `on_change` is
    called when what the guest tells changes."""

    def __init__(
        self,
        plan: NodePlan,
        directory: Path,
        require_running: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        assert plan.machine is not None
        self.link = GuestLink(plan.name, directory, plan.machine.ssh_key, on_change)
        self._agent = GuestAgent(plan.name, directory / files.AGENT_SOCKET)
        self._services = tuple(service.name for service in plan.services)
        self._require_running = require_running

    @property
    def ready(self) -> bool:
        """Whether commands can reach it."""
        return self.link.ready.is_set()

    @property
    def addresses(self) -> Set[Address]:
        """As it told last."""
        return self.link.addresses

    async def _run(self, script: str, *, timeout_s: float = _ORDER_TIMEOUT_S) -> str:
        """Its output. Raises LabError."""
        self._require_running()
        return await self.link.run(script, timeout_s=timeout_s)

    # -- the system --

    async def finish_start(self) -> str:
        """Until systemd has nothing left to start; says which units failed, if any did. Raises LabError."""
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

    async def set_clock(self) -> None:
        """After a time in which it was stopped. Raises LabError."""
        await self._agent.set_clock()

    async def shut_down(self) -> None:
        """Until it has switched itself off. Raises LabError."""
        self._require_running()
        await self._agent.shut_down()

    # -- its services --

    async def order(self, op: str, **fields: object) -> Message:
        """Raises LabError."""
        script = guest_services.plan_order(op, fields)
        moment_ns = time.monotonic_ns()
        await self._run(script)
        return {"at_ns": moment_ns if op == "signal" else time.monotonic_ns()}

    async def status(self) -> Message:
        """Empty when it does not answer."""
        try:
            text = await self._run(guest_services.plan_status(self._services), timeout_s=_STATUS_TIMEOUT_S)
        except LabError:
            return {}
        return guest_services.parse_status(text, self._services)
