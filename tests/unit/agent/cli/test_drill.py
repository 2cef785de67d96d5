# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw drill` before it does anything."""

from tests.unit.agent.cli.hafw_run import hafw


def test_without_a_terminal_it_asks_nobody_and_does_nothing() -> None:
    done = hafw("drill")
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.splitlines()
    assert line.endswith(b"so nothing was done; add --yes to begin without asking")


def test_json_has_no_question_in_it() -> None:
    done = hafw("drill", "--json")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--json asks no question; add --yes" in done.stderr


def test_without_an_agent_there_is_none() -> None:
    done = hafw("drill", "--yes")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"does not answer" in done.stderr
