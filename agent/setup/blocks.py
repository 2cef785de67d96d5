# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads keepalived.conf and conntrackd.conf as others have written them: words and nested braces. Pure.

Whatever could change the meaning of a file and is not followed here (included files, definitions,
conditions) ends the reading: nothing may be called safe because it was not understood.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_LARGEST = 1_000_000
_DEEPEST = 16
_TOKEN = re.compile(
    r'"(?P<quoted>[^"\n]*)"|(?P<mark>[{}\n])|(?P<word>[^\s{}"]+)|(?P<space>[^\S\n]+)|(?P<bad>.)'
)
_FOLLOWED_NOWHERE = re.compile(r"include[a-z]*|[$@~].*|.*\$\{?[A-Za-z_].*|.*~(SEQ|LST)\(.*", re.ASCII)


class NotUnderstoodError(Exception):
    """Why a file could not be read, with the line."""


@dataclass(frozen=True, slots=True)
class Statement:
    """The words of one line, and what follows them in braces."""

    line: int
    words: tuple[str, ...]
    body: tuple["Statement", ...] = ()

    @property
    def keyword(self) -> str:
        return self.words[0]

    @property
    def value(self) -> str:
        return self.words[1] if len(self.words) > 1 else ""

    def all(self, keyword: str) -> Iterator["Statement"]:
        return (one for one in self.body if one.keyword == keyword)

    def last(self, keyword: str) -> str | None:
        """The value of a setting, of which the last one counts."""
        return next((one.value for one in reversed(self.body) if one.keyword == keyword), None)

    def __str__(self) -> str:
        return f"{' '.join(self.words)} (line {self.line})"


@dataclass(slots=True)
class _Open:
    """A block that is being read."""

    line: int
    words: tuple[str, ...]
    body: list[Statement] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)

    def end_line(self, line: int) -> None:
        if self.pending:
            self.body.append(Statement(line, tuple(self.pending)))
            self.pending.clear()


def parse_blocks(text: str, comment_marks: str) -> Statement:
    """The whole file, as the body of a statement without words. Raises NotUnderstoodError."""
    if len(text) > _LARGEST:
        raise NotUnderstoodError("it is too large for such a file")
    text = re.sub(rf'("[^"\n]*")|[{re.escape(comment_marks)}][^\n]*', lambda found: found[1] or "", text)
    stack = [_Open(0, ())]
    line = 1
    for token in _TOKEN.finditer(text):
        if token["bad"]:
            raise NotUnderstoodError(f"line {line}: a quotation mark that is never closed")
        if token["mark"] == "{":
            stack.append(_open_block(stack[-1], line))
            if len(stack) > _DEEPEST:
                raise NotUnderstoodError(f"line {line}: braces nested deeper than {_DEEPEST}")
        elif token["mark"] == "}":
            if len(stack) == 1:
                raise NotUnderstoodError(f"line {line}: a closing brace without an opening one")
            _close_block(stack, line)
        elif token["mark"]:
            stack[-1].end_line(line)
            line += 1
        elif token["space"] is None:
            stack[-1].pending.append(_followed(token, line))
    if len(stack) > 1:
        raise NotUnderstoodError(f"line {stack[-1].line}: a brace that is never closed")
    stack[0].end_line(line)
    return Statement(0, (), tuple(stack[0].body))


def _followed(token: "re.Match[str]", line: int) -> str:
    if token["word"] is None:
        return token["quoted"] or ""
    if _FOLLOWED_NOWHERE.fullmatch(token["word"]):
        raise NotUnderstoodError(f"line {line}: {token['word']} is not followed")
    return token["word"]


def _open_block(parent: _Open, line: int) -> _Open:
    """The words in front of the brace, which may stand on the line before."""
    if parent.pending:
        words = tuple(parent.pending)
        parent.pending.clear()
    elif parent.body and not parent.body[-1].body:
        words = parent.body.pop().words
    else:
        raise NotUnderstoodError(f"line {line}: a brace with no word before it")
    return _Open(line, words)


def _close_block(stack: list[_Open], line: int) -> None:
    done = stack.pop()
    done.end_line(line)
    stack[-1].body.append(Statement(done.line, done.words, tuple(done.body)))
