# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether conntrackd knows all states of the primary's kernel. Pure.

The kernel reports new states to conntrackd as events. A burst that is larger than the buffer of its netlink
socket is lost without a trace in any counter; the kernel reports a lost state again only with the next
packet of its connection, and a peer that takes over before that does not have it (tried: of 60,000 states
put in while conntrackd did not get the processor its cache knew 51, and its statistics said that nothing
was overrun). `conntrackd -R` reads the kernel's whole table and repairs that.

Not every state of the kernel belongs into the cache: what ends on the firewall itself, and protocols that
are not replicated, stay outside. How many these are is known just after `-R`. What is missing beyond that
number was lost, or is new traffic of that kind; another `-R` distinguishes the two.
"""

from dataclasses import dataclass, replace

from agent.core.actions import Reread
from agent.core.events import StatesCounted

MARGIN = 100
MARGIN_SHARE = 0.01
"""Kernel and cache are counted one after the other, while connections come and go and events wait to be
read."""
TWICE = 2
"""Counts in a row that must show it: a burst that conntrackd is still reading has been read by the
second."""
NEEDLESS_AGAIN_S = 600.0
"""After a `-R` that found nothing: it keeps conntrackd from its work, a second for each 100,000 states."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """`outside`: states of the kernel that do not belong into the cache, None as long as that is not known.
    `asked`: conntrackd was asked to read the table because states were missing."""

    exact_ns: int = 0
    outside: int | None = None
    suspicions: int = 0
    asked: bool = False
    not_before_ns: int = 0


def judge(coverage: Coverage, event: StatesCounted) -> Coverage:
    """What a count adds; `wants_reread` then says whether conntrackd has to read the table."""
    if coverage.outside is None or event.at_ns < coverage.exact_ns:
        return coverage
    missing = event.kernel - event.cached - coverage.outside
    if missing > margin(event.kernel):
        return replace(coverage, suspicions=coverage.suspicions + 1)
    # fewer end on the firewall itself than before
    return replace(coverage, suspicions=0, outside=max(0, coverage.outside + min(0, missing)))


def wants_reread(coverage: Coverage, at_ns: int) -> bool:
    return coverage.suspicions >= TWICE and at_ns >= coverage.not_before_ns


def read_again(coverage: Coverage, at_ns: int, outcome: Reread) -> tuple[Coverage, int]:
    """conntrackd has read the table: the cache is exact. Also how many states it had lost, if it was asked
    for those."""
    outside = max(0, outcome.kernel - outcome.after)
    found = outcome.after - outcome.before
    lost = found if coverage.asked and found > 0 else 0
    useful = not coverage.asked or lost > margin(outcome.kernel) // 2
    wait_ns = 0 if useful else int(NEEDLESS_AGAIN_S * 1e9)
    return Coverage(at_ns, outside, not_before_ns=at_ns + wait_ns), lost if useful else 0


def margin(states: int) -> int:
    return MARGIN + round(states * MARGIN_SHARE)
