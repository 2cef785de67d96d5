# SPDX-License-Identifier: GPL-2.0-or-later
"""Elements of dynamic sets, added and deleted on both nodes. They are in no file, so in no generation. What
one node misses the agents carry to it (agent/core/sets.py)."""

from collections.abc import Sequence

from agent.adapters.dynamic_sets import add_elements, delete_elements
from agent.errors import HafwError
from agent.model.pair import IPAddress
from agent.rollout.peer_node import PeerNode
from agent.rollout.request import Request, RulesVerb

DOING = {RulesVerb.ADD: add_elements, RulesVerb.DELETE: delete_elements}


def change_here(verb: RulesVerb, name: str, addresses: Sequence[IPAddress]) -> None:
    """Raises HafwError, also when an address that is to be deleted is not there."""
    _require_none(name, DOING[verb](name, addresses))


def change_on_both(verb: RulesVerb, name: str, addresses: Sequence[IPAddress], peer: PeerNode) -> None:
    """Here first: what is wrong with them is found before the other node is asked. Where it is half done the
    same can be said again. Raises HafwError; its message says what became of both nodes."""
    missing = DOING[verb](name, addresses)
    try:
        answer = peer.ask(Request(verb, peer.who, set_name=name, elements=tuple(map(str, addresses))))
    except HafwError as error:
        text = f"this node was changed, but {peer.name} not: {error.message}"
        raise HafwError(text, error.hint) from error
    if answer.error is not None:
        raise HafwError(f"this node was changed, but {peer.name} not: {answer.error}")
    _require_none(name, missing)


def _require_none(name: str, missing: Sequence[IPAddress]) -> None:
    if missing:
        were = "was" if len(missing) == 1 else "were"
        words = ", ".join(map(str, missing))
        raise HafwError(f"{words} {were} not in set {name} of this node", f"see: hafw set list {name}")
