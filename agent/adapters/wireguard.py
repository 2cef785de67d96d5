# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the kernel has WireGuard: it is tried, in a network namespace that is gone with the trial.

Hard facts
* The kernel loads a module that it has for a kind of link when one is made. Where it has none, `ip` says
  "Unknown device type" (6.1) or "Operation not supported".
"""

import asyncio
import os

from agent.adapters.process import run, use_pidfd_children
from agent.errors import ToolError

_APART = ("/usr/bin/unshare", "--net")
_TRIAL = ("/usr/sbin/ip", "link", "add", "hafw-trial", "type", "wireguard")
_NOT_THERE = ("Unknown device type", "Operation not supported")
_LIMIT_S = 20.0
MISSING = "this kernel has no WireGuard (CONFIG_WIREGUARD)"


def has_wireguard() -> bool:
    """Raises ToolError when it cannot be tried."""
    use_pidfd_children()
    argv = (*_APART, *(("--map-root-user",) if os.geteuid() else ()), *_TRIAL)
    done = asyncio.run(run(argv, timeout_s=_LIMIT_S))
    if done.exit_status == 0:
        return True
    if any(one in done.stderr for one in _NOT_THERE):
        return False
    raise ToolError(argv, f"cannot try whether the kernel has WireGuard: {done.stderr.strip()}")
