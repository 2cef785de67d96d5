# SPDX-License-Identifier: GPL-2.0-or-later
"""What a running lab is asked for, and what it answers. Standard library only."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from hafw_lab import wire
from hafw_lab.errors import LabError
from hafw_lab.model.fault import PAUSE, Fault
from hafw_lab.supervisor.machine_node import PoweredMachine
from hafw_lab.supervisor.namespace_node import LOGS
from hafw_lab.supervisor.node import Powered
from hafw_lab.supervisor.nodes import LabNodes
from hafw_lab.supervisor.request_fields import check_request
from hafw_lab.vm import files
from hafw_lab.vm.spice import Screen

_CONSOLE_LINES = 2000

_ALSO_WHILE_STARTING = frozenset(
    (
        "info",
        "status",
        "primary",
        "pid",
        "connection",
        "console",
        "open",
        "ticket",
        "viewers",
        "screenshot",
        "down",
    )
)
"""What looks, and `down`. All else needs the whole lab."""

_WHEN_STARTING = "wait until it is up; hafw-lab status shows the progress"

_NOTHING_YET: wire.Message = {
    "alive": False,
    "pid": None,
    "vips": [],
    "links": {},
    "logs": [],
    "services": {},
    "conntrack": None,
    "refused_sysctls": [],
    "machine": None,
}

Reply = tuple[wire.Message, tuple[int, ...]]
"""The answer, and descriptors that go with it; its sender closes them."""


class Operations:
    def __init__(self, nodes: LabNodes, directory: Path | None, end: Callable[[], None]) -> None:
        """`directory` is the machines'; `end` ends the lab."""
        self._nodes = nodes
        self._plan = nodes.plan
        self._directory = directory
        self._end = end
        self.stage: str | None = "just begun"
        """What was the last thing to be done of a lab that is starting; None when it is up."""
        self._known: dict[str, Callable[[wire.Message], Awaitable[Reply]]] = {
            "info": self._info,
            "pid": self._pid,
            "status": self._status,
            "primary": self._primary,
            "wait_primary": self._wait_primary,
            "inject": self._inject,
            "heal": self._heal,
            "save": self._save,
            "link": self._link,
            "connection": self._connection,
            "console": self._console,
            "service": self._service,
            "open": self._open,
            "ticket": self._ticket,
            "viewers": self._viewers,
            "screenshot": self._screenshot,
            "down": self._down,
        }

    async def carry_out(self, op: object, message: wire.Message) -> Reply:
        """Raises LabError, OSError."""
        if not isinstance(op, str) or op not in self._known:
            raise LabError("unknown request to the running lab", "hafw-lab down, then up again")
        if self.stage is not None and op not in _ALSO_WHILE_STARTING:
            raise LabError(f"lab {self._plan.name!r} is starting: {self.stage}", _WHEN_STARTING)
        check_request(op, message)
        return await self._known[op](message)

    # -- the lab --

    async def _info(self, _: wire.Message) -> Reply:
        plan = self._plan
        facts: wire.Message = {
            "name": plan.name,
            "about": plan.about,
            "nodes": [node.name for node in plan.nodes],
            "firewalls": list(plan.firewalls),
            "vips": list(plan.vips),
            "pid": os.getpid(),
            "machines": {node.name: node.machine.release for node in plan.nodes if node.machine},
            "directory": str(self._directory) if self._directory else None,
            "home": self._nodes.home,
        }
        return facts, ()

    async def _status(self, _: wire.Message) -> Reply:
        nodes = await asyncio.gather(*(self._describe(plan.name) for plan in self._plan.nodes))
        return {"primary": self._nodes.primary(), "nodes": list(nodes), "starting": self.stage}, ()

    async def _describe(self, name: str) -> wire.Message:
        node = self._nodes.find(name)
        if node is None:  # the lab is only starting
            plan = next(one for one in self._plan.nodes if one.name == name)
            return _NOTHING_YET | {"name": name, "firewall": plan.firewall}
        facts = {
            "name": name,
            "firewall": node.plan.firewall,
            "alive": node.alive,
            "pid": node.pid if node.alive else None,
            "vips": node.holds(self._plan.vips),
            "links": {cable.name: cable.name not in node.down_links for cable in node.plan.cables},
            "logs": node.log_names(),
        }
        inside = await node.order("status") if node.made else {}
        of_machine = _describe_machine(node, answers=bool(inside))
        return _NOTHING_YET | facts | inside | of_machine

    async def _primary(self, _: wire.Message) -> Reply:
        return {"primary": self._nodes.primary()}, ()

    async def _wait_primary(self, message: wire.Message) -> Reply:
        found = await self._nodes.wait_primary(message["name"], message["wait_s"])
        return {"primary": found, "at_ns": time.monotonic_ns()}, ()

    async def _save(self, message: wire.Message) -> Reply:
        """All machines at one moment, into a directory; they continue afterwards."""
        machines = self._nodes.machines
        self._require_saveable()
        try:
            await asyncio.gather(*(node.hang_up() for node in machines))
            await asyncio.gather(*(node.inject(PAUSE) for node in machines))
            place = Path(message["directory"])
            await asyncio.gather(*(node.save(place / f"{node.plan.name}.qcow2") for node in machines))
        finally:
            await asyncio.gather(*(node.power_on() for node in machines))
        accelerators = {node.plan.name: node.accelerator.value for node in machines}
        return {"plan": self._plan.to_json(), "accelerators": accelerators}, ()

    def _require_saveable(self) -> None:
        for node in self._nodes:
            name = node.plan.name
            if not isinstance(node, PoweredMachine):
                if node.plan.firewall:
                    text = f"{name} is made of namespaces, whose state cannot be saved"
                    raise LabError(text, "start the lab with --vm")
            elif not node.ready or node.paused:
                text = f"{name} is off, paused or booting, so the lab cannot be saved"
                raise LabError(text, f"hafw-lab heal {name}")

    async def _down(self, _: wire.Message) -> Reply:
        self._end()
        return {}, ()

    # -- one node --

    def _node(self, message: wire.Message) -> Powered:
        name = message["node"]
        node = self._nodes.find(name)
        if node is None or (self.stage is not None and not node.alive):
            raise self._not_yet(name)
        return node

    def _made_node(self, message: wire.Message) -> Powered:
        """One that may be entered, or is off. Raises LabError for one that is half made."""
        node = self._node(message)
        if node.alive and not node.made and self.stage is not None:
            raise self._not_yet(node.plan.name)
        node.require_made()
        return node

    def _not_yet(self, name: str) -> LabError:
        text = f"{name} is not made yet: lab {self._plan.name!r} is starting: {self.stage}"
        return LabError(text, _WHEN_STARTING)

    async def _pid(self, message: wire.Message) -> Reply:
        node = self._made_node(message)
        return {"pid": node.pid if node.alive else None}, ()

    async def _inject(self, message: wire.Message) -> Reply:
        return {"at_ns": await self._node(message).inject(Fault.parse(message["fault"]))}, ()

    async def _heal(self, message: wire.Message) -> Reply:
        await self._nodes.heal(self._node(message))
        return {}, ()

    async def _link(self, message: wire.Message) -> Reply:
        node = self._node(message)
        moment_ns = time.monotonic_ns()
        await node.set_link(message["link"], up=message["up"])
        return {"at_ns": moment_ns}, ()

    async def _service(self, message: wire.Message) -> Reply:
        """`order` is start, stop or signal, the rest goes to the init."""
        node = self._made_node(message)
        order = message.pop("order")
        message.pop("node")
        return await node.order(order, **message), ()

    async def _open(self, message: wire.Message) -> Reply:
        path = message["path"]
        node = self._node(message) if path.startswith(LOGS) else self._made_node(message)
        return {}, (node.open_file(path, message["flags"]),)

    # -- one machine --

    def _machine(self, message: wire.Message) -> PoweredMachine:
        node = self._node(message)
        if not isinstance(node, PoweredMachine):
            raise LabError(f"{node.plan.name} is made of namespaces", "only machines have this")
        return node

    async def _connection(self, message: wire.Message) -> Reply:
        """Whether commands can reach it."""
        node = self._machine(message)
        return {"alive": node.alive, "paused": node.paused, "ready": node.ready}, ()

    async def _console(self, message: wire.Message) -> Reply:
        return {"text": wire.fit(self._machine(message).files.console_tail(_CONSOLE_LINES))}, ()

    def _screen(self, message: wire.Message) -> Screen:
        node = self._node(message)
        if not isinstance(node, PoweredMachine) or node.screen is None:
            hint = f"hafw-lab up --desktop {node.plan.name} gives it one"
            raise LabError(f"{node.plan.name} has no screen", hint)
        return node.screen

    async def _ticket(self, message: wire.Message) -> Reply:
        screen = self._screen(message)
        ticket = await screen.make_ticket(message["valid_s"])
        return {"ticket": ticket, "remote": screen.describe_remote()}, ()

    async def _viewers(self, message: wire.Message) -> Reply:
        return {"viewers": await self._screen(message).find_viewers()}, ()

    async def _screenshot(self, message: wire.Message) -> Reply:
        return {}, (await self._screen(message).dump(),)


def _describe_machine(node: Powered, *, answers: bool) -> wire.Message:
    """What the status says of a machine beside what it says of any node."""
    if not isinstance(node, PoweredMachine):
        return {"machine": None}
    assert node.plan.machine is not None
    by_hand = str(node.files.directory / files.BY_HAND)
    facts = {"release": node.plan.machine.release, "accelerator": node.accelerator.value}
    return {"machine": {**facts, "paused": node.paused, "ready": answers, "command_line": by_hand}}
