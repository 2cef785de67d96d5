# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab screenshot NODE`: what a machine's screen shows, whether X or a text console is on it."""

import argparse
import os
import sys
from pathlib import Path

from agent.arguments import parse_path
from hafw_lab.arguments.common import add_lab_argument
from hafw_lab.client import registry
from hafw_lab.errors import LabError
from hafw_lab.spoken import show


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("node")
    verb.add_argument("--output", type=parse_path, metavar="FILE.png", help="default: NODE.png; - is stdout")
    add_lab_argument(verb)


def run(args: argparse.Namespace) -> int:
    lab = registry.attach(args.name)
    picture = lab.machine(args.node).desktop.take_picture()
    lab.close()
    target = args.output or Path(f"{args.node}.png")
    if str(target) == "-":
        if os.isatty(sys.stdout.fileno()):
            raise LabError("a terminal cannot show a picture", "redirect the output, or name a file")
        sys.stdout.buffer.write(picture)
        return 0
    try:
        target.write_bytes(picture)
    except OSError as error:
        raise LabError(f"cannot write {target}: {error.strerror}") from error
    show(str(target))
    return 0
