# SPDX-License-Identifier: GPL-2.0-or-later
"""The user that a qemu runs as: one that owns nothing; and it ends with the supervisor."""

import os
from pathlib import Path

from hafw_lab.vm.command_line import Accelerator

_NOBODY = 65534


def find_user() -> int:
    """Root runs a qemu as the user nobody; others, also root of a user namespace, have only themselves."""
    whole = Path("/proc/self/uid_map").read_text().split()[-1] == str(2**32 - 1)
    return _NOBODY if os.geteuid() == 0 and whole else os.geteuid()


def plan_leash(user: int, accelerator: Accelerator) -> tuple[str, ...]:
    """What comes before qemu's command line.

    The kernel forgets a parent-death signal when a process changes its user; setpriv sets it afterwards.
    """
    become: tuple[str, ...] = ()
    if user != os.geteuid():
        become = (f"--reuid={user}", f"--regid={user}", _groups(accelerator))
    return ("/usr/bin/setpriv", *become, "--no-new-privs", "--pdeathsig", "KILL", "--")


def _groups(accelerator: Accelerator) -> str:
    if accelerator is Accelerator.KVM:
        return f"--groups={os.stat('/dev/kvm').st_gid}"
    return "--clear-groups"
