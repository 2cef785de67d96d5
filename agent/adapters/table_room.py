# SPDX-License-Identifier: GPL-2.0-or-later
"""How full the kernel's conntrack table is, of this network namespace.

Hard facts
* /proc/net/stat/nf_conntrack has a line of hexadecimal numbers for each processor below a line of names;
  `drop` also counts packets that lost a race. A kernel may be built without that file.
* Other network namespaces than the first cannot set nf_conntrack_max, and all share it; each is allowed that
  many.
"""

from pathlib import Path

from agent.core.table_room import Room
from agent.errors import UnavailableError

_LIMITS = Path("/proc/sys/net/netfilter")
_STATISTICS = Path("/proc/net/stat/nf_conntrack")


def read_room(limits: Path = _LIMITS, statistics: Path = _STATISTICS) -> Room:
    """Raises UnavailableError while the kernel tracks no connections."""
    try:
        states, limit = (int((limits / f"nf_conntrack_{name}").read_text()) for name in ("count", "max"))
    except (OSError, ValueError) as error:
        raise UnavailableError("the kernel does not track connections", "load nf_conntrack") from error
    try:
        refused, evicted = _sums(statistics.read_text(), ("drop", "early_drop"))
    except (OSError, ValueError):
        return Room(states, limit)
    return Room(states, limit, refused, evicted)


def _sums(text: str, wanted: tuple[str, ...]) -> list[int]:
    """Over all processors. Raises ValueError for what does not look like it."""
    names, *lines = (line.split() for line in text.splitlines())
    columns = [names.index(name) for name in wanted]
    return [sum(int(line[column], 16) for line in lines if len(line) > column) for column in columns]
