# SPDX-License-Identifier: GPL-2.0-or-later
"""Which chains of other programs count as dropping what is ours."""

import pytest

from agent.core.chains import BaseChain, Ends, judge_chains
from agent.core.conditions import Condition

OURS = frozenset({"eth0", "eth1", "eth2"})


def chain(hook: str, ends: Ends, *devices: str) -> BaseChain:
    return BaseChain("ip", "filter", "FORWARD", hook, ends, devices)


@pytest.mark.parametrize("hook", ["ingress", "prerouting", "input", "forward", "postrouting"])
@pytest.mark.parametrize(
    ("ends", "how"), [(Ends.POLICY_DROP, "its policy"), (Ends.RULE_DROP, "a rule without a condition")]
)
def test_a_chain_that_drops_is_named(hook: str, ends: Ends, how: str) -> None:
    condition, ok, text = judge_chains([chain(hook, ends), chain("forward", Ends.ACCEPT)], OURS)
    assert (condition, ok) == (Condition.FOREIGN_DROPS, False)
    assert text.count("table ip filter chain FORWARD") == 1
    assert how in text


@pytest.mark.parametrize(
    "harmless",
    [
        chain("forward", Ends.ACCEPT),
        chain("forward", Ends.OPEN),
        chain("output", Ends.POLICY_DROP),
        chain("egress", Ends.POLICY_DROP),
        chain("ingress", Ends.POLICY_DROP, "eth7"),
    ],
)
def test_a_chain_that_does_no_harm(harmless: BaseChain) -> None:
    assert judge_chains([harmless], OURS)[1]


def test_a_chain_on_some_interfaces_counts_where_they_are_ours() -> None:
    assert not judge_chains([chain("ingress", Ends.POLICY_DROP, "eth7", "eth1")], OURS)[1]
