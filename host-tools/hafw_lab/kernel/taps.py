# SPDX-License-Identifier: GPL-2.0-or-later
"""The fabric's end of a machine's interface: a tap, whose descriptor goes to the machine's qemu.

Hard facts
* A tap belongs to the network namespace in which /dev/net/tun was opened, and is gone when its last
  descriptor is closed: nothing has to be cleared away, whichever process dies.
* Without IFF_VNET_HDR every packet's checksum is computed by the machine, which costs a third of its
  throughput. qemu asks the descriptor whether it is there.
"""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Sequence

from hafw_lab.errors import LabError
from hafw_lab.plan.values import Cable
from hafw_lab.process import run_ip

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x4004_54CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def require_taps(device: str = _DEVICE) -> None:
    """Raises LabError that says what to do where this user cannot make any."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        hints = {
            errno.ENOENT: "modprobe tun",
            errno.ENODEV: "modprobe tun",
            errno.EACCES: f"start the lab as root, or let this user in: setfacl -m u:$USER:rw {device}",
        }
        hint = hints.get(error.errno or 0, "start the lab as root")
        raise LabError(f"machines need {device}, which cannot be opened: {error.strerror}", hint) from error


def open_taps(cables: Sequence[Cable]) -> list[int]:
    """One descriptor a cable, in the current network namespace, each plugged into its bridge. The caller
    closes them, and with that the taps are gone. Raises LabError."""
    with contextlib.ExitStack() as stack:
        found = []
        for cable in cables:
            found.append(_open_tap(cable.fabric))
            stack.callback(os.close, found[-1])
        run_ip(plan_taps(cables))
        stack.pop_all()
    return found


def plan_taps(cables: Sequence[Cable]) -> str:
    """Lines for `ip -batch` that plug taps which are there into their bridges. Pure."""
    lines = []
    for cable in cables:
        lines.append(f"link set {cable.fabric} address {cable.fabric_mac}")
        lines.append(f"link set {cable.fabric} master {cable.bridge} up")
    return "\n".join(lines) + "\n"


def _open_tap(name: str) -> int:
    require_taps()
    descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError as error:
        os.close(descriptor)
        raise LabError(f"cannot make the tap {name}: {error.strerror}") from error
    return descriptor
