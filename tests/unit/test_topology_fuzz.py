"""Any file is a topology or one sentence."""

from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hafw_lab.errors import LabError
from hafw_lab.topology import Topology
from hafw_lab.topology_file import load_topology, parse_topology

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
            r"nodes\.client\.routes: there",
        ),
        (
            yaml.safe_dump(put(WHOLE, ("nodes", "client", "routes"), "default")),
            r"nodes\.client\.routes: there",
        ),
        ("nodes: 2026-13-45\n", "is no YAML: month must be in"),
        ("[" * 100_000, "is nested too deeply"),
        ("nodes: {? [a] : b}\n", "is no YAML"),
        ("\x00", "is no YAML"),
    ],
)
def test_files_that_ended_in_a_traceback(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(text)
    with pytest.raises(LabError, match=said):
        load_topology(path)
