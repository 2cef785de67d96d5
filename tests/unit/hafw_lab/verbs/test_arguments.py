# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of the lab: what argparse alone would take for something else."""

import argparse
from collections.abc import Iterator

import pytest

from hafw_lab.verbs.main import LATE_VERBS, load_verb, main, make_parser

EMPTY = "the path is empty; name a file or a directory"


def paths_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from paths_of(inner)
        elif action.metavar in ("FILE", "DIR", "FILE.png"):
            yield action


def test_no_path_may_be_empty() -> None:
    found = [*paths_of(make_parser())]
    for name in LATE_VERBS:
        found += paths_of(make_parser(load_verb(name), name))
    assert len(found) > 10
    for action in found:
        assert callable(action.type), action
        with pytest.raises(argparse.ArgumentTypeError, match=EMPTY):
            action.type("")


def test_an_option_before_its_verb_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--name", "x", "status"])
    assert ended.value.code == 2
    assert "unknown option '--name' before the verb; options stand behind it" in capsys.readouterr().err
