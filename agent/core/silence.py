# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the peer's conntrackd is heard over the sync link. Pure.

conntrackd (mode FTFW) says that it is there once a second, in both roles and with nothing to replicate
(measured: 16 bytes each second, each way, on an idle pair). It keeps silent while it reads its kernel's
table again (`-R`: a second for 100,000 states) or puts states in.

Time counts only between two answers of our own conntrackd: while that does not get round to answering, it
does not get round to hearing either.
"""

from dataclasses import dataclass, replace

from agent.core.conditions import Condition, Finding

SILENT_AFTER_S = 5.0
SILENT_FOR_A_STATE_S = 30e-6
"""How long the peer may be busy with a state; three times what `-R` takes."""
LONGEST_COUNTED_S = 1.5


@dataclass(frozen=True, slots=True)
class Silence:
    """`received`: bytes from the peer, by conntrackd's own count, None before the first answer."""

    received: int | None = None
    looked_ns: int = 0
    silent_s: float = 0.0


def hear(before: Silence, received: int, at_ns: int, *, link_up: bool) -> Silence:
    """What the newest count adds. Without a link nothing can come, which another condition reports."""
    counted_s = min((at_ns - before.looked_ns) / 1e9, LONGEST_COUNTED_S)
    heard = before.received is None or received != before.received or not link_up
    return Silence(received, at_ns, 0.0 if heard else before.silent_s + counted_s)


def unanswered(before: Silence) -> Silence:
    """conntrackd could not be asked, or is another one: what its count was before says nothing."""
    return replace(before, received=None)


def judge_silence(silence: Silence, states: int, peer: str, interface: str) -> Finding:
    """`states`: how many this node has, as the peer has about the same."""
    if silence.silent_s < SILENT_AFTER_S + states * SILENT_FOR_A_STATE_S:
        return Condition.PEER_SILENT, True, f"{peer}'s conntrackd is heard over {interface}"
    text = (
        f"nothing has come from {peer}'s conntrackd over {interface} for {silence.silent_s:.0f} s; "
        "states are not replicated, and a failover would lose those of this time"
    )
    return Condition.PEER_SILENT, False, text
