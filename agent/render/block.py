# SPDX-License-Identifier: GPL-2.0-or-later
"""Nested blocks in braces, as keepalived.conf and conntrackd.conf have them."""

from collections.abc import Iterable, Iterator

Lines = tuple[str, ...]


def block(head: str, body: Iterable[str], indent: str = "    ") -> Lines:
    return (f"{head} {{", *(f"{indent}{line}" if line else "" for line in body), "}")


def text_of(*parts: Iterable[str]) -> str:
    """Parts with an empty line between them."""
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def because(reason: str, *lines: str) -> Iterator[str]:
    yield f"# {reason}"
    yield from lines
