# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever stands in a pair file, the answer is a Pair that can be rendered, or a ConfigError."""

import json
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config.loader import parse
from agent.errors import ConfigError, Problem
from agent.model.pair import Pair
from agent.paths import Paths
from agent.render import conntrackd, keepalived, sysctl
from agent.rules.compile import compile_pair
from tests.checkout import EXAMPLES

PAIRS = [path.read_text() for path in sorted(EXAMPLES.glob("*.yaml"))]
TEXTS = {str(path.relative_to(EXAMPLES)): path.read_text() for path in sorted(EXAMPLES.glob("policy.d/*"))}
# a busy machine is no defect
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
WORDS = re.findall(
    r"\S+",
    "on yes null ~ 1:30 0o17 0x1f 1_000 1.5 -1 '' \"\" [] {} [[]] {a: b} &a *a !!int <<: --- ... % | > # ,"
    " fe80::1/64 ::/0 0.0.0.0/0 192.168.0.100/24 192.168.1.1/24 fd00::1/64 ::ffff:1.2.3.4/128 sync server"
    " client eth0 eth0.7 fw-1 fw-2 vip ssh icmp 7 250 65536 99999999999 10ms 40s cache closed true false",
)
# what a renderer may write: anything else would mean that a value went through
# unparsed (a comment may quote the file's own reason)
SAFE_LINE = re.compile(r"#[ -~]*|[ A-Za-z0-9_./:,;'\"{}=#()-]*")


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """An example with some of its words replaced, and perhaps a cut or a foreign character."""
    text = draw(st.sampled_from(PAIRS))
    for _ in range(draw(st.integers(1, 4))):
        places = list(re.finditer(r"[^\s{}\[\],:#]+", text))
        place = draw(st.sampled_from(places)) if places else re.search("", text)
        assert place
        new = draw(st.sampled_from(WORDS) | st.text(max_size=5))
        text = text[: place.start()] + new + text[place.end() :]
    return text


def parsed(text: str) -> tuple[Pair | None, tuple[Problem, ...]]:
    try:
        return parse(text, texts=TEXTS), ()
    except ConfigError as error:
        return None, error.problems


def is_pair(text: str) -> bool:
    """Nothing but ConfigError may come out if not, and a pair must survive its renderers."""
    pair, problems = parsed(text)
    if pair is None:
        assert problems
        assert all(problem.message and str(problem).isprintable() for problem in problems), problems
        return False
    assert compile_pair(pair).body
    for node in pair.nodes:
        for render in (keepalived.render, conntrackd.render, sysctl.render):
            for line in render(pair, node.name, Paths()).split("\n"):
                assert SAFE_LINE.fullmatch(line), line
    return True


@UNHURRIED
@given(st.text())
def test_any_text(text: str) -> None:
    assert not is_pair(text)


def lists_and_mappings(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Of no more than five: with more, most trees grow too large, and are thrown away and drawn again."""
    return st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5)


@UNHURRIED
@given(st.recursive(st.text(max_size=5), lists_and_mappings))
def test_any_json(value: object) -> None:
    """JSON is YAML: trees of every shape."""
    assert not is_pair(json.dumps(value))


@settings(UNHURRIED, max_examples=500)
@given(mutated())
def test_any_mutated_example(text: str) -> None:
    is_pair(text)


def test_the_examples_themselves_are_pairs() -> None:
    assert all(is_pair(text) for text in PAIRS)
