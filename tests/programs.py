# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands as their own parsers know them."""

import argparse
from collections.abc import Callable, Iterator

from agent.cli.main import make_parser
from hafw_lab.verbs import main as lab


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:  # argparse has no other way to ask
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Those that are shown to people."""
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return [option for action in shown for option in action.option_strings]


def walk(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command with its words, the program itself first."""
    yield path, parser
    for name, below in commands_of(parser).items():
        yield from walk(below, (*path, name))


def make_lab_parser() -> argparse.ArgumentParser:
    """With the arguments of the verbs that are read only when they are asked for."""
    parser = lab.make_parser()
    verbs = commands_of(parser)
    for name in lab.LATE_VERBS:
        lab.load_verb(name).add_arguments(verbs[name])
    return parser


PROGRAMS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "hafw": make_parser,
    "hafw-lab": make_lab_parser,
}
