# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of `hafw setup`. What it does is in cli/setup.py, which takes its time to load."""

import argparse
from collections.abc import Callable
from pathlib import Path

from agent.arguments import parse_path

BOTH_TOGETHER = "--both-together"
DROP_OTHERS = "--drop-others"
DESCRIPTION = """\
Writes what keepalived, conntrackd, systemd-networkd, sysctl and the loading of modules need on this
node, all from the pair file. Shows every change as a diff and asks before it writes. The file that was
there stays beside the new one as NAME.before-hafw (that first one is never written again), later ones
with their time.
"""
EPILOG = """\
exit status: 0 everything is as the pair file wants it; 1 it is not (--dry-run, or the answer was no), or
something failed; 2 wrong arguments or pair file, and with --dry-run everything that failed
"""


def add_command(add_parser: Callable[..., argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The parser of `hafw setup`, made by the `add_parser` of the whole command's subparsers."""
    command = add_parser(
        "setup",
        help="show and write what the other daemons of this node need",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(refuse=command.error)
    command.add_argument(
        "--root",
        type=parse_path,
        default=Path("/"),
        metavar="DIR",
        help="write below this directory, for an image or a chroot",
    )
    command.add_argument("--dry-run", action="store_true", help="only show what would change")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument(
        "--replace",
        action="append",
        default=[],
        choices=("keepalived.conf", "conntrackd.conf"),
        help="replace this file although it was made by hand (may be given twice)",
    )
    command.add_argument(
        BOTH_TOGETHER,
        action="store_true",
        help="write files that the other node does not understand before it has them, too",
    )
    command.add_argument(
        DROP_OTHERS,
        action="store_true",
        help="with --replace keepalived.conf: what else that file does may go",
    )
    command.add_argument(
        "--restart", action="store_true", help="make the changes live at once; do so on the backup first"
    )
    command.add_argument("--json", action="store_true", help="with --yes or --dry-run: the outcome as JSON")
    return command
