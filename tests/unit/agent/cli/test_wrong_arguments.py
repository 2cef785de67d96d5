# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command `hafw` refuses before it does anything."""

import pytest

from tests.unit.agent.cli.hafw_run import PAIR, hafw

WRONG = [
    (),
    ("nonsense",),
    ("check", "a", "b"),
    ("render", "iptables", str(PAIR)),
    ("render",),
    ("plan", "backup"),
    ("plan", "king", "queen"),
    ("plan", "unknown", "primary"),
    ("history", "-n", "0"),
    ("history", "-n", "-1"),
    ("history", "-n", "x"),
    ("history", "-n", "9" * 5000),
    ("status", "now"),
    ("--nonsense",),
    ("agent", "more"),
    (b"\xff\xfe",),
    ("check", str(PAIR), "--node", "fw-1"),
    *(
        ("rules", "rollback", "--unconfirmed", "x", "--after", text)
        for text in ("nan", "-1", "1e30", "inf", "")
    ),
    ("rules", "rollback", "--unconfirmed", "x", "--after", "86401"),
]


@pytest.mark.parametrize("arguments", WRONG, ids=lambda arguments: repr(arguments)[:40])
def test_wrong_arguments(arguments: tuple[str | bytes, ...]) -> None:
    done = hafw(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"usage: hafw")


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", ""),
        ("plan", "backup", "primary", "--file", ""),
        ("settle", "--file", ""),
        ("setup", "--root", "", "--dry-run"),
        *(("rules", verb, "") for verb in ("check", "diff", "apply")),
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_this_directory(arguments: tuple[str, ...]) -> None:
    done = hafw(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"the path is empty; name a file or a directory" in done.stderr


def test_an_option_before_its_command_is_named() -> None:
    done = hafw("--file", str(PAIR), "check")
    assert done.returncode == 2
    assert b"unknown option '--file' before the command; options stand behind it" in done.stderr
