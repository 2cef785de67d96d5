# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments that several commands have in common."""

import argparse
from pathlib import Path

from agent.model.pair import SyncMode
from hafw_lab.client.registry import require_name
from hafw_lab.errors import LabError
from hafw_lab.hints import DEFAULT_LAB

_MAX_COUNT = 99_999_999


def add_lab_argument(parser: argparse.ArgumentParser) -> None:
    """Refused where it is read, so that no verb has to look at it again."""
    parser.add_argument(
        "--name", type=_parse_name, default=DEFAULT_LAB, help="which lab, if there are several"
    )


def add_late_lab_argument(parser: argparse.ArgumentParser) -> None:
    """The same behind a word of a verb that has it already."""
    parser.add_argument(
        "--name", type=_parse_name, default=argparse.SUPPRESS, help="which lab, if there are several"
    )


def _parse_name(text: str) -> str:
    try:
        return require_name(text)
    except LabError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_sync_argument(parser: argparse.ArgumentParser) -> None:
    modes = [mode.value for mode in SyncMode]
    parser.add_argument(
        "--sync", choices=modes, default=modes[0], help="where the backup keeps the states (default: direct)"
    )


def parse_count(text: str, least: int = 0) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > len(str(_MAX_COUNT)) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {_MAX_COUNT}")
    return int(text)


def parse_positive(text: str) -> int:
    """Of what there has to be one at least."""
    return parse_count(text, least=1)


def check_writable(path: Path | None, option: str = "--json", *, make_directory: bool = False) -> None:
    """Raises LabError before the work instead of after it."""
    if path is None:
        return
    try:
        if make_directory:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise LabError(f"cannot write to {path}: {error.strerror}", f"choose another {option}") from error
