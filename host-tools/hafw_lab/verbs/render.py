# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab render host`: the bridges as lasting files of this machine."""

import argparse
from pathlib import Path

from agent.arguments import parse_path
from hafw_lab.errors import LabError
from hafw_lab.model.topology_file import choose_topology
from hafw_lab.plan.host_network import HostFile, plan_host
from hafw_lab.spoken import say, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("host",), help="the bridges of this machine, for systemd-networkd")
    parser.add_argument("--host", metavar="NODE", help="the node that this machine itself is, e.g. omarine")
    parser.add_argument(
        "--server-route",
        action="store_true",
        help="with the way back to the clients, for a pair without NAT",
    )
    parser.add_argument(
        "--topology", type=parse_path, metavar="FILE", help="another topology than the built-in one"
    )
    parser.add_argument(
        "--output",
        type=parse_path,
        metavar="DIR",
        help="write below DIR (/ installs them) instead of printing",
    )


def run(args: argparse.Namespace) -> int:
    """Raises LabError when a file cannot be written."""
    topology = choose_topology(args.topology)
    files = plan_host(topology, args.host, server_route=args.server_route)
    if args.output is None:
        for file in files:
            show(f"# {file.path}\n{file.text}")
        return 0
    for file in files:
        write_below(args.output, file)
    say("make them live with: networkctl reload")
    return 0


def write_below(root: Path, file: HostFile) -> None:
    """Raises LabError; a file that is there with other content is not touched."""
    path = root / file.path.relative_to("/")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_text(encoding="utf-8", errors="replace") != file.text:
            raise LabError(
                f"{path} is there already and says something else", "move it away, or merge by hand"
            )
        path.write_text(file.text, encoding="utf-8")
    except OSError as error:
        raise LabError(
            f"cannot write {path}: {error.strerror}", "as root, or choose another --output"
        ) from error
    say(f"{path} is written")
