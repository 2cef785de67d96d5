# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw pair`: the key by which the two nodes know each other."""

import argparse
import sys
from pathlib import Path

from agent.arguments import parse_path
from agent.errors import HafwError
from agent.paths import Paths
from agent.regular_file import read_regular


def add_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "make the key of the pair, on one node, once"
    command = commands.add_parser("key", help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run_key)
    text = "take the key that the other node has"
    command = commands.add_parser("join", help=text, description=text[0].upper() + text[1:] + ".")
    command.add_argument(
        "key_file", type=parse_path, metavar="FILE", help="the key, or - for standard input"
    )
    command.set_defaults(run=run_join)


def run_key(_: argparse.Namespace, paths: Paths) -> int:
    from agent.setup import pair_key

    pair_key.make(paths.pair_key)
    print(f"made {paths.pair_key}\n\n{pair_key.carry_words(paths.pair_key)}{_tunnel_words(paths)}", end="")
    return 0


def run_join(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.setup import pair_key

    if not pair_key.join(paths.pair_key, _read(arguments.key_file)):
        print(f"{paths.pair_key} is this key already")
        return 0
    print(f"wrote {paths.pair_key}; the agent takes it within a second: hafw status shows both nodes then")
    print(_tunnel_words(paths), end="")
    return 0


def _tunnel_words(paths: Paths) -> str:
    from agent.config import loader

    try:
        has_tunnels = bool(loader.load(paths.pair_file).tunnels)
    except HafwError:  # no pair file yet
        has_tunnels = False
    return "The tunnels over the sync links get other keys by it: run hafw setup\n" if has_tunnels else ""


def _read(source: Path) -> str:
    from agent.channel.local import MAX_KEY_FILE

    if str(source) != "-":
        return read_regular(source, MAX_KEY_FILE).decode("ascii", "replace")
    data = sys.stdin.buffer.read(MAX_KEY_FILE + 1)
    if len(data) > MAX_KEY_FILE:
        raise HafwError("that is no key: it is too long", "give it /etc/hafw/pair.pem of the other node")
    return data.decode("ascii", "replace")
