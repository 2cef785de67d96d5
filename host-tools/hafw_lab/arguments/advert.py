# SPDX-License-Identifier: GPL-2.0-or-later
"""The time between VRRP advertisements, as the command line has it."""

import argparse
from collections.abc import Iterable

from hafw_lab.model.topology import Topology
from hafw_lab.progress import Progress

_USUAL_MS, _SLOW_MS = 100, 500


def add_advert_argument(parser: argparse.ArgumentParser, default: int | None = _USUAL_MS) -> None:
    """Without a `default` it is choose_advert_ms() that has one."""
    slow = "" if default else f"; {_SLOW_MS}ms for firewalls without KVM"
    parser.add_argument(
        "--advert",
        type=_parse_interval_ms,
        default=default,
        metavar="TIME",
        help=f"time between VRRP advertisements (default: {_USUAL_MS}ms{slow})",
    )


def choose_advert_ms(
    wanted: int | None, machines: Iterable[str], topology: Topology, obstacle: str | None, say: Progress
) -> int:
    """The time between advertisements when none is `wanted`. `obstacle` is what keeps machines from KVM:
    they are then starved of the processor for longer than a backup waits at 100 ms, and a node that has come
    back takes over."""
    if wanted is not None:
        return wanted
    if obstacle is None or not any(node.name in machines for node in topology.firewalls):
        return _USUAL_MS
    say(f"advertisements every {_SLOW_MS} ms, for firewalls without KVM (--advert says otherwise)")
    return _SLOW_MS


def _parse_interval_ms(text: str) -> int:
    """`100ms` or `1s`."""
    for unit, factor in (("ms", 1), ("s", 1000)):
        number = text.removesuffix(unit)
        if number != text and number.isascii() and number.isdigit() and len(number) < 7:
            return int(number) * factor
    raise argparse.ArgumentTypeError(f"invalid time {text!r}; write for example 100ms or 1s")
