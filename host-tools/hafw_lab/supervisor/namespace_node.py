# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor's side of a node that is made of namespaces: its init, its cables, its addresses as the
kernel reports them. Standard library only."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import Callable, Set
from pathlib import Path

from hafw_lab import wire
from hafw_lab.errors import LabError, NodeDownError
from hafw_lab.kernel.namespaces import open_inside, spawn_init
from hafw_lab.kernel.rtnetlink import Address, AddressWatch, LinkSwitch
from hafw_lab.plan import fabric
from hafw_lab.plan.values import Cable, NodePlan
from hafw_lab.process import ENVIRONMENT, run_ip
from hafw_lab.supervisor.node import Powered

LOGS = "/var/log/"
_ORDER_TIMEOUT_S = 30.0


class PoweredNamespaces(Powered):
    """Its network namespace stays from a cut of the power until the next boot: taking it apart costs CPU
    time that would disturb a measurement."""

    def __init__(
        self, plan: NodePlan, stage: Path, switch: LinkSwitch, on_change: Callable[[], None]
    ) -> None:
        super().__init__(plan, switch, on_change)
        self._log_store = stage / plan.name / "log"
        self._root = stage / plan.name / "root"
        self._channel: socket.socket | None = None
        self._network: int | None = None
        self._watch: AddressWatch | None = None
        self._orders: dict[int, asyncio.Future[wire.Message]] = {}
        self._numbers = itertools.count(1)
        self._plugged, self._made = False, False
        for directory in (self._log_store, self._root):
            directory.mkdir(parents=True)

    # -- power --

    async def boot(self) -> None:
        """Switch on, up to and without the services. Raises LabError."""
        self._forget_last_life()
        mine, theirs = wire.make_pair()
        argv = [sys.executable, "-P", "-S", "-m", "hafw_lab.node.init", str(theirs.fileno())]
        with theirs:
            environment = {
                **ENVIRONMENT,
                "PYTHONPATH": os.environ["PYTHONPATH"],
                "PYTHONDONTWRITEBYTECODE": "1",
            }
            pid = spawn_init(argv, environment, theirs.fileno())
        self._begin(pid)
        self._channel = mine
        asyncio.get_running_loop().add_reader(mine, self._on_channel, mine)
        self._network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        store = {"root": str(self._root), "log_store": str(self._log_store)}
        await self.order("prepare", plan=self.plan.to_json(), **store)
        run_ip(fabric.plan_cables(self.plan.cables, pid))
        self._plugged = True
        self._watch = AddressWatch(self._network)
        asyncio.get_running_loop().add_reader(self._watch, self._on_addresses, self._watch)
        await self.order("configure")
        self._made = True

    @property
    def made(self) -> bool:
        """Before, its root may still be that of this machine."""
        return self.alive and self._made

    async def power_on(self) -> None:
        """Without the services."""
        await self.wait_if_dying()
        if self.pid is None:
            await self.boot()

    async def _inject_shutdown(self) -> None:
        """The service that started last ends first."""
        for service in reversed(self.plan.services):
            await self.order("stop", service=service.name, signal=int(signal.SIGTERM))
        self._inject_power()
        await self.wait_if_dying()

    async def _inject_reset(self) -> None:
        raise self._no_machine("reset")

    async def _inject_pause(self) -> None:
        raise self._no_machine("pause")

    def _no_machine(self, what: str) -> LabError:
        hint = f"hafw-lab up --vm {self.plan.name} makes it one"
        return LabError(f"{self.plan.name} is made of namespaces; only a machine can {what}", hint)

    def _forget_last_life(self) -> None:
        self._made = False
        if self._plugged:
            run_ip(fabric.plan_unplug(self.plan.cables))
            self._plugged = False
        if self._network is not None:
            os.close(self._network)
            self._network = None
        self.down_links.clear()

    # -- links --

    async def _set_carrier(self, cable: Cable, *, up: bool) -> None:
        self._switch.set([cable.fabric], up=up)

    @property
    def _addresses(self) -> Set[Address]:
        return self._watch.addresses if self._watch is not None else frozenset()

    def _on_addresses(self, watch: AddressWatch) -> None:
        watch.read()
        self._on_change()

    # -- orders to the init --

    async def order(self, op: str, **fields: object) -> wire.Message:
        if self._channel is None or self._dying:
            raise NodeDownError(self.plan.name)
        number = next(self._numbers)
        answer: asyncio.Future[wire.Message] = asyncio.get_running_loop().create_future()
        self._orders[number] = answer
        try:
            wire.send(self._channel, {"id": number, "op": op, **fields}, wait=False)
            return await asyncio.wait_for(answer, _ORDER_TIMEOUT_S)
        except TimeoutError as error:
            text = f"{self.plan.name}: its init did not answer {op!r} within {_ORDER_TIMEOUT_S:g} s"
            raise LabError(text) from error
        except BlockingIOError as error:
            raise LabError(f"{self.plan.name}: its init does not accept requests") from error
        except OSError as error:
            raise NodeDownError(self.plan.name) from error
        finally:
            self._orders.pop(number, None)

    def _on_channel(self, channel: socket.socket) -> None:
        received = wire.receive(channel)
        if received is None:
            self._off(channel)
            return
        message, _ = received
        answer = self._orders.get(message["id"])
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(LabError(f"{self.plan.name}: {message['error']}"))
        else:
            answer.set_result(message["ok"])

    def _off(self, channel: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(channel)
        channel.close()
        self._channel = None
        if self._watch is not None:
            loop.remove_reader(self._watch)
            self._watch.close()
            self._watch = None
        if self.pid is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        for answer in self._orders.values():
            if not answer.done():
                answer.set_exception(NodeDownError(self.plan.name))
        self._ended()

    # -- files --

    def open_file(self, path: str, flags: int) -> int:
        """Of a node that is off, only its logs are left. The node may have put links or FIFOs there."""
        if not path.startswith("/"):
            raise LabError(f"{path!r} is not an absolute path")
        if path.startswith(LOGS):
            root, path_inside = str(self._log_store), path.removeprefix(LOGS)
        elif self.alive:
            root, path_inside = f"/proc/{self.pid}/root", path
        else:
            raise NodeDownError(self.plan.name)
        try:
            return open_inside(root, path_inside, flags, 0o644)
        except OSError as error:
            raise LabError(f"{self.plan.name}: {path}: {error.strerror}") from error

    def log_names(self) -> list[str]:
        """Below LOGS, also in the folders there: the agent's records are in one of its own."""
        store = self._log_store
        files = (Path(folder) / name for folder, _, names in os.walk(store) for name in names)
        return sorted(
            str(path.relative_to(store)) for path in files if path.is_file() and not path.is_symlink()
        )
