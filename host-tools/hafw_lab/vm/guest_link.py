# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor's connection into a guest: ssh over a serial port, over which the guest tells its addresses
and takes commands."""

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Set
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.kernel.rtnetlink import Address
from hafw_lab.process import ENVIRONMENT
from hafw_lab.vm.guest_addresses import SCRIPT, GuestAddresses
from hafw_lab.vm.guest_ssh import CONTROL_SOCKET, plan_master, plan_session

_NOTICE_S = 3.0
"""The guest looks every second whether a client is at the other end (guest/files/etc/hafw-lab/ssh-port)."""
_PIPES_S = 0.5


class GuestLink:
    """One connection after the other, between start() and stop(). `on_change` is called when what the guest
    tells changes."""

    def __init__(self, name: str, directory: Path, key: str, on_change: Callable[[], None]) -> None:
        self.ready = asyncio.Event()
        """Set while commands can reach the guest."""
        self.port_open = False
        """Whether the guest has opened its end of the port."""
        self._name = name
        self._directory = directory
        self._key = key
        self._on_change = on_change
        self._told = GuestAddresses()
        self._talk: asyncio.Task[None] | None = None
        self._port_changed = asyncio.Event()
        self._hung_up = False

    @property
    def addresses(self) -> Set[Address]:
        return self._told.current

    def start(self) -> None:
        self._talk = asyncio.get_running_loop().create_task(self._keep_talking())

    def stop(self) -> None:
        self.port_open = False
        self.forget()
        if self._talk is not None:
            self._talk.cancel()
            self._talk = None

    def forget(self) -> None:
        """What the guest has told, since it is not there any more."""
        self.ready.clear()
        self._told = GuestAddresses()

    def set_port(self, *, is_open: bool) -> None:
        """As qemu tells."""
        self.port_open = is_open
        self._wake()

    async def hang_up(self) -> None:
        """End the connection, until pick_up(). The guest then waits for a new one, as it must when it comes
        out of a snapshot: there the old one is gone without its noticing."""
        self._hung_up = True
        self._wake()
        await asyncio.sleep(_NOTICE_S)  # the guest notices, and nothing tells that it has

    def pick_up(self) -> None:
        if self._hung_up:
            self._hung_up = False
            self._wake()

    def _wake(self) -> None:
        self._port_changed.set()
        self._port_changed = asyncio.Event()

    async def _keep_talking(self) -> None:
        while True:
            changed = self._port_changed
            if self.port_open and not self._hung_up:
                with contextlib.suppress(LabError):  # the next attempt says it better, or the stall does
                    await self._converse(changed)
                self.forget()
                self._on_change()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _NOTICE_S if self.port_open else None)

    async def _converse(self, changed: asyncio.Event) -> None:
        # A killed ssh leaves its control socket behind, and the next one would refuse to take its place.
        (self._directory / CONTROL_SOCKET).unlink(missing_ok=True)
        argv = plan_master(self._name, self._directory, self._key, SCRIPT)
        with (self._directory / "ssh.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=ENVIRONMENT
            )
        reading = asyncio.create_task(self._listen(process))
        closing = asyncio.create_task(changed.wait())
        try:
            await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, closing):
                task.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            text = line.decode(errors="replace").strip()
            self._told.take(text)
            if text == "end":
                self.ready.set()
            if text != "begin":
                self._on_change()

    async def run(self, script: str, *, timeout_s: float) -> str:
        """A script in the guest; its output. Raises LabError."""
        argv = plan_session(self._name, self._directory, ["sh", "-c", script])
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), timeout_s)
        except TimeoutError as error:
            raise LabError(f"{self._name}: {script!r} did not end within {timeout_s:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                with contextlib.suppress(TimeoutError):  # the master connection may keep its pipes open
                    await asyncio.wait_for(process.wait(), _PIPES_S)
        if process.returncode != 0:
            said = (err.decode(errors="replace").strip() or f"status {process.returncode}").splitlines()[-1]
            raise LabError(f"{self._name}: {script!r} failed: {said}")
        return out.decode(errors="replace")
