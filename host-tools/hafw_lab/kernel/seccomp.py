# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls that a node has to be able to make although the kernel refuses them.

Hard facts
* A process that maps its groups into a user namespace without privilege must give up setgroups(2) in it.
* keepalived (2.2.7, 2.3.3) calls setgroups before each script and, when it fails, does not run the script.
* keepalived (2.2.7, 2.3.3) with a real-time priority lowers both its limits of real time to 0 at a reload,
  and then raises them again, which only CAP_SYS_RESOURCE of the machine itself may: without it the kernel
  kills keepalived some milliseconds of its own time later.
* A seccomp filter can answer a system call in the kernel's place; an "error" of 0 is success. The group list
  that stays as it is contains nothing that the caller's own processes did not have before.
"""

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Sequence

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_ANSWER_SUCCESS, _ALLOW = 0x0005_0000, 0x7FFF_0000
_CALLS = {  # machine: (audit architecture, number of setgroups, of prlimit64)
    "x86_64": (0xC000_003E, 116, 302),
    "aarch64": (0xC000_00B7, 159, 261),
    "riscv64": (0xC000_00F3, 159, 261),
    "ppc64le": (0xC000_0015, 81, 325),
    "s390x": (0x8000_0016, 206, 334),
}
_RLIMIT_LOCKS = 10
"""A limit that has had no meaning since Linux 2.4.25."""

_Step = tuple[int, int, int, int]  # code, steps to leave out if true and if not, value

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def pretend_setgroups() -> None:
    """From here on setgroups does nothing and succeeds, here and in every child. Raises OSError.

    Does nothing on a machine whose numbers are not known; there keepalived says that it could not run its
    scripts.
    """
    known = _CALLS.get(os.uname().machine)
    if known is not None:
        architecture, setgroups, _ = known
        _install(architecture, setgroups, ())


def pretend_real_time_limit() -> None:
    """The same for a new limit of real time, where this process may lower one and not raise it again."""
    known = _CALLS.get(os.uname().machine)
    if known is None or _may_raise_limits():
        return
    architecture, _, prlimit = known
    least, most = (0, 4) if sys.byteorder == "little" else (4, 0)  # the halves of an argument

    def argument(number: int, half: int) -> _Step:
        return (_LOAD_WORD, 0, 0, _ARGUMENTS_OFFSET + 8 * number + half)

    # the fourth argument is where the limit of now is to go: without one it is only set
    checks = ((argument(1, least), resource.RLIMIT_RTTIME), (argument(3, least), 0), (argument(3, most), 0))
    _install(architecture, prlimit, checks)


def _may_raise_limits() -> bool:
    soft, hard = resource.getrlimit(_RLIMIT_LOCKS)
    lower = 1 << 20 if hard == resource.RLIM_INFINITY else hard - 1
    resource.setrlimit(_RLIMIT_LOCKS, (min(lower, soft) if soft != resource.RLIM_INFINITY else lower, lower))
    try:
        resource.setrlimit(_RLIMIT_LOCKS, (soft, hard))
    except (ValueError, PermissionError):
        return False
    return True


def _install(architecture: int, number: int, checks: Sequence[tuple[_Step, int]]) -> None:
    """Answer success to the call `number`, if every word that is loaded has its value. Raises OSError."""
    left = 2 * len(checks)  # steps up to the answer
    steps: list[_Step] = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_IF_EQUAL, 0, left + 3, architecture),
        (_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_EQUAL, 0, left + 1, number),
    ]
    for load, value in checks:
        left -= 2
        steps += [load, (_JUMP_IF_EQUAL, 0, left + 1, value)]
    steps += [(_RETURN, 0, 0, _ANSWER_SUCCESS), (_RETURN, 0, 0, _ALLOW)]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    if _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        refused = ctypes.get_errno()
        raise OSError(refused, os.strerror(refused), "seccomp filter")
