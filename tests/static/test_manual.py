# SPDX-License-Identifier: GPL-2.0-or-later
"""The man pages have every command, option, key and field that the programs have, and no other."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from agent.config import loader, services
from agent.config.reader import Spot
from agent.config.source_tree import FILE_END
from agent.core.roles import Role
from agent.model import records
from agent.model.pair import AfterLimit, SyncMode
from agent.model.services import SERVICES
from tests.checkout import ROOT
from tests.programs import PROGRAMS, commands_of, options_of, walk

MAN = ROOT / "packaging" / "debian" / "man"
PAGES = {"hafw": MAN / "hafw.8", "hafw-lab": MAN / "hafw-lab.1"}
AGENT, PAIR_FILE = MAN / "hafw-agent.8", MAN / "hafw.yaml.5"
COMMANDS_ARE_IN = ("COMMANDS", "VERBS")


def sections(page: Path) -> dict[str, str]:
    """The subsections of a page (.Ss) and, before the first of them, its sections (.Sh)."""
    found: dict[str, str] = {}
    for part in re.split(r"^(?=\.S[sh] )", page.read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        found[title[4:]] = text
    return found


def marked(text: str, macro: str) -> set[str]:
    """The words behind a macro in the heads of lists: `.It Fl n Ar N , Fl -lines Ar N` has n and -lines."""
    heads = "\n".join(line for line in text.splitlines() if line.startswith(".It "))
    return {word for line in heads.splitlines() for word in _behind(line, macro)}


def _behind(line: str, macro: str) -> Iterator[str]:
    words = line.split()[1:]
    for before, word in pairwise(words):
        if before == macro:
            yield word


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_and_option_is_in_its_page_and_no_other(program: str) -> None:
    found = sections(PAGES[program])
    whole = next(found[name] for name in COMMANDS_ARE_IN if name in found)
    documented = {title for title in found if not title.isupper()}
    for path, parser in walk(PROGRAMS[program]()):
        name = " ".join(path)
        text = found.get(name, "") if path else whole
        assert not path or name in documented, f"{name} is not in {PAGES[program].name}"
        options = {option[1:] for option in options_of(parser)} - ({"h", "-help"} if path else set())
        assert marked(text, "Fl") == options, f"options of {program} {name}"
        documented.discard(name)
        for word in choices_of(parser):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text), f"{program} {name}: {word}"
    assert not documented, "the page has commands that are not there"


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_page_has_the_defaults_that_the_help_has(program: str) -> None:
    found = sections(PAGES[program])
    whole = next(found[name] for name in COMMANDS_ARE_IN if name in found)
    checked = 0
    for path, parser in walk(PROGRAMS[program]()):
        text = found[" ".join(path)] if path else whole
        for option, value in defaults_of(parser):
            (item,) = re.findall(
                rf"^\.It [^\n]*Fl {option[1:]}\b.*?(?=^\.It|^\.El)", text, re.DOTALL | re.MULTILINE
            )
            stated = re.search(r"Default:\s+(?:\.[A-Z][a-z] )?([^\s;]+)", item)
            assert stated, f"{program} {' '.join(path)} {option}: no default"
            assert stated.group(1).rstrip(".") == value, f"{program} {' '.join(path)} {option}"
            checked += 1
    assert checked


def defaults_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """The options whose default is a figure, a list or a choice, with it."""
    for action in parser._actions:
        stated = re.search(r"default: ([^;)\s]+)", action.help or "")
        choices = {str(choice) for choice in action.choices or ()}
        if stated and action.option_strings and (stated[1] in choices or re.search(r"^\d|,", stated[1])):
            yield action.option_strings[-1], stated[1]


def choices_of(parser: argparse.ArgumentParser) -> set[str]:
    subcommands = commands_of(parser)
    return {
        str(choice)
        for action in parser._actions
        for choice in action.choices or ()
        if choice not in subcommands
    }


def keys_of_the_pair_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Every key that the parser asks for in the cases of the tests, by the top-level key it is below."""
    asked: dict[str, set[str]] = {}
    read_fields = Spot.fields

    def note(self: Spot, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Spot]:
        top = re.split(r"[.\[]", self.path.rpartition(FILE_END)[2])[0]
        if optional == services._KEYS:
            top = "services"  # one that is written out where it is used
        if FILE_END not in self.path or top:
            asked.setdefault(top, set()).update((*required, *optional))
        return read_fields(self, required, optional)

    monkeypatch.setattr(Spot, "fields", note)
    for path in (*(ROOT / "examples").glob("*.yaml"), *(ROOT / "tests/golden").glob("*/*/hafw.yaml")):
        loader.load(path)
    return asked


def test_every_key_of_the_pair_file_is_in_its_page_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = keys_of_the_pair_file(monkeypatch)
    top = asked.pop("")
    found = sections(PAIR_FILE)
    documented = {title: marked(text, "Ic") for title, text in found.items() if not title.isupper()}
    assert documented == asked
    assert marked(found["KEYS"], "Ic") | documented.keys() == top


def test_the_page_of_the_pair_file_names_every_value() -> None:
    found = sections(PAIR_FILE)
    for title, words in {
        "sync": {mode.value for mode in SyncMode},
        "gate": {choice.value for choice in AfterLimit},
        "policy": set(SERVICES),
    }.items():
        known = set(re.findall(r"[\w-]+", found[title]))
        assert words <= known, title


def test_the_examples_in_the_page_are_a_pair() -> None:
    whole, further = re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed", PAIR_FILE.read_text(), re.M | re.S)
    assert loader.parse(whole).name == "G1"
    entries = dict(re.findall(r"^(\w+:)\n((?: .*\n)+)", further, re.M))
    for key, lines in entries.items():
        known = f"\n{key}\n" in whole
        whole = whole.replace(f"\n{key}\n", f"\n{key}\n{lines}", 1) if known else f"{whole}{key}\n{lines}"
    assert len(loader.parse(whole).sets) == 2


def test_every_kind_of_record_and_every_field_is_in_the_page_of_the_agent() -> None:
    text = sections(AGENT)["RECORDS"]
    kinds = dict(re.findall(r"^\.It Cm ([\w-]+) Li ([0-9a-f]{32})$", text, re.M))
    assert kinds == {kind.value: records.MESSAGE_IDS[kind] for kind in records.RecordKind}
    every = records.to_journal(a_full_record())
    assert set(re.findall(r"\bHAFW_[A-Z_]+", text)) == {name for name in every if name.startswith("HAFW_")}
    assert {role.value for role in Role} <= set(re.findall(r"\w+", text))
    ends = re.search(r"^\.It Li HAFW_RESULT\n(.*?)^\.It ", text, re.M | re.S)
    assert ends is not None
    assert set(re.findall(r"^\.Cm (\w+)", ends.group(1), re.M)) == {one.value for one in records.Ending}


def a_full_record() -> records.Record:
    """One in which everything is there that can be there."""
    record = records.Record(records.RecordKind.STEP, "message", 1)
    for field in fields(record):
        if getattr(record, field.name) is None:
            object.__setattr__(record, field.name, "x" if field.type == str | None else 1)
    return record


def test_every_page_is_in_a_package() -> None:
    lists = (ROOT / "packaging" / "debian").glob("*.manpages")
    listed = [line for path in lists for line in path.read_text().split()]
    assert sorted(listed) == sorted(f"debian/man/{page.name}" for page in MAN.iterdir())
