# SPDX-License-Identifier: GPL-2.0-or-later
"""The nodes of a running lab, in the process that keeps them: made, started and ended together, and which of
them is primary. Standard library only."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.kernel.rtnetlink import LinkSwitch
from hafw_lab.plan import fabric
from hafw_lab.plan.values import LabPlan
from hafw_lab.process import run_ip
from hafw_lab.progress import Progress
from hafw_lab.supervisor.fabric_namespace import load_connection_tracking, quiet_fabric
from hafw_lab.supervisor.host_node import PoweredHost
from hafw_lab.supervisor.machine_node import PoweredMachine
from hafw_lab.supervisor.namespace_node import PoweredNamespaces
from hafw_lab.supervisor.node import Powered
from hafw_lab.vm.accelerator import find_accelerator

_FIRST_PRIMARY_TIMEOUT_S = 20.0
_FIRST_PRIMARY_MACHINE_S = 180.0
_LAST_SERVICE = "keepalived"


class LabNodes:
    def __init__(
        self, plan: LabPlan, stage: Path, directory: Path | None, doors: dict[str, socket.socket], home: str
    ) -> None:
        """`directory` is for the machines, if there are any. `doors` listen on the network for those who
        look at their screens. `home` is the path of the network namespace from which the lab was started."""
        self.plan = plan
        self.home = home
        self._stage = stage
        self._directory = directory
        self._doors = doors
        self._switch = LinkSwitch()
        self._changed = asyncio.Event()
        self._nodes: dict[str, Powered] = {}
        # A machine that boots keeps one processor busy.
        self._boots = asyncio.Semaphore(os.cpu_count() or 1)

    def __iter__(self) -> Iterator[Powered]:
        return iter(self._nodes.values())

    def find(self, name: str) -> Powered | None:
        """None for one that is not made yet. Raises LabError for one that will not be."""
        known = [node.name for node in self.plan.nodes]
        if name not in known:
            raise LabError(f"there is no node {name!r}", f"the nodes are {', '.join(known)}")
        return self._nodes.get(name)

    @property
    def machines(self) -> list[PoweredMachine]:
        return [node for node in self if isinstance(node, PoweredMachine)]

    # -- the pair --

    def _notice(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def primary(self) -> str | None:
        """The firewall that has all virtual addresses, if no other one has any of them."""
        vips = self.plan.vips
        made = [self._nodes[name] for name in self.plan.firewalls if name in self._nodes]
        holders = [node for node in made if node.holds(vips)]
        if len(holders) != 1 or len(holders[0].holds(vips)) < len(vips):
            return None
        return holders[0].plan.name

    async def wait_primary(self, wanted: str | None, timeout_s: float) -> str:
        """Until `wanted`, or any firewall for None, is primary(). Raises LabError."""

        async def wait() -> str:
            while True:
                changed = self._changed
                found = self.primary()
                if found is not None and wanted in (None, found):
                    return found
                await changed.wait()

        try:
            return await asyncio.wait_for(wait(), timeout_s)
        except TimeoutError as error:
            raise self._no_primary(wanted, timeout_s) from error

    def _no_primary(self, wanted: str | None, timeout_s: float) -> LabError:
        holds = {name: self._nodes[name].holds(self.plan.vips) for name in self.plan.firewalls}
        told = "; ".join(f"{name} has {', '.join(vips) or 'none'}" for name, vips in holds.items())
        text = (
            f"{wanted} did not become primary within {timeout_s:g} s" if wanted else "no firewall is primary"
        )
        return LabError(f"{text} (virtual addresses: {told})", "hafw-lab logs shows what the daemons said")

    # -- start and end --

    async def build(self, progress: Progress) -> None:
        """Everything up to a pair with a primary, or LabError."""
        quiet_fabric()
        load_connection_tracking()
        run_ip(fabric.plan_bridges(self.plan.bridges))
        progress("bridges " + " ".join(bridge.name for bridge in self.plan.bridges))
        await self._make_nodes(progress)
        for node in self:
            if isinstance(node, PoweredHost):
                node.plug_in(progress)
        others = [node for node in self if isinstance(node, PoweredNamespaces)]
        await asyncio.gather(*(self._boot(node, progress) for node in others))
        warm = [node for node in self.machines if node.plan.machine and node.plan.machine.snapshot]
        if warm:
            await self._wake_together(warm, progress)
            return
        hosts = [node for node in self.machines if not node.plan.firewall]
        await asyncio.gather(
            self._start_pair(progress), *(self._boot_machine(one, progress) for one in hosts)
        )

    async def _make_nodes(self, progress: Progress) -> None:
        machines = [node.machine for node in self.plan.nodes if node.machine]
        if machines:
            assert self._directory is not None
            accelerator, reason = await find_accelerator(machines[0], self._directory)
            progress(f"machines run on {accelerator.value.upper()}{reason}")
        for node in self.plan.nodes:
            if node.machine:
                assert self._directory is not None
                door = self._doors.get(node.name)
                made = PoweredMachine(node, self._directory, accelerator, self._switch, self._notice, door)
                self._nodes[node.name] = made
            elif node.host:
                self._nodes[node.name] = PoweredHost(node, self.home, self._switch, self._notice)
            else:
                self._nodes[node.name] = PoweredNamespaces(node, self._stage, self._switch, self._notice)

    async def _wake_together(self, warm: list[PoweredMachine], progress: Progress) -> None:
        """Machines with a snapshot resume where they were, at one moment."""
        together = asyncio.Barrier(len(warm))
        await asyncio.gather(*(node.boot(_teller(node, progress), together) for node in warm))
        found = await self.wait_primary(None, _FIRST_PRIMARY_MACHINE_S)
        progress(f"primary is {found}")

    async def _start_pair(self, progress: Progress) -> None:
        """The first to start would win and, without pre-emption, stay: so the one with the higher priority
        starts first, and a machine boots only when that one is primary."""
        for name in self.plan.firewalls:
            node, limit_s = self._nodes[name], _FIRST_PRIMARY_TIMEOUT_S
            if isinstance(node, PoweredMachine):
                await self._boot_machine(node, progress)
                limit_s = _FIRST_PRIMARY_MACHINE_S
            elif any(service.name == _LAST_SERVICE for service in node.plan.services):
                await node.order("start", service=_LAST_SERVICE)
            else:
                continue
            found = await self.wait_primary(None, limit_s)
            progress(f"{name}: keepalived runs; primary is {found}")

    async def _boot_machine(self, node: PoweredMachine, progress: Progress) -> None:
        async with self._boots:
            await node.boot(_teller(node, progress))

    async def _boot(self, node: PoweredNamespaces, progress: Progress) -> None:
        await node.boot()
        started = []
        for service in node.plan.services:
            if service.name != _LAST_SERVICE:
                await node.order("start", service=service.name)
                started.append(service.name)
        progress(f"{node.plan.name}: on" + (f", runs {', '.join(started)}" if started else ""))

    async def heal(self, node: Powered) -> None:
        """Raises LabError."""
        async with self._boots if isinstance(node, PoweredMachine) else contextlib.nullcontext():
            await node.heal()

    async def end(self) -> None:
        for node in self:
            node.end()
        for node in self:
            with contextlib.suppress(TimeoutError):
                await node.wait_if_dying()


def _teller(node: Powered, progress: Progress) -> Progress:
    """Says the phases of a boot, with the node and the seconds since now."""
    start = time.monotonic()
    return lambda phase: progress(f"{node.plan.name}: {phase}, {time.monotonic() - start:.0f} s")
