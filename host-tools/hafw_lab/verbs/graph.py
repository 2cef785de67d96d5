# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab graph`: the picture of the running lab with its live roles, or of a topology that is not up."""

import argparse
import sys

from agent.arguments import parse_path
from hafw_lab.arguments.common import add_lab_argument
from hafw_lab.client import registry
from hafw_lab.client.lab import LabStatus, NodeStatus
from hafw_lab.errors import LabError
from hafw_lab.model.topology import Topology
from hafw_lab.model.topology_file import choose_topology
from hafw_lab.plan.host_link import with_host
from hafw_lab.report.topology import Live, LiveNode, to_mermaid, to_svg, to_text

_FORMATS = {"text": to_text, "mermaid": to_mermaid, "svg": to_svg}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_lab_argument(parser)
    parser.add_argument("--format", choices=_FORMATS, default="text", help="default: text")
    parser.add_argument(
        "--topology", type=parse_path, metavar="FILE", help="of the lab, if not the built-in one"
    )
    parser.add_argument(
        "--output", type=parse_path, metavar="FILE", help="write there instead of to the terminal"
    )


def run(args: argparse.Namespace) -> int:
    """Raises LabError when the file cannot be read or written."""
    text = _FORMATS[args.format](*_find(args))
    if args.output is None:
        sys.stdout.write(text)
        return 0
    try:
        args.output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LabError(
            f"cannot write to {args.output}: {error.strerror}", "choose another --output"
        ) from error
    return 0


def _find(args: argparse.Namespace) -> tuple[Topology, Live | None]:
    """A lab that is up is drawn as it is now; when none is, the topology as it would be."""
    topology = choose_topology(args.topology)
    if args.name not in registry.find_names():
        return topology, None
    lab = registry.attach(args.name)
    try:
        topology = with_host(topology, lab.host)
        if tuple(node.name for node in topology.nodes) != lab.nodes:
            hint = "name the file that it was started with: --topology FILE"
            raise LabError(f"lab {args.name!r} has another topology", hint)
        return topology, live_nodes(lab.status())
    finally:
        lab.close()


def live_nodes(status: LabStatus) -> Live:
    return {
        node.name: LiveNode(
            alive=node.alive,
            role=_role(node, status.primary),
            vips=node.vips,
            links_down=frozenset(link for link, up in node.links.items() if not up),
        )
        for node in status.nodes
    }


def _role(node: NodeStatus, primary: str | None) -> str | None:
    if not node.firewall:
        return "this machine" if node.host else None
    return "primary" if node.name == primary else "backup"
