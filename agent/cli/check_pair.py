# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw check --pair`: what differs between the nodes, and what either runs against its pair file."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from agent.adapters.control import ask_facts
from agent.config import loader
from agent.config.files import digest_of
from agent.core.facts import PAIR_FILE, Misfit, NodeFacts, PairFinding, compare_facts
from agent.errors import HafwError
from agent.model.pair import Pair
from agent.paths import Paths
from agent.setup.node_facts import FactsReader
from agent.streams import harmless

SCHEMA = 1


def run(paths: Paths, find_node: Callable[[Pair, str | None], str], *, as_json: bool) -> int:
    """1 when there is anything to be repaired, or the other node could not be asked."""
    pair, files = loader.load_with_files(paths.pair_file)
    node = find_node(pair, None)
    peer = pair.peer_of(node).name
    own = FactsReader(node, paths).read(pair)
    findings: list[PairFinding] = []
    other: NodeFacts | None = None
    try:
        answer = ask_facts(paths.control_socket)
        own = _with_known(own, answer["known"], digest_of(files))
        other = _read(answer["peer"])
    except (HafwError, KeyError, TypeError) as error:
        text = f"the agent of {node} does not say what {peer} has: {error}"
        findings.append(PairFinding(node, "agent", text, "systemctl start hafw-agent"))
    else:
        if other is None:
            text = (
                f"the agent of {peer} is not heard, or says nothing of its settings; only {node} was checked"
            )
            findings.append(PairFinding(node, "peer", text, "hafw status"))
    findings += compare_facts(own, other, (node, peer))
    print(_json(node, peer, findings, other) if as_json else _text(node, peer, findings))
    return 1 if findings else 0


def _with_known(own: NodeFacts, known: dict[str, str], on_disk: str) -> NodeFacts:
    """What the agent of this node has in force, beside what was read here."""
    misfits = own.misfits
    if known.get(PAIR_FILE) not in ("", on_disk):
        text = "the pair file on the disk is not the one in force"
        misfits = (*misfits, Misfit(PAIR_FILE, text, "hafw rules apply"))
    return NodeFacts({**own.equal, **known}, misfits)


def _read(told: dict[str, Any] | None) -> NodeFacts | None:
    if told is None:
        return None
    return NodeFacts(told["equal"], tuple(Misfit(**one) for one in told["misfits"]), told["more"])


def _text(node: str, peer: str, findings: list[PairFinding]) -> str:
    if not findings:
        return f"{node} and {peer} agree, and both run what the pair file wants"
    width = max(len(one.node) for one in findings)
    lines: list[str] = []
    for one in findings:
        lines.append(f"{one.node:<{width}}  {harmless(one.text)}")
        lines.append(f"{'':<{width}}    repair it there: {harmless(one.command)}")
    return "\n".join(lines)


def _json(node: str, peer: str, findings: list[PairFinding], other: NodeFacts | None) -> str:
    values = {"schema": SCHEMA, "node": node, "peer": peer, "compared": other is not None}
    return json.dumps({**values, "findings": [asdict(one) for one in findings]})
