# SPDX-License-Identifier: GPL-2.0-or-later
"""Any file is a topology or one sentence."""

import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hafw_lab.errors import LabError
from hafw_lab.model.topology import Topology
from hafw_lab.model.topology_file import load_topology, parse_topology

NODE = {"links": {"eth0": {"segment": "br0", "addresses": "192.168.0.1/24"}}}
WHOLE = {"segments": {"br0": {"zone": "server"}}, "nodes": {"client": NODE}}
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(date(2026, 1, 2))
)
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=8,
)
PLACES = (
    ("segments",), ("segments", "br0"), ("segments", "br0", "vip"), ("segments", "br0", "vrid"), ("nodes",),
    ("nodes", "client"), ("nodes", "client", "routes"), ("nodes", "client", "firewall"),
    ("nodes", "client", "links"), ("nodes", "client", "links", "eth0"),
    ("nodes", "client", "links", "eth0", "addresses"), ("nodes", "client", "links", "eth0", "segment"),
)  # fmt: skip


def put(data: object, place: tuple[str, ...], value: object) -> object:
    if not place:
        return value
    assert isinstance(data, dict)
    return {**data, place[0]: put(data.get(place[0], {}), place[1:], value)}


@given(st.sampled_from(PLACES), ANYTHING)
def test_anything_in_any_place_is_a_topology_or_one_sentence(place: tuple[str, ...], value: object) -> None:
    found: object = None
    try:
        found = parse_topology(put(WHOLE, place, value))
    except LabError as error:
        found = error
    assert isinstance(found, (Topology, LabError))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            yaml.safe_dump(put(WHOLE, ("nodes", "client", "routes"), ["default"])),
            r"nodes\.client\.routes: targets",
        ),
        (
            yaml.safe_dump(put(WHOLE, ("nodes", "client", "routes"), "default")),
            r"nodes\.client\.routes: targets",
        ),
        ("nodes: 2026-13-45\n", "segments is missing or empty"),
        ("[" * 100_000, "more than 100 deep"),
        ("nodes: {? [a] : b}\n", "line 1: nodes.*: a key must be a single word"),
        ("\x00", "is not valid YAML"),
        ("\udcff", "is not UTF-8 text"),
        (
            "segments:\n  br0: {zone: server}\n  br0: {zone: client}\n",
            r"line 3: segments\.br0: is there twice",
        ),
        ("segments: {br0: {zone: server, vrid: 1:30}}\n", "'1:30' is not a number"),
    ],
)
def test_files_that_ended_in_a_traceback(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(LabError, match=said):
        load_topology(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "is a pipe; name a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device; name a regular file"),
        (Path.mkdir, "is a directory; name a regular file"),
        (lambda path: path.write_bytes(b"#" * (1 << 20) + b"\n"), "is too long"),
        (lambda path: None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_without_end_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "topology.yaml"
    make(path)
    with pytest.raises(LabError, match=said):
        load_topology(path)


def test_a_few_lines_cannot_stand_for_a_thousand_million(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    lines = ["x0: &x0 {a: 1}"]
    lines += [
        f"x{level}: &x{level} {{<<: [{', '.join([f'*x{level - 1}'] * 10)}]}}" for level in range(1, 10)
    ]
    path.write_text("\n".join(lines), encoding="ascii")
    with pytest.raises(LabError, match=r"line 1: x0: anchors and aliases \(& and \*\) are not used here"):
        load_topology(path)
