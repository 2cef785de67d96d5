# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of what is rendered, as `hafw render` takes them. Pure.

`renderers.py` has what stands behind each. This is apart from it, so that a command that renders nothing
does not load the renderers.
"""

from enum import Enum


class Rendered(Enum):
    KEEPALIVED = "keepalived"
    CONNTRACKD = "conntrackd"
    MODULES = "modules"
    NETWORKD = "networkd"
    NFTABLES = "nftables"
    SYSCTL = "sysctl"
