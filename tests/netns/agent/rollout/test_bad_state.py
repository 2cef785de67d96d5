# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of ours and of the administrator's that are bad in every way: the agent starts with the last good
generation, says so, and is healed by a good file; no command ends in a traceback."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.config import loader
from tests.checkout import ROOT
from tests.netns.machine import Machine, start_agent, start_machine, tell_agent
from tests.netns.pair_checks import rules_digest, until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif("os.geteuid() != 0", reason="has /etc, /run and /var of its own, which root may"),
]

PAIR_FILE = "/etc/hafw/hafw.yaml"
PAIR = (ROOT / "examples" / "pair.yaml").read_text() + "sets: {bad: {file: bad.txt}}\n"
A = PAIR.replace("policy:\n", "policy:\n  - {from: client, to: server, drop: [any], source: [bad]}\n")
B = A.replace("allow: [", "allow: [smtp, ")
LIST = "203.0.113.9\n"
RULES_A, RULES_B = (rules_digest(loader.parse(text, texts={"bad.txt": LIST})) for text in (A, B))
PATIENCE_S = 60


@pytest.fixture
def machine() -> Iterator[Machine]:
    """With generation 1 in force."""
    with start_machine() as started:
        started.write(PAIR_FILE, A)
        started.write("/etc/hafw/bad.txt", LIST)
        started.rules("apply")
        yield started


def status_of(machine: Machine) -> tuple[int, Any]:
    done = machine.run(sys.executable, "-P", "-m", "agent", "status", "--json")
    return done.returncode, json.loads(done.stdout)


def place(machine: Machine, path: str) -> Path:
    return machine.root / path.lstrip("/")


def remove(path: Path) -> None:
    path.unlink()


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def make_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def link_to_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def written(content: str | bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    write.__name__ = repr(content[:20])
    return write


BAD_FILES = [
    remove,
    make_fifo,
    make_directory,
    make_socket,
    make_circle,
    dangle,
    link_to_device,
    written(""),
    written(b"\xff\xfe"),
    written("[" * 100_000),
    written(A.replace("fw-1", "fw-8")),
    lambda path: path.chmod(0o666),
    lambda path: os.chown(path, 65534, 0),
]
"""For the pair file and, but for what a list may be, for a list."""


@pytest.mark.parametrize("spoil", BAD_FILES, ids=lambda one: one.__name__)
def test_a_bad_pair_file_and_the_last_good_generation(
    machine: Machine, spoil: Callable[[Path], None]
) -> None:
    spoil(place(machine, PAIR_FILE))
    machine.must("nft", "flush", "ruleset")  # as after a boot
    with start_agent(machine):
        until(lambda: machine.digest() == RULES_A, PATIENCE_S, "the last good rules are not loaded")
        status, values = status_of(machine)
        assert status == 2
        assert "configuration" in values["problems"]
        told = [one for one in machine.records() if one.get("condition") == "configuration"]
        assert [one["event"] for one in told] == ["alarm"]
        assert "generation 1 is in use instead" in told[0]["message"]
        assert len(machine.rules_json("generations")) == 1
        bad = place(machine, PAIR_FILE)
        if bad.is_dir():
            bad.rmdir()
        bad.unlink(missing_ok=True)
        machine.write(PAIR_FILE, B)
        tell_agent(machine, signal.SIGHUP)
        until(lambda: machine.digest() == RULES_B, PATIENCE_S, "the good file is not taken")
        until(
            lambda: "configuration" not in status_of(machine)[1]["problems"], PATIENCE_S, "it is not healed"
        )


@pytest.mark.parametrize("spoil", [make_circle, dangle, remove], ids=lambda one: one.__name__)
def test_an_apply_over_an_installed_file_that_leads_nowhere(
    machine: Machine, spoil: Callable[[Path], None]
) -> None:
    machine.write("/run/b.yaml", B)
    machine.write("/run/bad.txt", LIST)
    spoil(place(machine, PAIR_FILE))
    machine.rules("check", "/run/b.yaml")
    machine.rules("apply", "/run/b.yaml")
    assert machine.digest() == RULES_B
    assert machine.read(PAIR_FILE) == B


def test_a_list_that_its_feed_has_emptied(machine: Machine) -> None:
    machine.write("/etc/hafw/bad.txt", "")
    with start_agent(machine):
        assert machine.digest() == RULES_A
        assert status_of(machine)[0] == 2


COMMANDS = [
    ("generations",),
    ("generations", "--json"),
    ("rollback", "2"),
    ("rollback", "3"),
    ("rollback",),
    ("confirm",),
    ("diff",),
    ("rollback", "--unconfirmed", "0"),
    ("apply", PAIR_FILE),
]


def test_no_command_and_no_agent_dies_of_bad_generations(machine: Machine) -> None:
    """Reported once each, and neither they nor a bad pair file keep the agent from its last good one."""
    directory = place(machine, "/var/lib/hafw/generations")
    texts = ('{"number": 1e400}', '{"number": 3, "files": [', "[" * 100_000, "")
    for number, text in enumerate(texts, start=2):
        (directory / f"{number}.json").write_text(text)
    os.mkfifo(directory / "50.json")
    (directory / "51.json").mkdir()
    (directory / "52.json").symlink_to("/dev/zero")
    (directory / f"{'9' * 200}.json").write_text("{}")
    make_fifo(place(machine, PAIR_FILE))
    with start_agent(machine):
        assert machine.digest() == RULES_A
        messages = [str(one["message"]) for one in machine.records()]
    skipped = [message for message in messages if "skipped" in message]
    assert len(skipped) == len(set(skipped)) == len(texts) + 3
    for command in COMMANDS:
        done = machine.run(sys.executable, "-P", "-m", "agent", "rules", *command)
        assert "Traceback" not in done.stderr, f"{command}: {done.stderr}"
        assert done.returncode in (0, 1, 2), command
        assert machine.digest() == RULES_A
    listed = machine.must(sys.executable, "-P", "-m", "agent", "rules", "generations", "--json")
    assert 1 in [one["number"] for one in json.loads(listed)]


@pytest.mark.parametrize("name", ["pending", "installing"])
def test_a_bad_note_of_an_unfinished_apply_stands_in_nobodys_way(machine: Machine, name: str) -> None:
    os.mkfifo(place(machine, f"/var/lib/hafw/{name}"))
    machine.write(PAIR_FILE, B)
    machine.rules("apply")
    machine.rules("apply")
    assert machine.digest() == RULES_B
    told = [one["message"] for one in machine.records() if f"{name}.unusable" in one["message"]]
    assert len(told) == 1


@pytest.mark.parametrize("spoil", [make_fifo, make_directory, dangle, written("[" * 100_000), written("{}")])
def test_what_is_kept_in_run_may_be_anything(machine: Machine, spoil: Callable[[Path], None]) -> None:
    for name in ("rules.json", "ready", "ready.new", "rules.new"):
        path = place(machine, f"/run/hafw/{name}")
        path.touch()
        spoil(path)
    with start_agent(machine):
        until(lambda: machine.digest() == RULES_A, PATIENCE_S, "the rules are not loaded")
        machine.write(PAIR_FILE, B)
        machine.rules("apply")
        assert machine.digest() == RULES_B
    mark = place(machine, "/run/hafw/settle-again")
    mark.touch()
    spoil(mark)
    done = machine.run(sys.executable, "-P", "-m", "agent", "settle")
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1), done.stderr


@pytest.mark.parametrize(
    ("path", "spoil"),
    [
        ("/run/hafw/control.sock", make_fifo),
        ("/run/hafw/control.sock", make_directory),
        ("/run/hafw/agent.lock", make_directory),
    ],
)
def test_what_the_agent_cannot_use_is_one_sentence(
    machine: Machine, path: str, spoil: Callable[[Path], None]
) -> None:
    place(machine, path).touch()
    spoil(place(machine, path))
    done = machine.run("timeout", "20", sys.executable, "-P", "-m", "agent", "agent")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert path in done.stderr
