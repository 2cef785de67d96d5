"""One system call that a node of an ordinary user has to be able to make although the kernel refuses it.

Hard facts
* Whoever maps his groups into a user namespace without privilege must give up setgroups(2) in it.
* keepalived (2.2.7, 2.3.3) calls setgroups before each script and, when it fails, does not run the script.
* A seccomp filter can answer a system call in the kernel's place; an "error" of 0 is success. The group list
  that stays as it is contains nothing that the caller's own processes did not have before.
"""

import ctypes
import os
import struct

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_ANSWER_SUCCESS, _ALLOW = 0x0005_0000, 0x7FFF_0000
_SETGROUPS = {  # machine: (audit architecture, number of setgroups)
    "x86_64": (0xC000_003E, 116),
    "aarch64": (0xC000_00B7, 159),
    "riscv64": (0xC000_00F3, 159),
    "ppc64le": (0xC000_0015, 81),
    "s390x": (0x8000_0016, 206),
}

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def pretend_setgroups() -> None:
    """From here on setgroups does nothing and succeeds, here and in every child. Raises OSError.

    Does nothing on a machine whose numbers are not known; there keepalived says that it could not run its
    scripts.
    """
    known = _SETGROUPS.get(os.uname().machine)
    if known is None:
        return
    architecture, number = known
    steps = (
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_IF_EQUAL, 0, 3, architecture),
        (_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _ANSWER_SUCCESS),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    if _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "seccomp filter")
