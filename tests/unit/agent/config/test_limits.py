# SPDX-License-Identifier: GPL-2.0-or-later
"""However a pair file is made, reading it takes time and memory by its size, and the answer is short."""

import contextlib
import gc
import time
from ipaddress import ip_network

import pytest

from agent.config.loader import MAX_INTERFACES, parse
from agent.config.reader import MAX_PROBLEMS
from agent.config.source_tree import MAX_NODES
from agent.errors import ConfigError
from tests.unit.agent.small_pair import SMALL

RULES = SMALL + "policy:\n" + "  - {from: client, to: server, allow: [ssh]}\n" * 5_000


def seconds_of(text: str) -> float:
    """Of the processor: other programs do not count, nor do the objects of a thousand tests before, which a
    garbage collection in the middle would walk through."""
    gc.disable()
    try:
        begun = time.process_time()
        with contextlib.suppress(ConfigError):
            parse(text)
        return time.process_time() - begun
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def rules_s() -> float:
    """What an honest file takes on this machine, now."""
    return seconds_of(RULES)


HOSTILE = {
    "brackets": "[" * 100_000,
    "braces": "{" * 100_000,
    "mappings": "{a: " * 50_000,
    "lines": "[\n" * 100_000,
    "dashes": "- " * 100_000,
    "keys": "? " * 100_000,
    "indents": "\n".join(" " * depth + "a:" for depth in range(1_300)),
    "wrong keys": "".join(f"key{number}: 1\n" for number in range(20_000)),
    "equal keys": "a: 1\n" * 30_000,
    "no mappings": SMALL + "policy: [" + "a," * 60_000 + "]\n",
    "aliases": "a: [" + "*a," * 60_000 + "]",
    "tabs": "\t\n" * 100_000,
    "unknown words": SMALL
    + "services: {"
    + ",".join(f"s{number}: {{tcp: {number + 1}}}" for number in range(10_000))
    + "}\npolicy:\n"
    + "".join(f"  - {{from: client, to: server, allow: [s{number}x]}}\n" for number in range(500)),
    "networks": SMALL
    + "management: {from: ["
    + ",".join(f"10.1.{number >> 8}.{number & 255}" for number in range(15_000))
    + "]}\n",
    "interfaces": SMALL
    + "".join(
        f"  e{number}: {{zone: z{number}, vip: 10.{number >> 8}.{number & 255}.3/24, vrid: 5, addresses: "
        f"{{fw-1: 10.{number >> 8}.{number & 255}.1/24, fw-2: 10.{number >> 8}.{number & 255}.2/24}}}}\n"
        for number in range(1_500)
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_file_takes_longer_than_an_honest_one_of_its_size(what: str, rules_s: float) -> None:
    assert seconds_of(HOSTILE[what]) < 3 * rules_s


@pytest.mark.parametrize("what", ["wrong keys", "equal keys", "no mappings", "unknown words"])
def test_the_first_hundred_problems_are_reported(what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(HOSTILE[what])
    assert len(caught.value.problems) == MAX_PROBLEMS + 1
    assert all(len(str(problem)) < 1500 for problem in caught.value.problems)
    assert len(str(caught.value)) < 8_000
    assert "there are more than these 100 problems" in str(caught.value.problems[-1])
    assert "`hafw check` shows them" in str(caught.value)


def test_the_words_of_a_file_are_counted() -> None:
    with pytest.raises(ConfigError, match=f"has more than {MAX_NODES} words.*line 1.; put addresses into"):
        parse("a: [" + "b," * MAX_NODES + "]")


def test_interfaces_are_counted() -> None:
    with pytest.raises(ConfigError, match=f"interfaces: has 1503 interfaces; .* at most {MAX_INTERFACES}"):
        parse(HOSTILE["interfaces"])


def test_a_problem_has_the_line_of_its_place_also_where_it_is_found_late() -> None:
    """By the checks between values, which know the path only."""
    with pytest.raises(ConfigError) as caught:
        parse(SMALL.replace("vip: 192.168.2.100/24", "vip: 192.168.3.100/24"))
    assert str(caught.value.problems[0]).endswith("(line 7)")


def test_many_networks_are_as_few_as_can_be() -> None:
    words = ["10.0.0.0/8", *(f"10.1.{number}.0/24" for number in range(200)), "192.168.2.7", "fd00::/8"]
    text = SMALL.replace("192.168.0.100/24", "[192.168.0.100/24, 'fd00::100/64']")
    text = text.replace("fw-1: 192.168.0.1/24", "fw-1: [192.168.0.1/24, 'fd00::1/64']")
    text = text.replace("fw-2: 192.168.0.2/24", "fw-2: [192.168.0.2/24, 'fd00::2/64']")
    listed = ", ".join(f"'{word}'" for word in words)
    pair = parse(text + f"management: {{from: [{listed}, 'fd00:1::/32']}}\n")
    assert pair.management.sources == tuple(map(ip_network, ("10.0.0.0/8", "192.168.2.7/32", "fd00::/8")))
