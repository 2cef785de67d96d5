# SPDX-License-Identifier: GPL-2.0-or-later
"""Network namespaces for tests, held by file descriptors: nothing is left behind, however a test ends."""

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
# os.unshare and os.setns came with Python 3.12
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Namespace:
    name: str
    descriptor: int

    @property
    def path(self) -> str:
        """A name of the namespace for `ip ... netns`, which takes paths as well."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Puts this thread inside. Sockets and children made here stay in the namespace."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _checked(_libc.setns(self.descriptor, CLONE_NEWNET))
            try:
                yield
            finally:
                _checked(_libc.setns(before, CLONE_NEWNET))
        finally:
            os.close(before)

    def run(self, *argv: str) -> str:
        with self.entered():
            done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, f"{self.name}: {' '.join(argv)}: {done.stderr}"
        return done.stdout

    def ip(self, command: str) -> None:
        self.run("ip", *command.split())

    def sysctl(self, name: str, value: str | int) -> None:
        with self.entered():
            Path("/proc/sys", *name.split(".")).write_text(str(value))


@contextmanager
def start_namespaces(*names: str) -> Iterator[tuple[Namespace, ...]]:
    with ExitStack() as stack:
        yield tuple(stack.enter_context(_start_namespace(name)) for name in names)


@contextmanager
def _start_namespace(name: str) -> Iterator[Namespace]:
    descriptor = _new_namespace()
    try:
        namespace = Namespace(name, descriptor)
        namespace.ip("link set lo up")
        yield namespace
    finally:
        os.close(descriptor)


def _new_namespace() -> int:
    """A thread of its own is unshared: the caller stays where it is, whatever fails."""
    made: list[int | BaseException] = []

    def make() -> None:
        try:
            _checked(_libc.unshare(CLONE_NEWNET))
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    result = made[0]
    if isinstance(result, BaseException):
        raise result
    return result


def join(left: Namespace, left_name: str, right: Namespace, right_name: str) -> None:
    """A wire between two namespaces: a veth pair, both ends up."""
    left.ip(f"link add {left_name} type veth peer name {right_name} netns {right.path}")
    left.ip(f"link set {left_name} up")
    right.ip(f"link set {right_name} up")


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
