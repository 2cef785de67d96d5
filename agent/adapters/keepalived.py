# SPDX-License-Identifier: GPL-2.0-or-later
"""keepalived on the system bus: its instances' states, and a hint for every change of one.

Hard facts (keepalived 2.2.7 and 2.3.3):
* Only instances send signals, sync groups never do. The first state after a start is normally missed.
* When dbus-daemon restarts, keepalived loses its name, never comes back, and runs on without a word. Only
  its own restart heals that, which is a failover; so it is reported and left alone.
* Any local user can send a forged VrrpStatusChange straight to us, past every match rule. The bus writes the
  sender's unique name into each message, so a signal counts only if that owns keepalived's name:
  bus_gate.py lets nothing else in.
* The object path has the interface with every character that is not a letter or digit turned into `_`:
  eth0.1 and eth0_1 collide, which is why paths are made from our own interfaces and never parsed.
* Where the bus's policy lets another user own keepalived's name, that user may do so while keepalived is
  away; the bus knows the user behind a name.
* Both libraries read the bus's greeting in a loop that neither ends nor yields once the bus has hung up, and
  let through whatever their parsers raise at what is not D-Bus.
* The property State is a struct (us): a list with dbus-next, a tuple with newer dbus-fast.
"""

import asyncio
import os
import re
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# dbus-next's half for GLib, which we do not use, would load PyGObject: 4 MiB
sys.modules.setdefault("gi", None)  # type: ignore[arg-type]  # None means: cannot be imported

try:
    from dbus_next import BusType, Message, MessageType
    from dbus_next.aio import MessageBus
    from dbus_next.errors import AuthError, DBusError
except ImportError:  # the maintained fork with the same interface, where a distribution has only that one
    from dbus_fast import BusType, Message, MessageType
    from dbus_fast.aio import MessageBus
    from dbus_fast.errors import AuthError, DBusError

from agent.adapters.bus_gate import BUS, Gate, Sieve
from agent.core.assess import VrrpState
from agent.errors import UnavailableError
from agent.model.pair import Pair

NAME = "org.keepalived.Vrrp1"
INSTANCE = "org.keepalived.Vrrp1.Instance"
ANSWER_LIMIT_S = 1.0
RECONNECT_S = 2.0
MAX_GREETING = 1024
_BUS_PATH = "/org/freedesktop/DBus"
_SILENT = "keepalived does not answer"
_UNKNOWN = "keepalived has no such instance"


@dataclass(frozen=True, slots=True)
class Watch:
    """What is reported to the observer. All are called from the event loop and must return at once."""

    on_hint: Callable[[str], None]
    on_refused: Callable[[str], None]
    on_change: Callable[[], None]
    """The connection, or keepalived's name, came or went."""


def object_paths(pair: Pair) -> dict[str, str]:
    """Object path -> words for people, one for each instance that keepalived runs for the pair."""
    found = {}
    for interface, vip in pair.vips():
        name = re.sub(r"[^A-Za-z0-9]", "_", interface.name)
        path = f"/org/keepalived/Vrrp1/Instance/{name}/{interface.vrid}/IPv{vip.version}"
        found[path] = f"{interface.name} (IPv{vip.version})"
    return found


class _RefusedError(UnavailableError):
    """An answer came, and it is an error."""


class _Connection(MessageBus):  # type: ignore[misc]  # its base comes from either library, untyped
    async def _auth_readline(self) -> str:
        """In the place of the libraries' own, which spins forever when the bus has hung up."""
        line = b""
        while not line.endswith(b"\r\n"):
            more = await self._loop.sock_recv(self._sock, 1)
            if not more or len(line) > MAX_GREETING:
                raise EOFError("the bus hung up in the middle of its greeting")
            line += more
        return line[:-2].decode(errors="replace")

    def disconnect(self) -> None:
        """Forgets what is still to be written: dbus-next would write it into the closed connection, and
        asyncio complain of an error that is never fetched."""
        if self._sock.fileno() >= 0:
            self._loop.remove_writer(self._fd)
        super().disconnect()


class KeepalivedBus:
    def __init__(self, bus_socket: Path, pair: Pair, watch: Watch) -> None:
        self._socket = bus_socket
        self._paths = object_paths(pair)
        self._watch = watch
        self._bus: MessageBus | None = None
        self._sieve = Sieve(watch.on_refused, self._owner_changed, NAME)
        self._owner = ""
        self._claimant = ""
        """Has keepalived's name, and is not known yet to be keepalived."""
        self._states: dict[str, VrrpState] = {}
        self._asked: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        self.pid: int | None = None
        """Of the process with keepalived's name; None while it has no owner, or where the bus cannot say."""
        self.hung = False
        """The bus itself did not answer when it was last asked."""
        self._reading: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        return self._bus is not None

    @property
    def owned(self) -> bool:
        """keepalived is on the bus and we hear it."""
        return bool(self._owner)

    def states(self) -> frozenset[VrrpState]:
        """The newest known states of the instances; empty while keepalived is not heard."""
        return frozenset(self._states.values())

    def answers(self) -> dict[str, VrrpState]:
        """The same by instance."""
        return {self._paths[path]: state for path, state in self._states.items()}

    def silent(self) -> dict[str, str]:
        """Instances that gave no state when they were last asked, each with the reason."""
        return {self._paths[path]: reason for path, reason in self._failed.items()}

    def only_forgotten(self) -> bool:
        """keepalived has answered for all that are silent: that it has no such object. It forgets one at a
        reload that changes the instance, and when it was killed and started again at once."""
        return all(reason == _UNKNOWN for reason in self._failed.values())

    def has_said_since(self, moment_ns: int) -> bool:
        """Whether keepalived has answered for every instance to a question asked after `moment_ns`."""
        return all(self._asked.get(path, -1) >= moment_ns for path in self._paths)

    async def run(self) -> None:
        """Stay connected. A missing bus is tried again every RECONNECT_S."""
        while True:
            try:
                await self._stay_connected()
            except UnavailableError:
                pass  # the loss itself is what on_change reports; the reasons differ by library
            finally:
                self._lost()
            await asyncio.sleep(RECONNECT_S)

    async def ask(self) -> None:
        """Ask keepalived for every instance's state. Instances that do not answer are forgotten."""
        if self._owner:
            await asyncio.gather(*(self._read_state(path) for path in self._paths))

    async def refresh(self) -> None:
        """The same, after the question whether the bus itself answers, and who has keepalived's name where
        that is not known."""
        self.hung = self._bus is not None and not await self._bus_answers()
        if self.hung:
            self._states.clear()  # they may be out of date
            return
        if self._owner:
            await self.ask()
        elif self._bus is not None and not self._claimant:
            await self._find_owner()  # a bus that hung has not said it
            if self._owner:
                self._watch.on_change()

    async def _stay_connected(self) -> None:
        self._sieve = Sieve(self._watch.on_refused, self._owner_changed, NAME)
        with closing(Gate(self._socket, self._sieve)) as gate:
            await self._talk_through(gate)

    async def _talk_through(self, gate: Gate) -> None:
        try:
            bus = _Connection(bus_address=gate.address, bus_type=BusType.SYSTEM)
        except OSError as error:
            raise UnavailableError("the system bus is not available") from error
        try:
            async with _limit():
                await _heard(bus.connect())
            self._bus = bus
            bus.add_message_handler(self._received)
            await self._add_match(f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{NAME}'")
            await self._add_match(f"type='signal',sender='{NAME}',member='VrrpStatusChange'")
            await self._find_owner()
            self._watch.on_change()
            await _heard(bus.wait_for_disconnect())
        finally:
            bus.disconnect()

    def _lost(self) -> None:
        was = self._bus is not None
        self._bus = None
        self._know("", "")
        for task in self._reading:
            task.cancel()
        if was:
            self._watch.on_change()

    async def _add_match(self, rule: str) -> None:
        await self._call(BUS, _BUS_PATH, BUS, "AddMatch", "s", [rule])

    async def _bus_answers(self) -> bool:
        try:
            await self._call(BUS, _BUS_PATH, BUS, "NameHasOwner", "s", [NAME])
        except UnavailableError:
            return False
        return True

    async def _find_owner(self) -> None:
        try:
            body = await self._call(BUS, _BUS_PATH, BUS, "GetNameOwner", "s", [NAME])
        except UnavailableError:
            return
        if body and isinstance(body[0], str):
            await self._adopt(body[0])

    async def _adopt(self, owner: str) -> None:
        """keepalived runs as root; no other user's process is taken for it."""
        self._know("", owner)
        try:
            body = await self._call(BUS, _BUS_PATH, BUS, "GetConnectionUnixUser", "s", [owner])
            pid = await self._pid_of(owner)
        except UnavailableError:
            if owner == self._claimant:
                self._know("", "")  # gone again, or the bus is slow: refresh() asks again
            return
        if owner != self._claimant:
            return
        self._know("", "")
        if body != [0] and body != [os.geteuid()]:
            user = ", ".join(map(str, body))
            self._watch.on_refused(f"user {user} on the bus with keepalived's name")
            return
        self._know(owner, "")
        self.pid = pid
        for path in self._paths:
            self._start(self._read_state(path))

    async def _pid_of(self, owner: str) -> int | None:
        """None where the bus does not know it, as of a process in another pid namespace."""
        try:
            body = await self._call(BUS, _BUS_PATH, BUS, "GetConnectionUnixProcessID", "s", [owner])
        except UnavailableError:
            return None
        return body[0] if body and isinstance(body[0], int) and body[0] > 0 else None

    async def _adopt_newcomer(self, owner: str) -> None:
        await self._adopt(owner)
        if self._owner == owner:
            self._watch.on_change()

    def _know(self, owner: str, claimant: str) -> None:
        """The connection that speaks for keepalived from now on."""
        self._owner, self._claimant = owner, claimant
        self._sieve.admit(owner, claimant)
        self._states.clear()
        self._failed.clear()
        self._asked.clear()
        self.pid = None

    def _received(self, message: Message) -> None:
        """Every message that the gate lets through. Returns nothing, so the library continues with it."""
        is_signal = message.message_type is MessageType.SIGNAL
        if is_signal and message.member == "VrrpStatusChange" and message.interface == INSTANCE:
            self._status_changed(message)

    def _owner_changed(self, owner: str) -> None:
        was_owned = self.owned
        self._know("", owner)
        if was_owned:
            self._watch.on_change()
        if owner:
            self._start(self._adopt_newcomer(owner))

    def _status_changed(self, message: Message) -> None:
        if message.sender != self._owner:
            return  # it was the owner's when it passed the gate
        if message.path not in self._paths:
            return  # an instance that the pair file does not know
        if message.signature != "u":
            self._watch.on_refused(
                f"a VrrpStatusChange with the signature {message.signature!r} instead of 'u'"
            )
            return
        if _state_of(message.body[0]) is None:
            self._watch.on_refused(f"a VrrpStatusChange with the unknown state {message.body[0]}")
            return
        # the signal is a hint: at once for the addresses, and the state itself is asked for
        self._watch.on_hint(f"D-Bus signal of {self._paths[message.path]}")
        self._start(self._read_state(message.path))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _read_state(self, path: str) -> None:
        owner, asked = self._owner, time.monotonic_ns()
        reason = "its answer is invalid"
        try:
            body = await self._call(
                owner, path, "org.freedesktop.DBus.Properties", "Get", "ss", [INSTANCE, "State"]
            )
            state = _state_of(body[0].value[0])
        except UnavailableError as error:
            state = None
            reason = _UNKNOWN if isinstance(error, _RefusedError) else _SILENT
        except (AttributeError, LookupError, TypeError):
            state = None  # an answer that is not (us): then this instance's state is unknown
        if owner != self._owner:
            return
        before = self._states.get(path)
        if state is None:
            self._states.pop(path, None)
            self._failed[path] = reason
        else:
            self._states[path] = state
            self._failed.pop(path, None)
        if reason == _SILENT:
            self._asked.pop(path, None)
        else:
            self._asked[path] = asked
        if state is not None and state is not before:
            self._watch.on_hint(f"D-Bus state of {self._paths[path]}")

    async def _call(
        self, destination: str, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> list[Any]:
        """Raises UnavailableError for an error, a dead bus and an answer that does not come."""
        if self._bus is None:
            raise UnavailableError("the system bus is not available")
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body,
        )
        try:
            async with _limit():
                reply = await _heard(self._bus.call(message))
        except UnavailableError as error:
            raise UnavailableError(f"{destination} does not answer {member} on the system bus") from error
        if reply is None or reply.message_type is not MessageType.METHOD_RETURN:
            raise _RefusedError(f"the system bus refused {member}")
        return list(reply.body)


@asynccontextmanager
async def _limit() -> AsyncIterator[None]:
    """Raises UnavailableError when what is inside takes too long."""
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            yield
    except TimeoutError as error:
        raise UnavailableError("the system bus does not answer") from error


async def _heard(answer: Awaitable[Any]) -> Any:
    """What a library brings from the bus. Raises UnavailableError for whatever it raises instead."""
    try:
        return await answer
    except (
        AuthError,
        DBusError,
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        struct.error,
    ) as error:
        raise UnavailableError(f"the system bus is gone or sent something invalid: {error}") from error


def _state_of(number: object) -> VrrpState | None:
    try:
        return VrrpState(number)
    except ValueError:
        return None
