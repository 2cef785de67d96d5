# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugs of a machine that `hafw-lab usb` uses: a USB device behind each, held by a process of its own.

Who holds a plug is written beside the machine's sockets. The holder ends with the machine, since its socket
does, so nothing has to be cleared.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.vm.display import PLUGS, plug_socket

_HERE = "this machine"
_RETURN_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Device:
    """`origin` is the node whose device it is; empty for this machine."""

    bus: int
    device: int
    vendor: str
    product: str
    name: str
    open: bool
    mounted: tuple[str, ...] = ()
    origin: str = ""

    @property
    def place(self) -> str:
        return f"{self.bus}.{self.device}"

    @property
    def kind(self) -> str:
        return f"{self.vendor}:{self.product}"

    def __str__(self) -> str:
        return f"{self.place} ({self.kind} {self.name}) of {self.origin or _HERE}"


@dataclass(frozen=True, slots=True)
class Held:
    plug: str
    pid: int
    started: str
    device: Device


class Plugs:
    def __init__(self, name: str, directory: Path) -> None:
        self._name, self._directory = name, directory

    def find_held(self) -> list[Held]:
        return [held for plug in PLUGS if (held := self._find(plug)) is not None]

    def attach(self, device: Device, start: Callable[[socket.socket], subprocess.Popen[bytes]]) -> str:
        """Put the device into a free plug. `start` starts the process that serves it at the given socket and
        tells on standard error how it goes. Raises LabError."""
        plug = self._require_free()
        with socket.socket(socket.AF_UNIX) as line:
            try:
                line.connect(str(self._directory / "own" / plug_socket(plug)))
            except OSError as error:
                hint = f"is it on, and a machine with a desktop? hafw-lab up --desktop {self._name}"
                raise LabError(f"{self._name} has no USB plug to use: {error.strerror}", hint) from error
            process = start(line)
        assert process.stderr is not None
        with process.stderr as words:
            said = words.readline().decode(errors="replace").strip()
        if said != "begun":
            process.kill()
            process.wait()
            raise LabError(f"{device} cannot be handed over: {said or 'no message'}", "hafw-lab doctor")
        held = Held(plug, process.pid, _started(process.pid), device)
        self._file(plug).write_text(json.dumps(asdict(held)), encoding="utf-8")
        return plug

    def detach(self, device: Device) -> None:
        """The device goes back to where it is from. Raises LabError."""
        for held in self.find_held():
            if held.device == device:
                self._release(held)

    def _release(self, held: Held) -> None:
        with contextlib.suppress(ProcessLookupError):
            watch = os.pidfd_open(held.pid)
            try:
                os.kill(held.pid, signal.SIGTERM)
                _wait_end(watch, held.device)
            finally:
                os.close(watch)
        self._file(held.plug).unlink(missing_ok=True)

    def _require_free(self) -> str:
        used = {held.plug for held in self.find_held()}
        for plug in PLUGS:
            if plug not in used:
                return plug
        hint = f"return one: hafw-lab usb detach {self._name} DEVICE"
        raise LabError(f"all {len(PLUGS)} USB plugs of {self._name} are in use", hint)

    def _find(self, plug: str) -> Held | None:
        try:
            facts = json.loads(self._file(plug).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        facts["device"]["mounted"] = tuple(facts["device"]["mounted"])
        held = Held(**{**facts, "device": Device(**facts["device"])})
        return held if held.started == _started(held.pid) else None

    def _file(self, plug: str) -> Path:
        return self._directory / f"{plug}.json"


def _started(pid: int) -> str:
    """When the process began, in the kernel's own count; empty if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _wait_end(watch: int, device: Device) -> None:
    if not select.select([watch], [], [], _RETURN_TIMEOUT_S)[0]:
        raise LabError(f"{device} was not returned within {_RETURN_TIMEOUT_S:g} s")
