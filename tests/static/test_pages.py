# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages in Markdown: links lead somewhere, also where they are installed; every problem has its help."""

import fnmatch
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.static.test_layers import AGENT, LAB

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    .*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z]+:", re.IGNORECASE)
ALARM = "by HAFW_CONDITION:"
"""Stands above the catalog's table of conditions."""


def prose(page: Path) -> str:
    return INDENTED.sub("", FENCED.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: small letters, no punctuation, hyphens for spaces, repetitions numbered."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(page)):
        plain = LINK.sub("]", heading).lower().replace(" ", "-")
        slug = first = re.sub(r"[^\w-]", "", plain)
        number = 0
        while slug in found:
            number += 1
            slug = f"{first}-{number}"
        found.add(slug)
    return found


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The files and anchors that the page links to; addresses of the web are not asked."""
    for target in LINK.findall(prose(page)):
        if ELSEWHERE.match(target):
            continue
        place, _, anchor = target.partition("#")
        yield (page.parent / place).resolve() if place else page, anchor


def broken_links(pages: tuple[Path, ...], present: set[Path]) -> list[str]:
    return [
        f"{page.name}: {target.name}{'#' * bool(anchor)}{anchor}"
        for page in pages
        for target, anchor in links(page)
        if target not in present or (anchor and anchor not in anchors(target))
    ]


def shipped(root: Path, files: tuple[Path, ...]) -> set[Path]:
    """What dh_installdocs and dh_installexamples put below /usr/share/doc, placed as in the checkout."""
    debian = root / "packaging" / "debian"
    patterns = [
        line
        for name in ("hafw-agent.docs", "hafw-agent.examples")
        for line in (debian / name).read_text().splitlines()
    ]
    return {
        path
        for path in files
        for pattern in patterns
        if fnmatch.fnmatch(str(path.relative_to(root)), pattern) or (root / pattern) in path.parents
    }


def test_every_link_leads_to_a_file_and_a_heading(files: tuple[Path, ...], pages: tuple[Path, ...]) -> None:
    assert len(pages) > 5
    assert broken_links(pages, set(files)) == []


def test_every_link_of_an_installed_page_leads_to_an_installed_file(
    root: Path, files: tuple[Path, ...], pages: tuple[Path, ...]
) -> None:
    installed = shipped(root, files)
    there = tuple(page for page in pages if page in installed)
    assert {root / "README.md", root / "docs" / "troubleshooting.md"} <= set(there)
    assert broken_links(there, installed) == []


def test_every_page_is_linked_from_another(root: Path, pages: tuple[Path, ...]) -> None:
    linked = {target for page in pages for target, _ in links(page) if target != page}
    assert [page.name for page in pages if page not in linked | {root / "docs" / "README.md"}] == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("# One\n[there](#one) [web](https://hafw.example/) [other](other.md#two-words)", []),
        ("# One\n[gone](gone.md)", ["page.md: gone.md"]),
        ("# One\n[gone](#two)", ["page.md: page.md#two"]),
        ("# One\n[gone](other.md#one)", ["page.md: other.md#one"]),
        ("# `One`, two\n## One two\n[there](#one-two-1) [gone](#one-two-2)", ["page.md: page.md#one-two-2"]),
        ("# One\n![picture](gone.svg)\n\n    code [x](y)\n\n```\n[x](y)\n```\n", ["page.md: gone.svg"]),
    ],
)
def test_a_broken_link_is_found(tmp_path: Path, text: str, broken: list[str]) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    page.write_text(text)
    other.write_text("# Two words\n")
    assert broken_links((page,), {page, other}) == broken


def rows(page: Path) -> list[tuple[str, str]]:
    """The first two cells of each row whose first cell is one word of code."""
    return re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_condition_of_the_catalog_is_in_the_troubleshooting_page(root: Path) -> None:
    catalog = (root / "systemd" / "hafw.catalog").read_text(encoding="utf-8")
    manual = (root / "packaging" / "debian" / "man" / "hafw-agent.8").read_text(encoding="utf-8")
    severities = dict(re.findall(r"^\.It Cm ([a-z-]+) Pq ([0-9])$", manual, re.MULTILINE))
    (entry,) = (text for text in re.split(r"^-- ", catalog, flags=re.MULTILINE) if ALARM in text)
    *_, table = entry.strip().split("\n\n")
    conditions = re.findall(r"^([a-z-]+) ", table, re.MULTILINE)
    wanted = [(name, {"1": "warning", "2": "critical"}[severities[name]]) for name in conditions]
    explained = [
        row for row in rows(root / "docs" / "troubleshooting.md") if row[1] in ("warning", "critical")
    ]
    assert len(wanted) > 30
    assert sorted(explained) == sorted(wanted)


def test_every_kind_of_record_of_the_catalog_is_in_the_troubleshooting_page(root: Path) -> None:
    catalog = (root / "systemd" / "hafw.catalog").read_text(encoding="utf-8")
    manual = (root / "packaging" / "debian" / "man" / "hafw-agent.8").read_text(encoding="utf-8")
    kinds = {
        identity: kind
        for kind, identity in re.findall(r"^\.It Cm ([a-z]+) Li ([0-9a-f]{32})$", manual, re.MULTILINE)
    }
    wanted = [(kinds[one], f"`{one}`") for one in re.findall(r"^-- ([0-9a-f]{32})$", catalog, re.MULTILINE)]
    explained = [row for row in rows(root / "docs" / "troubleshooting.md") if "`" in row[1]]
    assert len(wanted) >= 9
    assert sorted(explained) == sorted(wanted)


def test_every_path_that_a_page_names_exists(root: Path, pages: tuple[Path, ...]) -> None:
    """The map of CONTRIBUTING.md and the tests that are named elsewhere, after files have moved."""
    named = {
        (page.name, path.rstrip("./"))
        for page in pages
        for path in re.findall(
            r"(?<![\w/.-])(?:agent|host-tools|tests|docs|systemd|packaging|examples)/[\w./*-]*",
            page.read_text(encoding="utf-8"),
        )
    }
    assert ("CONTRIBUTING.md", "agent/core/machine.py") in named
    assert sorted((page, path) for page, path in named if not list(root.glob(path))) == []


def test_the_map_of_contributing_has_every_package_and_its_tier(root: Path) -> None:
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = [
        tuple(set(tier.split(", ")) for tier in reversed(line.split(" > ")))
        for line in re.findall(r"^    (\w[\w, ]+(?: > [\w, ]+)+)$", text, re.MULTILINE)
    ]
    assert drawn == [AGENT, LAB]
    homes = (root / "agent", root / "host-tools" / "hafw_lab")
    packages = {path.parent for home in homes for path in home.glob("*/*.py")}
    assert len(packages) > 25
    assert [str(one) for one in packages if f"    {one.relative_to(root)}/ " not in text] == []


def test_both_changelogs_have_the_same_releases(root: Path) -> None:
    """What is not released stands in CHANGELOG.md alone, above them."""
    ours = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    packages = (root / "packaging" / "debian" / "changelog").read_text(encoding="utf-8")
    released = releases_of(ours)
    assert released
    assert released == debian_releases_of(packages)
    assert "## [Unreleased]" not in ours.partition(f"## [{released[0][0]}]")[2]


def releases_of(changelog: str) -> list[tuple[str, str]]:
    return re.findall(r"^## \[(\d.*)\] - (\S+)$", changelog, re.MULTILINE)


def debian_releases_of(changelog: str) -> list[tuple[str, str]]:
    entries = re.findall(
        r"^hafw \(([^)]*)\).*?^ -- [^\n]*, (.*?) \d\d:", changelog, re.MULTILINE | re.DOTALL
    )
    return [(version, f"{datetime.strptime(day, '%d %b %Y'):%Y-%m-%d}") for version, day in entries]


def test_a_release_of_one_changelog_is_found() -> None:
    ours = "## [Unreleased]\n\n## [9.1.0] - 2026-12-01\n\n## [9.0.0] - 2026-11-22\n"
    signed = " -- hafw maintainers <a@b>  Sun, 22 Nov 2026 19:00:00 +0000\n"
    packages = f"hafw (9.0.0) unstable; urgency=medium\n\n  * First.\n\n{signed}"
    assert releases_of(ours) == [("9.1.0", "2026-12-01"), ("9.0.0", "2026-11-22")]
    assert debian_releases_of(packages) == [("9.0.0", "2026-11-22")]
