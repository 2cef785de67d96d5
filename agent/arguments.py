# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command lines of hafw and hafw-lab have in common."""

import argparse
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from agent.plain_address import ScopedAddressError, read_plain_address

_ALONE = ("-h", "--help", "--version")


def parse_path(text: str) -> Path:
    """Path("") would be the current directory, which nobody has named."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; name a file or a directory")
    return Path(text)


def parse_address(text: str) -> IPv4Address | IPv6Address:
    try:
        return read_plain_address(text)
    except ScopedAddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address") from error


def add_this_node(command: argparse.ArgumentParser) -> None:
    """Of a command that changes both nodes."""
    command.add_argument("--this-node", action="store_true", help="leave the other node as it is")


def refuse_early_options(parser: argparse.ArgumentParser, argv: Sequence[str], word: str) -> None:
    """An option that stands before the `word` (a command, a verb) that it belongs to: argparse would take
    its value for that word."""
    first = argv[0] if argv else ""
    if first.startswith("-") and not any(one.startswith(first.partition("=")[0]) for one in _ALONE):
        parser.error(f"unknown option {first!r} before the {word}; options stand behind it")
