# SPDX-License-Identifier: GPL-2.0-or-later
"""Words that must not come back, each with the one to write: the field's own, and one for each thing."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

LEFT_OUT = {"CHANGELOG.md", "packaging/debian/changelog", "LICENSE", "packaging/debian/copyright"}
"""What was said then stays said, also with names that have changed; and what others wrote."""
RECORDED = "tests/recorded/"


@dataclass(frozen=True)
class Word:
    """A blank in `found` is any break between two words, also of a line or in a name. `example` was written
    once."""

    found: str
    write: str
    example: str
    kept: tuple[str, ...] = ()
    """Lines with these have it rightly."""

    cased: bool = False
    """Only in these letters: the word is right in others."""

    @property
    def pattern(self) -> re.Pattern[str]:
        gap = r"""(?:[\s"'#|_]|\b[fr]["'])+"""
        found = self.found.replace(" ", gap)
        end = "(?-i:(?![a-z]))"  # a name may continue with a capital
        return re.compile(rf"(?<![A-Za-z])(?:{found}){end}", 0 if self.cased else re.IGNORECASE)


WORDS = (
    Word("ConntrackdCame|conntrackd came", "ConntrackdStarted", "class ConntrackdCame:"),
    Word("ConntrackdWent|conntrackd went", "conntrackd lost", '"conntrackd "\n  "went"'),
    Word("unwell|is not well|all well|well again", "problems", "  unwell  nothing"),
    Word("Hands\\b", "Executor", "class Hands:", cased=True),  # a node hands over
    Word("meets?|met\\b", "handle, find, match, overlap", "    def _meet(self, event):"),
    Word("_?MOST(?:_[A-Z]+)?\\b", "MAX_", "_MOST_FILES = 20", cased=True),  # `at_most_s` is an argument
    Word(
        "_?mend(?:s|ed|ing)?(?:_\\w+)?",
        "repair",
        "drift: mend",
        kept=(
            '{"mend": Drift.REPAIR}',
            "may say `mend`",
            ".Cm mend ,",
            '("drift: mend", ',
            '"mend" not in str(',
        ),
    ),
    Word("(?:another|other|foreign|program's) hands?", "external change", "another\n    # hand"),
    Word("told of|tells? of", "reported", "is_only_told_of_where"),
    Word("(?:go|goes|going|gone|went) on", "continue, resume, keep doing", "goes\n    on"),
    Word("conntrack (?:entry|entries|flows?)|state entr(?:y|ies)", "states", "conntrack entries"),
    Word("class Flow|(?:read|end|with|new)_flows", "states, connections", "connections.read_flows()"),
    Word("notifications?", "notice", "A notification is only a hint"),
    Word("connection tables?", "conntrack table", "the connection table"),
    Word("HAFW_SOURCE", "HAFW_TRIGGER", "HAFW_SOURCE=netlink"),
    Word("unknown questions?|is no question", "unknown request", '"this is no question; ask:"'),
    Word("unknown orders?", "unknown request", 'f"unknown order {other!r}"'),
    Word("is no time\\b|is not a time", "invalid time", "'yesterday' is no time"),
    Word(
        "(?:gives|gave|has) no answer|no agent answers|no answer to",
        "does not answer",
        "nft gave no answer in 5 s",
    ),
    Word("take (?:it|them|one|this) out", "remove", "take it\n    out"),
    Word("cannot be understood", "invalid, cannot be parsed", "its answer cannot be understood"),
    Word("until_told|who is told", "reported", "async def _until_told(agent)"),
    Word("(?:is|are|and)_told", "reported, shown", "def test_it_is_told_once("),
    Word("st(?:and|ands|ood) still", "is stopped, stalls, hangs", "def _stood_still(self"),
    Word("some(?:body|one) else(?:'?s)?", "another user, host, program", "what somebody\n    # else made"),
    Word(
        "hand overs|roll back by hand|(?:an?|of|no|direct|cache) take over",
        "a handover, rollback, takeover",
        "test_the_record_of_a_take_over(",
    ),
    Word("replicated entr(?:y|ies)", "replicated states", "the replicated entries"),
    Word("(?<!-)(?:take-over|hand-over|roll-back)s?", "takeover, handover, rollback", "at a take-over"),
    Word("anew\\b", "again, re-", "is made anew"),
    Word(
        "(?:he|his|him|himself)(?![A-Z0-9])",
        "it, its; they, their",
        "with pytest.raises(OSError):  # he is dropped",
    ),
    Word("pass(?:es|ed)? over", "skip", "this generation is passed over"),
    Word(
        "Who (?:asks|changes|runs|may not)|Who has (?:all|asked)|Who is not|Whoever|who is not keepalived",
        "a program, node or client that; which",
        "Who asks from the server's own network",
        cased=True,
    ),
    Word("by whomever|such that|for ever\\b", "whoever, in a form that, forever", "changes, by whomever"),
)


@pytest.fixture(scope="module")
def texts(root: Path, files: tuple[Path, ...]) -> dict[str, str]:
    """By path, every text of ours but this one."""
    named = {str(path.relative_to(root)): path for path in files if path != Path(__file__)}
    return {
        name: path.read_text(encoding="utf-8", errors="replace")
        for name, path in named.items()
        if name not in LEFT_OUT and not name.startswith(RECORDED)
    }


def find_word(word: Word, texts: dict[str, str]) -> list[str]:
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()!r}; write: {word.write}"
        for name, text in texts.items()
        for match in word.pattern.finditer(text)
        if not any(kept in line_of(text, match) for kept in word.kept)
    ]


def line_of(text: str, match: re.Match[str]) -> str:
    begin = text.rfind("\n", 0, match.start()) + 1
    return text[begin:].partition("\n")[0]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.write)
def test_a_word_that_was_cured_is_written_nowhere(word: Word, texts: dict[str, str]) -> None:
    found = find_word(word, texts)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.write)
def test_it_would_be_found_at_its_line(word: Word) -> None:
    assert find_word(word, {"a.py": f"\n{word.example}\n"})[0].startswith("a.py:2: ")
