# SPDX-License-Identifier: GPL-2.0-or-later
"""Which nodes the command line wants with a screen. Pure but for the parser that is added to."""

import argparse

from hafw_lab.errors import LabError
from hafw_lab.model.topology import NodeKind, Topology
from hafw_lab.vm.display import VIDEOS

_HOSTS = "hosts"
_ANY_ADDRESS = "0.0.0.0"


def add_desktop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--desktop",
        nargs="?",
        const=_HOSTS,
        metavar="NODE,...",
        help="virtual machines with a screen, for hafw-lab view: the client and the server, or those named",
    )
    parser.add_argument("--video", choices=VIDEOS, help=f"what makes that screen (default: {VIDEOS[0]})")
    parser.add_argument(
        "--remote",
        nargs="?",
        const=_ANY_ADDRESS,
        metavar="ADDRESS",
        help="open the screens to the network, with TLS and one-time tickets only: at every address of this"
        " machine, or the one named",
    )


def choose_desktops(
    wanted: str | None, video: str | None, remote: str | None, topology: Topology, host: str | None = None
) -> dict[str, str]:
    """The nodes that get a screen, and what makes it; never `host`, which this machine is. Raises LabError
    for what does not go together."""
    if wanted is None:
        for option, value in (("--video", video), ("--remote", remote)):
            if value is not None:
                raise LabError(f"{option} is for machines with a screen", "add --desktop")
        return {}
    nodes = [node for node in topology.nodes if node.name != host]
    names = [node.name for node in nodes]
    hosts = [node.name for node in nodes if node.kind is NodeKind.HOST]
    chosen = hosts if wanted == _HOSTS else wanted.split(",")
    for name in chosen:
        if name not in names:
            raise LabError(f"there is no node {name!r} for --desktop", f"the nodes are {', '.join(names)}")
    return dict.fromkeys(chosen, video or VIDEOS[0])
