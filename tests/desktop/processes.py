# SPDX-License-Identifier: GPL-2.0-or-later
"""What processes are there, and which TCP ports they listen on, in their own network namespaces."""

from pathlib import Path

_LISTENS = "0A"


def find_listening_ports(pid: int) -> set[int]:
    own = {
        link.readlink().name.removeprefix("socket:[").removesuffix("]")
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if str(link.readlink()).startswith("socket:")
    }
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and fields[9] in own:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def find_descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *find_descendants(int(child))]
    return found
