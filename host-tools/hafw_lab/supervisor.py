"""The one process on which a lab hangs. It lives in the lab's fabric namespace, is the parent of every
node's init, and ends when its owner does (or, for a lab made by `hafw-lab up`, when it is told to). With it
everything ends.

    python3 -m hafw_lab.supervisor CONTROL_FD [LISTENER_FD]        the plan comes on standard input

Standard library only.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path

from hafw_lab import wire
from hafw_lab.errors import LabError
from hafw_lab.lab_directory import make_lab_directory
from hafw_lab.lab_nodes import LabNodes
from hafw_lab.operations import Operations
from hafw_lab.place import enter_namespaces
from hafw_lab.plan import LabPlan
from hafw_lab.screen import open_doors


class Supervisor:
    """Serves clients, any number at a time, until `ended`: from its first moment, since a lab that does not
    come up is the one that people want to look into."""

    def __init__(self, nodes: LabNodes, directory: Path | None) -> None:
        self.ended = asyncio.Event()
        self._nodes = nodes
        self._operations = Operations(nodes, directory, self.ended.set)
        self._owner: socket.socket | None = None
        """With whom the lab ends; nobody any more when it is up and stays."""
        self._tasks: set[asyncio.Task[None]] = set()

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
        received = wire.receive(client)
        if received is None:
            asyncio.get_running_loop().remove_reader(client)
            client.close()
            if client is self._owner:
                self.ended.set()
            return
        message, files = received
        for fd in files:
            os.close(fd)
        self._spawn(self._answer(client, message))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, client: socket.socket, message: wire.Message) -> None:
        request = message.pop("id")
        files: tuple[int, ...] = ()
        try:
            result, files = await self._operations.carry_out(message.pop("op"), message)
            answer = {"id": request, "ok": result}
        except LabError as error:
            answer = {
                "id": request,
                "error": error.message,
                "hint": error.hint,
                "kind": type(error).__name__,
            }
        except OSError as error:
            answer = {"id": request, "error": str(error), "hint": None, "kind": "LabError"}
        with contextlib.suppress(OSError):  # the client is gone: nobody to tell
            wire.send(client, answer, files)
        for fd in files:
            os.close(fd)

    # -- the lab's life --

    def begin(self, owner: socket.socket, listener: socket.socket | None) -> None:
        """Build the lab, and tell its owner how that goes. With a `listener` the lab, once it is up, lives
        until it is told to end, whoever comes and goes."""
        self._owner = owner
        self.serve(owner)
        if listener is not None:
            self._listen(listener)
        self._spawn(self._build(owner, stays=listener is not None))

    async def _build(self, owner: socket.socket, *, stays: bool) -> None:
        def tell(text: str) -> None:
            self._operations.stage = text
            _tell(owner, progress=text)

        try:
            await self._nodes.build(tell)
        except asyncio.CancelledError:
            _tell(owner, failed="the lab was told to end while it was starting")
            raise
        except (LabError, OSError) as error:
            hint = error.hint if isinstance(error, LabError) else None
            text = error.message if isinstance(error, LabError) else str(error)
            _tell(owner, failed=text, hint=hint)
            self.ended.set()
            return
        self._operations.stage = None
        if stays:
            self._owner = None
        _tell(owner, ready=True)

    async def end(self) -> None:
        for task in self._tasks:  # what is being built, or waits for its turn, does not begin now
            task.cancel()
        await self._nodes.end()


def _tell(owner: socket.socket, **message: object) -> None:
    with contextlib.suppress(OSError):  # the owner is gone; its end is noticed elsewhere
        wire.send(owner, message)


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
