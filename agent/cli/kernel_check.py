# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw check --kernel`: can this kernel carry helped connections (FTP, SIP) over a failover, and can it
encrypt the sync links?

It is tried, not concluded from a version: distributions take fixes back into older kernels. The trial has a
network namespace of its own; nothing of the machine's network and tables is touched.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.ctnetlink import Conntrack
from agent.adapters.wireguard import MISSING, has_wireguard
from agent.errors import ToolError, UnavailableError

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
AUTO_ASSIGN = Path("/proc/sys/net/netfilter/nf_conntrack_helper")


@dataclass(frozen=True, slots=True)
class KernelCheck:
    good: bool
    text: str
    wanted: bool = True
    """Else it is told, and nothing more."""


def examine_kernel(*, encrypts: bool) -> tuple[KernelCheck, ...]:
    """Moves this process into a network namespace of its own, for good: it must have nothing else to do with
    the network. `encrypts`: the pair file wants that. Raises UnavailableError where a namespace or the trial
    is not possible."""
    wireguard = _try_wireguard(wanted=encrypts)
    _leave_the_network()
    tracking = Conntrack()
    try:
        return (
            judge_keeping(tracking.keeps_helper()),
            judge_automatic(_automatic()),
            wireguard,
        )
    finally:
        tracking.close()


def judge_keeping(keeps: bool) -> KernelCheck:
    if keeps:
        return KernelCheck(
            True, "a replicated connection keeps its helper: FTP, SIP and the like survive a failover"
        )
    return KernelCheck(
        False,
        "this kernel forgets the helper of a replicated connection: open FTP and SIP sessions get no"
        " new data connections after a failover; update to 5.17, or to 5.15.23 or 5.10.100 of their series",
    )


def judge_automatic(automatic: bool) -> KernelCheck:
    if not automatic:
        return KernelCheck(True, "helpers are bound by rules only, as they should be")
    return KernelCheck(
        False,
        "this kernel binds helpers to ports by itself, so that a client can open ports that no rule names;"
        " set net.netfilter.nf_conntrack_helper=0",
    )


def _try_wireguard(*, wanted: bool) -> KernelCheck:
    try:
        return judge_wireguard(has_wireguard(), wanted=wanted)
    except ToolError as error:
        return KernelCheck(False, str(error), wanted)


def judge_wireguard(there: bool, *, wanted: bool) -> KernelCheck:
    if there:
        return KernelCheck(True, "this kernel has WireGuard, for sync.encrypt", wanted)
    return KernelCheck(False, f"{MISSING}, which sync.encrypt of a pair file needs", wanted)


def _automatic() -> bool:
    """The switch is gone since Linux 6.0, and what it switched on with it."""
    return AUTO_ASSIGN.exists() and AUTO_ASSIGN.read_text().strip() != "0"


def _leave_the_network() -> None:
    library = ctypes.CDLL(None, use_errno=True)  # os.unshare came with Python 3.12
    flags = _NEW_NET if os.geteuid() == 0 else _NEW_NET | _NEW_USER
    if library.unshare(flags) != 0:
        why = os.strerror(ctypes.get_errno())
        raise UnavailableError(f"cannot make a network namespace for the trial: {why}", "run this as root")
