#!/usr/bin/python3 -IS
# SPDX-License-Identifier: GPL-2.0-or-later
"""keepalived's side: hand one notice over to the agent and be gone.

keepalived runs this for every transition, several at once and in any order, and gives a `stop` one second to
live. So it decides nothing: it puts its arguments into one datagram and exits. If no agent listens, it
starts one run of `hafw settle` in a session of its own, out of reach of the SIGTERM that keepalived's death
would bring, and exits as well.

    notify INSTANCE|GROUP NAME STATE PRIORITY     what `notify` in keepalived.conf runs
    notify STATE                                  for notify_master, notify_backup, notify_fault, notify_stop

Only modules that are built into the interpreter are imported: starting Python is most of what this costs.
Exit status: 0 handed over or started, 2 the arguments are not keepalived's.
"""

import _socket
import posix
import sys
import time

SOCKET = "/run/hafw/notify.sock"
SETTLE = ("/usr/sbin/hafw", "settle")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

KINDS = ("INSTANCE", "GROUP")
STATES = ("MASTER", "BACKUP", "FAULT", "STOP", "DELETED")
MAX_NAME = 255


def main(arguments: list[str]) -> int:
    if len(arguments) == 1 and arguments[0].isascii():
        arguments = ["GROUP", "-", arguments[0].upper(), "0"]
    problem = find_problem(arguments)
    if problem:
        sys.stderr.write("hafw notify: " + problem + "\n")
        return 2
    fields = ["hafw1", *arguments, str(time.monotonic_ns()), str(posix.getpid()), "end"]
    if not hand_over("\0".join(fields).encode("utf-8", "surrogateescape")):
        start_settle()
    return 0


def find_problem(arguments: list[str]) -> str:
    """One sentence on what is wrong with the arguments, or nothing."""
    if len(arguments) != 4:
        return f"expected INSTANCE|GROUP NAME STATE PRIORITY, or STATE alone; got {len(arguments)} arguments"
    kind, name, state, priority = arguments
    if kind not in KINDS:
        return f"the type must be INSTANCE or GROUP, not {kind[:40]!r}"
    if state not in STATES:
        return f"the state must be one of {', '.join(STATES)}, not {state[:40]!r}"
    if (
        not 0 < len(name) <= MAX_NAME
        or not name.isascii()
        or not name.isprintable()
        or set(name) & set('"/')
    ):
        wanted = f"1 to {MAX_NAME} printable ASCII characters without quotes and slashes"
        return f"the name must be {wanted}, not {name[:40]!r}"
    if not priority.isascii() or not priority.isdigit() or len(priority) > 3 or int(priority) > 255:
        return f"the priority must be a number from 0 to 255, not {priority[:40]!r}"
    return ""


def hand_over(datagram: bytes) -> bool:
    """False if no agent listens. A full queue means that the agent has hints enough to look for itself."""
    out = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    out.setblocking(False)
    try:
        out.connect(SOCKET)
        out.send(datagram)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def start_settle() -> None:
    """The forked child is not keepalived's any more: its parent-death signal is cleared, its session is
    new."""
    if posix.fork():
        return
    posix.setsid()
    null = posix.open("/dev/null", posix.O_RDWR)
    for descriptor in (0, 1, 2):
        posix.dup2(null, descriptor)
    try:
        posix.execve(SETTLE[0], list(SETTLE), ENVIRONMENT)
    except OSError:
        posix._exit(127)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
