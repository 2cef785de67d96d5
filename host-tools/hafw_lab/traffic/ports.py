# SPDX-License-Identifier: GPL-2.0-or-later
"""The ports of the measured traffic. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ports:
    """Of the server."""

    tcp: int
    udp: int


USUAL_PORTS = Ports(22, 5353)
"""The lab's policy allows them anyway."""
SPARE_PORTS = Ports(22022, 25353)
"""Free also on a machine that has an sshd and answers mDNS."""
