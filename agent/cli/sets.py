# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw set ...`: the dynamic sets of the policy, on both nodes."""

import argparse
import json

from agent.arguments import add_this_node, parse_address
from agent.errors import HafwError
from agent.paths import Paths


def add_verbs(command: argparse.ArgumentParser) -> None:
    verbs = command.add_subparsers(required=True, metavar="VERB")
    for name, run, text in (
        ("add", run_add, "add addresses to a dynamic set on both nodes; their time begins now"),
        ("del", run_del, "delete addresses from a dynamic set on both nodes"),
    ):
        verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        verb.add_argument("name", metavar="NAME", help="of the set, as in the pair file")
        verb.add_argument("elements", type=parse_address, nargs="+", metavar="ELEMENT", help="an IP address")
        add_this_node(verb)
        verb.set_defaults(run=run)
    verb = verbs.add_parser(
        "list",
        help="list the dynamic sets of this node, or the elements of one",
        description="List the dynamic sets of this node, or the elements of one.",
    )
    verb.add_argument("name", nargs="?", metavar="NAME", help="default: every one")
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=run_list)


def run_add(arguments: argparse.Namespace, paths: Paths) -> int:
    return _change("add", arguments, paths)


def run_del(arguments: argparse.Namespace, paths: Paths) -> int:
    return _change("delete", arguments, paths)


def _change(verb: str, arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.rollout import sets
    from agent.rollout.apply import who
    from agent.rollout.peer_node import PeerNode
    from agent.rollout.request import MAX_ELEMENTS, RulesVerb

    if len(arguments.elements) > MAX_ELEMENTS:
        raise HafwError(f"{MAX_ELEMENTS} addresses at the most can be changed at a time")
    wanted = RulesVerb(verb)
    if arguments.this_node:
        sets.change_here(wanted, arguments.name, arguments.elements)
        where = "here alone; in the end both nodes have what the primary has"
    else:
        peer = PeerNode(paths, who())
        sets.change_on_both(wanted, arguments.name, arguments.elements, peer)
        where = f"here and on {peer.name}"
    many = len(arguments.elements)
    what = "1 address was" if many == 1 else f"{many} addresses were"
    print(f"{what} {'added to' if verb == 'add' else 'deleted from'} {arguments.name}, {where}")
    return 0


def run_list(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.adapters.dynamic_sets import list_sets

    found = [one for one in list_sets() if arguments.name in (None, one.name)]
    if not found and arguments.name is not None:
        raise HafwError(f"there is no dynamic set {arguments.name}", "see: hafw set list")
    if arguments.json:
        sets = {
            one.name: [{"element": str(each.address), "expires_s": each.expires_s} for each in one.elements]
            for one in found
        }
        print(json.dumps({"schema": 1, "sets": sets}))
        return 0
    for one in found:
        print(f"{one.name}: {len(one.elements) or 'no'} element{'' if len(one.elements) == 1 else 's'}")
        for each in one.elements:
            left = "" if each.expires_s is None else f"  {each.expires_s} s left"
            print(f"  {each.address}{left}")
    if not found:
        print("the policy has no dynamic sets")
    return 0
