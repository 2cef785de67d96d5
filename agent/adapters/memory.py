# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that Python and libnftables have freed, back to the system: the C library keeps it for the next
time, and after a large policy that is a few hundred megabytes."""

import ctypes
import gc

_libc = ctypes.CDLL(None)


def give_back() -> None:
    """May run in any thread; takes milliseconds, in which the others run. Does nothing where the C library
    has no such function."""
    # Python's own lists of freed objects lie all over the memory, and only a whole collection empties them.
    # With all frozen it has nothing to look through, which with a large policy would hold up every thread.
    gc.freeze()
    gc.collect()
    gc.unfreeze()
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
