# SPDX-License-Identifier: GPL-2.0-or-later
"""Times commands inside a node: `python3 -I -c SOURCE COUNT`, a JSON list of argument lists on standard
input.

Each command runs `COUNT` times, taking turns with the others. Out comes one JSON list of milliseconds for
each. Standard library only and no other file: the node need not see the checkout.
"""

import json
import os
import sys
import time


def time_command(argv: list[str]) -> float:
    """Milliseconds from before the start until after the end. The exit status must be 0."""
    quiet = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    start_ns = time.monotonic_ns()
    pid = os.posix_spawn(argv[0], argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, file_actions=quiet)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    taken_ns = time.monotonic_ns() - start_ns
    if status != 0:
        sys.exit(f"{' '.join(argv)} ended with status {status}")
    return taken_ns / 1e6


def main() -> None:
    commands = json.load(sys.stdin)
    times: list[list[float]] = [[] for _ in commands]
    for _ in range(int(sys.argv[1])):
        for place, argv in enumerate(commands):
            times[place].append(time_command(argv))
    print(json.dumps(times))


if __name__ == "__main__":
    main()
