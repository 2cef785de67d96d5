# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node says never reaches a terminal as it is, and every command that the lab names can be pasted."""

import argparse
import json
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from hafw_lab.client import registry
from hafw_lab.client.lab import Lab
from hafw_lab.errors import LabError
from hafw_lab.model.options import LabOptions
from hafw_lab.plan.host_network import HostFile
from hafw_lab.spoken import Ink, show_json, show_painted, start_clock
from hafw_lab.verbs import main as program
from hafw_lab.verbs import render, view, watch

HOSTILE = "\x1b]0;pwned\x07\x9b31m\u202etext\x1b[2J\r"
INFO = {
    "name": "mine",
    "about": LabOptions().to_json(),
    "nodes": ["fw-1"],
    "firewalls": ["fw-1"],
    "vips": [],
    "pid": 1,
    "machines": {},
    "directory": None,
    "home": "/",
}
NODE = {
    "name": "fw-1",
    "firewall": True,
    "alive": True,
    "pid": 1,
    "vips": [],
    "links": {"eth0": True},
    "logs": [HOSTILE],
    "services": {"agent": {"pid": 1, "exit": None}, HOSTILE: {"pid": None, "exit": 1}},
    "conntrack": 1,
    "refused_sysctls": [HOSTILE],
    "machine": None,
}
AGENT = {
    "role": HOSTILE,
    "gate": HOSTILE,
    "problems": {HOSTILE: HOSTILE},
    "rules": {"loaded": HOSTILE, "intact": False},
    "states": {"mode": HOSTILE},
    "last_transition": {"from": HOSTILE, "to": HOSTILE, "result": HOSTILE, "duration_ms": HOSTILE},
}


class FakeClient:
    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    def ask(self, op: str, **_: object) -> Any:
        found = self._answers[op]
        if isinstance(found, LabError):
            raise found
        return found

    def close(self) -> None: ...


class FakeNode:
    """A node whose agent answers what it likes."""

    def __init__(self, said: str) -> None:
        self.stdout = said

    def run(self, _argv: object, **_: object) -> "FakeNode":
        return self


def make_lab(said: str = json.dumps(AGENT), **answers: Any) -> Lab:
    status = {"primary": None, "nodes": [NODE], "starting": HOSTILE}
    lab = Lab(FakeClient({"info": INFO, "status": status, **answers}))  # type: ignore[arg-type]  # as it asks
    lab.node = lambda _: FakeNode(said)  # type: ignore[assignment,return-value,method-assign]  # as it is used
    return lab


def is_harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def run_watch(_: object = None) -> int:
    return watch.run(argparse.Namespace(name="mine", once=True))


@pytest.mark.parametrize(
    "run",
    [
        lambda: program.main(["status", "--name", "mine"]),
        lambda: program.main(["status", "--json", "--name", "mine"]),
        lambda: program.main(["fail", "fw-1", "--name", "mine"]),
        run_watch,
    ],
    ids=["status", "json", "error", "watch"],
)
def test_nothing_that_a_node_says_commands_the_terminal(
    run: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = LabError(f"fw-1: it said {HOSTILE}", HOSTILE)
    monkeypatch.setattr(registry, "find_names", lambda: ["mine"])
    monkeypatch.setattr(registry, "attach", lambda _: make_lab(inject=refused))
    run()
    said = capsys.readouterr()
    assert "text" in said.out + said.err
    assert is_harmless(said.out + said.err)


@pytest.mark.parametrize(
    "said",
    [
        "[" * 100_000,
        '{"states": 1}',
        '{"rules": "x"}',
        '{"problems": ["bus"]}',
        '{"problems": "x"}',
        '{"last_transition": {}}',
        '{"last_transition": 1}',
        "[]",
        "",
    ],
    ids=lambda text: text[:24],
)
def test_an_agent_that_answers_nonsense_has_not_answered(said: str) -> None:
    assert make_lab(said).status().node("fw-1").agent is None


def test_what_is_not_about_a_column_is_below_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = {f"condition-number-{number}": "words" for number in range(9)}
    said = json.dumps({**AGENT, "problems": problems})
    monkeypatch.setattr(registry, "attach", lambda _: make_lab(said))
    run_watch()
    words = capsys.readouterr().out.replace(",", "").split()
    assert set(problems) <= set(words)


def test_a_checkout_names_itself_everywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HAFW_LAB_COMMAND", "./run lab")
    monkeypatch.setenv("HAFW_CACHE", str(tmp_path))
    for words in (["--help"], ["exec", "--help"], ["clipboard", "--help"], ["export", "--help"]):
        with pytest.raises(SystemExit):
            program.main(words)
    program.main(["image", "list"])
    said = capsys.readouterr().out
    assert "./run lab up" in said
    assert "./run lab image build" in said
    assert "usage: ./run lab exec [--name NAME] NODE" in said
    assert "hafw-lab " not in said
    elsewhere = view.compose_elsewhere("client", "mine", Path("/x"), remote=True)
    assert f"{os.getcwd()}/run lab view --name mine client --print" in elsewhere


@pytest.mark.parametrize("words", [["--help"], ["clipboard", "--help"]])
def test_help_of_a_checkout_keeps_its_columns(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    indents = []
    for called in ("hafw-lab", "./run lab"):
        monkeypatch.setenv("HAFW_LAB_COMMAND", called)
        with pytest.raises(SystemExit):
            program.main(words)
        examples = capsys.readouterr().out.partition("examples:")[2]
        assert called in examples
        rows = [line for line in examples.splitlines() if re.search(" {3,}", line)]
        indents.append({len(line) - len(re.split(" {3,}", line)[-1]) for line in rows})
    assert [len(one) for one in indents] == [1, 1], "every row has its words in the same column"


def make_screen(*, ticket: str, starting: str | None = None) -> Lab:
    about = {**INFO, "about": LabOptions().to_json(), "machines": {"fw-1": "trixie"}, "directory": "/lab"}
    answers = {"info": about, "viewers": {"viewers": []}, "ticket": {"ticket": ticket, "remote": None}}
    if starting is not None:
        answers["viewers"] = LabError(f"fw-1 is not made yet: lab 'mine' is starting: {starting}", HOSTILE)
    return Lab(FakeClient(answers))  # type: ignore[arg-type]  # as it asks


@pytest.mark.parametrize("starting", [None, HOSTILE], ids=["up", "starting"])
def test_a_screen_for_others_commands_no_terminal(
    starting: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "attach", lambda _: make_screen(ticket=HOSTILE, starting=starting))
    status = program.main(["view", "fw-1", "--print", "--name", "mine"])
    said = capsys.readouterr()
    assert status == (0 if starting is None else 1)
    assert "text" in said.out + said.err
    assert is_harmless(said.out + said.err)
    assert said.out.endswith("\n") is (starting is None)
    assert not said.out.endswith("\n\n"), "a program reads it"


def test_what_a_viewer_says_commands_no_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = tmp_path / "viewer"
    viewer.write_text("#!/bin/sh\ncat >/dev/null; echo said; printf '\\033[31mtext' >&2; exit 5\n")
    viewer.chmod(0o755)
    assert view.open_viewer(str(viewer), "[virt-viewer]\n") == 5
    said = capfd.readouterr()
    assert "text" in said.err
    assert is_harmless(said.out + said.err)


def test_bridges_of_this_machine_command_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(render, "plan_host", lambda *_, **__: [HostFile(PurePosixPath("/etc/x"), HOSTILE)])
    assert program.main(["render", "host"]) == 0
    place = tmp_path / HOSTILE.replace("/", "")
    assert program.main(["render", "host", "--output", str(place)]) == 0
    assert (place / "etc" / "x").read_bytes() == HOSTILE.encode()
    said = capsys.readouterr()
    assert "text" in said.out
    assert "is written" in said.err
    assert is_harmless(said.out + said.err)


@pytest.mark.parametrize(
    ("starting", "said"),
    [("bridges br0", "fw-1 has no logs yet: lab 'mine' is starting: bridges br0;"), (None, "no logs yet;")],
)
def test_a_node_that_is_not_on_yet_has_no_logs_and_is_not_off(
    starting: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = {**NODE, "alive": False, "logs": [], "services": {}}
    status = {"primary": None, "nodes": [node], "starting": starting}
    monkeypatch.setattr(registry, "find_names", lambda: ["mine"])
    monkeypatch.setattr(registry, "attach", lambda _: make_lab(status=status))
    assert program.main(["logs", "fw-1", "--name", "mine"]) == 1
    assert said in capsys.readouterr().err
    program.main(["status", "--name", "mine"])
    assert ("fw-1       not on yet" if starting else "fw-1       off") in capsys.readouterr().out


def test_a_checkout_with_a_blank_in_its_name_is_quoted_for_both_shells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HAFW_LAB_COMMAND", "'/a b/run' lab")
    elsewhere = view.compose_elsewhere("client", "lab", Path("/x"), remote=True)
    assert """'"'"'/a b/run'"'"' lab view client --print' | """ in elsewhere


@pytest.mark.parametrize("colors", [True, False])
def test_of_what_is_painted_only_the_colors_reach_a_terminal(
    capsys: pytest.CaptureFixture[str], colors: bool
) -> None:
    ink = Ink(colors)
    show_painted(ink("red", HOSTILE))
    show_painted(HOSTILE)
    start_clock(ink)(HOSTILE)
    said = capsys.readouterr().out
    assert said.count("text") == 3
    assert ("\x1b[31m" in said) == colors
    assert is_harmless(re.sub(r"\x1b\[(0|1|2|31)m", "", said))


def test_a_command_within_what_is_painted_can_be_pasted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAFW_LAB_COMMAND", "./run lab")
    show_painted(Ink(True)("yellow", "try: hafw-lab status"))
    assert "./run lab status" in capsys.readouterr().out


def test_json_is_harmless_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({HOSTILE: HOSTILE})
    said = capsys.readouterr().out
    assert is_harmless(said)
    assert json.loads(said) == {HOSTILE: HOSTILE}


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["up"],
        ["down"],
        ["graph"],
        ["usb", "list"],
        ["watch"],
        ["snapshot", "save", "x"],
        ["screenshot", "fw-1"],
    ],
    ids=" ".join,
)
def test_a_name_that_no_lab_can_have_is_refused_before_anything_is_hinted_at(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "find_names", lambda: pytest.fail("this name is not looked for"))
    with pytest.raises(SystemExit) as end:
        program.main([*words, "--name", "../x"])
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (2, "")
    assert "'../x' is not a valid name for a lab; use up to 32 letters" in said.err
    assert "start one with" not in said.err
