# SPDX-License-Identifier: GPL-2.0-or-later
"""Every process of an apply opens each file once, parses each text once and compiles each policy once: what
was checked is what is kept and loaded."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator

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
A = (ROOT / "examples" / "pair.yaml").read_text()
NAMED = "include: d/more.yaml\nsets: {far: {file: d/far.txt}}\n"
MORE = "policy: [{from: client, to: server, source: far, allow: [PORT]}]\n"
PATIENCE_S = 60.0

COUNTED = """
import hashlib, os, sys
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def note(what, name):
    os.write(out, f"{what} {name}\\n".encode())

def hash_of(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()

def watch(event, arguments):
    if event == "open" and not arguments[2] & (os.O_ACCMODE | os.O_DIRECTORY):
        path = "" if isinstance(arguments[0], int) else os.fsdecode(arguments[0])
        if path.startswith(("/etc/hafw/", "/run/new/", "/var/lib/hafw/")):
            note("open", path)

import yaml
from agent.rules import compile as table

def parse(text, *arguments, real=yaml.parse, **options):
    note("parse", hash_of(text))
    return real(text, *arguments, **options)

def forward(pair, real=table.forward):
    note("compile", hash_of(pair))
    return real(pair)

yaml.parse, table.forward = parse, forward
sys.addaudithook(watch)
from agent.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def write_pair(machine: Machine, directory: str, port: str) -> None:
    """A pair file that includes another one and reads a list, so that `port` is in the other one."""
    (machine.root / directory.lstrip("/") / "d").mkdir(parents=True, exist_ok=True)
    machine.write(f"{directory}/hafw.yaml", f"# {port}\n{A}{NAMED}")
    machine.write(f"{directory}/d/more.yaml", MORE.replace("PORT", port))
    machine.write(f"{directory}/d/far.txt", "198.51.100.0/24\n")


@pytest.fixture
def machine() -> Iterator[Machine]:
    """With three generations, of which the second one is in force."""
    with start_machine() as started:
        for port in ("smtp", "http", "telnet"):
            write_pair(started, "/run/new", port)
            started.rules("apply", "/run/new/hafw.yaml")
        started.rules("rollback", "2")
        yield started


def run_counted(machine: Machine, *arguments: str) -> Counter[str]:
    """What `hafw ...` did, and how often."""
    machine.must(sys.executable, "-P", "-c", COUNTED, "/run/counted", *arguments)
    return take_counts(machine, "/run/counted")


def await_record(machine: Machine, words: str) -> None:
    until(lambda: any(words in one["message"] for one in machine.records()), PATIENCE_S, f"no {words}")


def take_counts(machine: Machine, path: str) -> Counter[str]:
    found = Counter(machine.read(path).splitlines())
    os.truncate(machine.root / path.lstrip("/"), 0)
    return found


def assert_once(counts: Counter[str], *, compiled: int, opened: tuple[str, ...]) -> None:
    assert not {what: count for what, count in counts.items() if count > 1}
    assert sum(what.startswith("compile ") for what in counts) == compiled, counts
    missing = [path for path in opened if f"open {path}" not in counts]
    assert not missing, counts


def files_below(directory: str) -> tuple[str, ...]:
    return tuple(f"{directory}/{name}" for name in ("hafw.yaml", "d/more.yaml", "d/far.txt"))


def test_an_apply_without_an_agent(machine: Machine) -> None:
    write_pair(machine, "/run/new", "ldap")
    counts = run_counted(machine, "rules", "apply", "--this-node", "/run/new/hafw.yaml")
    # what is in force is compiled as well: only what differs from it is loaded
    assert_once(counts, compiled=2, opened=files_below("/run/new"))
    write_pair(machine, "/etc/hafw", "imap")
    assert_once(
        run_counted(machine, "rules", "apply", "--this-node"), compiled=2, opened=files_below("/etc/hafw")
    )


def test_an_apply_and_the_agent_that_loads_it(machine: Machine) -> None:
    with start_agent(machine, ("-c", COUNTED, "/run/by-agent", "agent")):
        await_record(machine, "started: generation")
        # all of them are looked at, for those that cannot be used
        counts = take_counts(machine, "/run/by-agent")
        assert_once(
            Counter({what: count for what, count in counts.items() if "/generations/" not in what}),
            compiled=1,
            opened=files_below("/etc/hafw"),
        )
        for directory, port in (("/run/new", "ldap"), ("/etc/hafw", "imap")):
            write_pair(machine, directory, port)
            counts = run_counted(machine, "rules", "apply", "--this-node", f"{directory}/hafw.yaml")
            assert_once(counts, compiled=1, opened=files_below(directory))
            counts = take_counts(machine, "/run/by-agent")
            assert_once(counts, compiled=1, opened=files_below("/etc/hafw"))


def test_whatever_else_reads_a_pair_file(machine: Machine) -> None:
    write_pair(machine, "/etc/hafw", "ldap")
    for arguments, compiled in (
        (("rules", "check"), 1),
        (("rules", "diff"), 2),
        (("rules", "generations"), 0),
        (("rules", "rollback", "--this-node"), 2),
        (("check",), 0),
    ):
        opened = () if "rollback" in arguments else files_below("/etc/hafw")
        assert_once(run_counted(machine, *arguments), compiled=compiled, opened=opened)


def test_only_the_generations_that_are_asked_for_are_read(machine: Machine) -> None:
    """The one in force is the newest here, and the one before it is enough to go back to."""
    counts = run_counted(machine, "rules", "rollback", "--this-node")
    read = sorted(what.rpartition("/")[2] for what in counts if "/generations/" in what)
    assert read == ["3.json", "4.json"]


CHANGED = """
import sys
from pathlib import Path
placed = False
def change(event, arguments):
    global placed
    if event == "os.rename" and str(arguments[1]) == "/etc/hafw/hafw.yaml":
        placed = True
    elif event == "open" and placed:
        placed = False
        Path("/etc/hafw/hafw.yaml").write_text(Path("/run/other.yaml").read_text())
sys.addaudithook(change)
from agent.__main__ import main
sys.exit(main(["rules", "apply", "--this-node", "/run/b.yaml"]))
"""


def test_what_is_loaded_is_what_was_checked_whoever_changes_the_file(machine: Machine) -> None:
    """Somebody writes to the installed file between its being put in place and the load."""
    wanted, other = (A.replace("allow: [", f"allow: [{port}, ") for port in ("ldap", "telnet"))
    machine.write("/run/b.yaml", wanted)
    machine.write("/run/other.yaml", other)
    machine.must(sys.executable, "-P", "-c", CHANGED)
    assert machine.read(PAIR_FILE) == other, "nobody has changed it"
    assert machine.digest() == rules_digest(loader.parse(wanted))
    newest = machine.rules_json("generations")[-1]
    assert (newest["rules"], newest["mark"]) == (machine.digest(), "in force")
    assert machine.rules("generations", str(newest["number"])) == wanted


def test_a_reload_by_signal(machine: Machine) -> None:
    with start_agent(machine, ("-c", COUNTED, "/run/by-agent", "agent")):
        await_record(machine, "started: generation")
        take_counts(machine, "/run/by-agent")
        write_pair(machine, "/etc/hafw", "ldap")
        tell_agent(machine, signal.SIGHUP)
        await_record(machine, "reloaded: generation")
        assert_once(take_counts(machine, "/run/by-agent"), compiled=1, opened=files_below("/etc/hafw"))
