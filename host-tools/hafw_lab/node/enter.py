# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab exec` and `shell`: a command inside a node as if it were started here, terminal, signals and
status."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from hafw_lab.kernel import namespaces
from hafw_lab.process import ENVIRONMENT
from hafw_lab.source_paths import SEARCH_PATH

_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def become_inside(pid: int, argv: Sequence[str], *, privileged: bool) -> NoReturn:
    """Give this process up for `argv` in the namespaces of `pid`.

    By way of a new program image: a process that enters a namespace must have one thread, and a thread
    that has been joined may still be on its way out.
    """
    environment = {**os.environ, "PYTHONPATH": str(SEARCH_PATH)}
    module = [
        sys.executable,
        "-P",
        "-S",
        "-m",
        "hafw_lab.node.enter",
        str(pid),
        "root" if privileged else "user",
    ]
    os.execve(sys.executable, [*module, *argv], environment)


def run_inside(pid: int, argv: Sequence[str], *, privileged: bool) -> int:
    """Run `argv` in the namespaces of `pid` and return its exit status, 128 + N when signal N killed it.

    This process enters the namespaces itself and can do nothing else afterwards. Raises OSError.
    """
    kinds = ("mnt", "uts", "ipc", "net", "pid")
    opened = [
        os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        for kind in ((() if privileged else ("user",)) + kinds)
    ]
    for descriptor in opened:
        namespaces.set_namespace(descriptor)
        os.close(descriptor)
    child = os.fork()
    if child == 0:
        _become(argv)
    return _wait(child)


def _become(argv: Sequence[str]) -> NoReturn:
    """In the child; never returns."""
    try:
        namespaces.die_with_parent(signal.SIGKILL)
        passed = {name: os.environ[name] for name in ("TERM", "NO_COLOR") if name in os.environ}
        os.execvpe(argv[0], list(argv), {**ENVIRONMENT, **passed})
    except FileNotFoundError:
        sys.stderr.write(f"hafw-lab: {argv[0]}: command not found in the node\n")
        os._exit(_NOT_FOUND)
    except OSError as error:
        sys.stderr.write(f"hafw-lab: {argv[0]}: {error.strerror}\n")
        os._exit(_NOT_EXECUTABLE)


def _wait(child: int) -> int:
    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    for number in _FROM_TERMINAL:  # the child has got them itself; it decides, and its status is ours
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    try:
        sys.exit(run_inside(int(sys.argv[1]), sys.argv[3:], privileged=sys.argv[2] == "root"))
    except OSError as error:
        sys.exit(f"hafw-lab: cannot enter the node: {error}")
