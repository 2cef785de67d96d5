# SPDX-License-Identifier: GPL-2.0-or-later
"""The one process on which a lab hangs. It lives in the lab's fabric namespace, is the parent of every
node's init, and ends when its owner does (or, for a lab made by `hafw-lab up`, when it is told to). With it
everything ends.

    python3 -m hafw_lab.supervisor.main CONTROL_FD [LISTENER_FD]        the plan comes on standard input

Standard library only.
"""

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hafw_lab import wire
from hafw_lab.errors import LabError
from hafw_lab.lab_directory import make_lab_directory
from hafw_lab.plan.values import LabPlan
from hafw_lab.supervisor.fabric_namespace import enter_namespaces
from hafw_lab.supervisor.nodes import LabNodes
from hafw_lab.supervisor.requests import Operations, Reply
from hafw_lab.vm.spice import open_doors

Result = TypeVar("Result")


class Supervisor:
    """Serves clients, any number at a time, until `ended`: from its first moment, since a lab that does not
    come up is the one that people want to look into."""

    def __init__(self, nodes: LabNodes, directory: Path | None) -> None:
        self.ended = asyncio.Event()
        self._nodes = nodes
        self._operations = Operations(nodes, directory, self.ended.set)
        self._owner: socket.socket | None = None
        """The client with which the lab ends; None once the lab is up and stays."""
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- clients --

    def serve(self, client: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(client, self._on_client, client)

    def _listen(self, listener: socket.socket) -> None:
        listener.listen()
        asyncio.get_running_loop().add_reader(listener, self._on_listener, listener)

    def _on_listener(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        self.serve(client)

    def _on_client(self, client: socket.socket) -> None:
        try:
            received = wire.receive(client)
        except LabError as error:
            self._send(client, {"id": None, **_explain(error)})
            return
        if received is None:
            self._drop(client)
            return
        message, files = received
        for fd in files:
            os.close(fd)
        number = message.pop("id", None)
        request = number if isinstance(number, int) else None
        work = self._spawn(self._operations.carry_out(message.pop("op", None), message))
        work.add_done_callback(functools.partial(self._answer, client, request))

    def _spawn(self, work: Coroutine[None, None, Result]) -> "asyncio.Task[Result]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _answer(self, client: socket.socket, request: int | None, work: "asyncio.Task[Reply]") -> None:
        if work.cancelled():  # the lab ends, and the channel with it
            return
        error = work.exception()
        result, files = work.result() if error is None else ({}, ())
        answer = {"ok": result} if error is None else _explain(error)
        try:
            self._send(client, {"id": request, **answer}, files)
        except LabError as too_large:
            self._send(client, {"id": request, **_explain(too_large)})
        finally:
            for fd in files:
                os.close(fd)

    def _send(self, client: socket.socket, message: wire.Message, files: Sequence[int] = ()) -> None:
        """Without waiting: a client that asks and never reads would delay all others, so it is dropped.
        Raises LabError when the message is too large."""
        try:
            wire.send(client, message, files, wait=False)
        except OSError:  # the client does not read, or is gone
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        if client.fileno() < 0:  # it was dropped while requests of it were left
            return
        asyncio.get_running_loop().remove_reader(client)
        client.close()
        if client is self._owner:
            self.ended.set()

    # -- the lab's life --

    def begin(self, owner: socket.socket, listener: socket.socket | None) -> None:
        """Build the lab, and tell its owner how that goes. With a `listener` the lab, once it is up, lives
        until it is told to end; clients come and go."""
        self._owner = owner
        self.serve(owner)
        if listener is not None:
            self._listen(listener)
        build = self._spawn(self._nodes.build(functools.partial(self._progress, owner)))
        build.add_done_callback(functools.partial(self._built, owner, listener is not None))

    def _progress(self, owner: socket.socket, text: str) -> None:
        self._operations.stage = text
        self._send(owner, {"progress": text})

    def _built(self, owner: socket.socket, stays: bool, build: "asyncio.Task[None]") -> None:
        if build.cancelled():
            self._send(owner, {"failed": "the lab was ended while it was starting"})
            return
        error = build.exception()
        if error is not None:
            explained = _explain(error)
            self._send(owner, {"failed": explained["error"], "hint": explained["hint"]})
            self.ended.set()
            return
        self._operations.stage = None
        if stays:
            self._owner = None
        self._send(owner, {"ready": True})

    async def end(self) -> None:
        for task in self._tasks:  # what is being built, or waits for its turn, does not begin now
            task.cancel()
        await self._nodes.end()


def _explain(error: BaseException) -> wire.Message:
    """An answer that says what went wrong, in any case: else only a time limit ends the client's wait."""
    text, hint, kind = str(error), None, LabError.__name__
    if isinstance(error, LabError):
        text, hint, kind = error.message, error.hint, type(error).__name__
    elif not isinstance(error, OSError):
        *_, place = traceback.extract_tb(error.__traceback__)
        what = " ".join(f"{type(error).__name__}: {error}".split())
        text = f"an error in hafw-lab itself: {what} ({Path(place.filename).name}, line {place.lineno})"
        hint = "report it with this line"
    return {"error": wire.fit(text), "hint": hint, "kind": kind}


async def _live(
    plan: LabPlan,
    stage: Path,
    doors: dict[str, socket.socket],
    home: str,
    control: socket.socket,
    listener: socket.socket | None,
) -> None:
    directory = make_lab_directory() if any(node.machine for node in plan.nodes) else None
    place = directory.path if directory else None
    supervisor = Supervisor(LabNodes(plan, stage, place, doors, home), place)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.ended.set)
    supervisor.begin(control, listener)
    await supervisor.ended.wait()
    await supervisor.end()
    if directory is not None:
        directory.remove()


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    listener = socket.socket(fileno=int(sys.argv[2])) if len(sys.argv) > 2 else None
    for one in (control, listener):
        if one is not None:
            one.set_inheritable(False)
    plan = LabPlan.from_json(json.loads(sys.stdin.buffer.read()))
    os.chdir("/")
    try:
        # on this machine's network, which is left after this
        doors = open_doors(plan)
        home = f"/proc/{os.getpid()}/fd/{os.open('/proc/self/ns/net', os.O_RDONLY | os.O_CLOEXEC)}"
        stage = enter_namespaces(plan.name)
    except LabError as error:
        wire.send(control, {"failed": error.message, "hint": error.hint})
        sys.exit(1)
    asyncio.run(_live(plan, stage, doors, home, control, listener))
    if listener is not None:
        with contextlib.suppress(FileNotFoundError):
            Path(listener.getsockname()).unlink()


if __name__ == "__main__":
    main()
