# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw rules ...`: arguments in, what happened out. agent/rollout does it, agent/rules has the words."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.arguments import add_this_node, parse_address, parse_path
from agent.errors import HafwError
from agent.paths import Paths
from agent.streams import complain, harmless

if TYPE_CHECKING:
    from agent.model.pair import Pair
    from agent.rollout.both import AppliedOnBoth
    from agent.rollout.forbidden import Applied  # it leans on everything that the agent leans on

EPILOG = """\
examples:
  hafw rules check new.yaml                 is it valid, also for the kernel?
  hafw rules diff new.yaml                  what would change
  hafw rules apply new.yaml --confirm 60    on both nodes; back in 60 s unless `hafw rules confirm` comes
  hafw rules rollback                       back to what was in force before
  hafw rules show eth1                      what happens to a packet that arrives at eth1
  hafw rules trace --from eth1 --saddr 192.168.2.10 --daddr 192.168.0.10 --dport 443
"""

LONGEST_CONFIRM_S = 86_400
STANDARD_OUTPUT = 1

Command = Callable[[argparse.Namespace, Paths], int]


def add_to(command: argparse.ArgumentParser) -> None:
    """Gives `hafw rules` its own commands."""
    verbs = command.add_subparsers(required=True, metavar="VERB")

    def add(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        verb.set_defaults(run=run)
        return verb

    verb = add("check", run_check, "check a pair file, also with the kernel; changes nothing")
    _add_file(verb)
    verb = add("diff", run_diff, "show what a pair file would change in the rules in force")
    _add_file(verb)
    _add_json(verb)
    verb = add("show", run_show, "show what happens to a packet that arrives at an interface, with counters")
    verb.add_argument("interface", nargs="?", metavar="INTERFACE", help="default: every one")
    _add_json(verb)
    _add_trace(add("trace", run_trace, "ask the kernel which rule decides on a packet (nothing is sent)"))
    verb = add("apply", run_apply, "put a pair file's rules in force on both nodes")
    _add_file(verb)
    verb.add_argument(
        "--confirm",
        type=_seconds,
        metavar="SECONDS",
        help="go back after this time unless `hafw rules confirm` is given",
    )
    verb.add_argument("--cut", action="store_true", help="end the connections that are not allowed any more")
    add_this_node(verb)
    _add_json(verb)
    add_this_node(add("confirm", run_confirm, "keep what `apply --confirm` has put in force"))
    verb = add("rollback", run_rollback, "go back to an earlier generation, on both nodes")
    verb.add_argument("number", type=int, nargs="?", metavar="NUMBER", help="default: the one before")
    verb.add_argument("--unconfirmed", help=argparse.SUPPRESS)  # what the timer of an apply calls
    verb.add_argument("--after", type=_delay, default=0.0, help=argparse.SUPPRESS)
    add_this_node(verb)
    _add_json(verb)
    verbs.add_parser("serve").set_defaults(run=run_serve)  # what the agent calls for the other node
    verb = add("generations", run_generations, "list the pair files that were in force, or print one")
    verb.add_argument("number", type=int, nargs="?", metavar="NUMBER", help="print this one")
    _add_json(verb)


def _add_file(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "file", type=parse_path, nargs="?", metavar="FILE", help="default: the installed pair file"
    )


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="for programs")


def _add_trace(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--from", dest="ingress", required=True, metavar="INTERFACE", help="where it arrives")
    verb.add_argument("--saddr", type=parse_address, required=True, metavar="ADDRESS", help="from whom")
    verb.add_argument("--daddr", type=parse_address, required=True, metavar="ADDRESS", help="for whom")
    verb.add_argument("--proto", choices=("tcp", "udp", "icmp"), default="tcp", help="default: tcp")
    verb.add_argument("--dport", type=_port, metavar="PORT", help="needed for tcp and udp")
    verb.add_argument("--sport", type=_port, default=40_000, metavar="PORT", help="default: 40000")
    _add_json(verb)


def _seconds(text: str) -> int:
    return _number(text, 1, LONGEST_CONFIRM_S)


def _delay(text: str) -> float:
    found = float(text) if re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text, re.ASCII) else -1.0
    if not 0 <= found <= LONGEST_CONFIRM_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {LONGEST_CONFIRM_S}")
    return found


def _port(text: str) -> int:
    return _number(text, 1, 65_535)


def _number(text: str, lowest: int, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9 and lowest <= int(text) <= highest):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {lowest} to {highest}")
    return int(text)


def run_check(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.adapters.nftables import Nftables
    from agent.core.roles import RuleSet
    from agent.rollout.active import OnDisk, check
    from agent.rollout.apply import refusal_of
    from agent.rules.unreached import find_warnings

    on_disk, path = OnDisk(paths), arguments.file or paths.pair_file
    found = check(on_disk.read(path))
    Nftables(found.table).check(RuleSet.BACKUP)
    print(f"{path} is good, and the kernel takes its rules ({found.rules})")
    for warning in find_warnings(found.pair):
        print(f"warning: {warning}")
    refusal = refusal_of(on_disk, found.pair)
    if refusal is not None:
        complain(f"hafw: `hafw rules apply` would refuse it all the same: {refusal}")
    return 0 if refusal is None else 1


def run_diff(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.rollout.active import OnDisk, check, find_in_force
    from agent.rollout.apply import refusal_of
    from agent.rules import diff

    on_disk = OnDisk(paths)
    new = check(on_disk.read(arguments.file or paths.pair_file))
    in_force = find_in_force(on_disk)
    found = diff.changes(diff.lines_of(in_force.table.body), diff.lines_of(new.table.body))
    refusal = refusal_of(on_disk, new.pair)
    if refusal is not None:
        complain(f"hafw: `hafw rules apply` would refuse this file: {refusal}")
    if arguments.json:
        print(
            json.dumps(
                {
                    "schema": 1,
                    "refusal": refusal,
                    "in_force": in_force.rules,
                    "file": new.rules,
                    "changes": [
                        {"place": one.part, "change": "added" if one.added else "removed", "text": one.text}
                        for one in found
                    ],
                }
            )
        )
    else:
        print(diff.to_text(found, _zones(new.pair)) or "nothing would change\n", end="")
    return 0


def _zones(pair: "Pair") -> dict[str, str]:
    return {interface.name: interface.zone for interface in pair.interfaces}


def run_show(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.adapters.ruleset_dump import read_rule_texts, read_table
    from agent.rules import show

    shown = show.show(read_table().entries, read_rule_texts(), arguments.interface)
    if arguments.interface is not None and not shown.known:
        raise HafwError(
            f"the rules have no interface {arguments.interface}", f"they have {', '.join(shown.names)}"
        )
    print(json.dumps(shown.values()) if arguments.json else shown.text(), end="\n" if arguments.json else "")
    return 0


def run_trace(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.adapters.frame import Probe
    from agent.adapters.nft_trace import trace
    from agent.rules.trace import explain

    probe = Probe(arguments.saddr, arguments.daddr, arguments.proto, arguments.sport, arguments.dport or 0)
    if probe.saddr.version != probe.daddr.version:
        raise HafwError("--saddr and --daddr are of different IP versions")
    if probe.protocol != "icmp" and not probe.dport:
        raise HafwError(f"a {probe.protocol} packet needs a port", "give it with --dport")
    events, ruleset = trace(arguments.ingress, probe)
    deciding = [chain for chain, hook in ruleset.chains.items() if hook in ("forward", "input")]
    traced = explain(events, ruleset.rules, deciding)
    missing = ", ".join(ruleset.missing)
    if arguments.json:
        print(json.dumps({**traced.values(), "not_copied": list(ruleset.missing)}))
        return 0
    print(
        "the loaded rules, and the kernel's verdict on the first packet of a connection, in a copy of this"
    )
    print("node's interfaces, addresses and routes; nothing was sent")
    print(harmless(traced.text()), end="")
    if missing:
        print(harmless(f"these tables could not be copied and may decide differently: {missing}"))
    return 0


def run_apply(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.rollout import apply, both
    from agent.rollout.peer_node import PeerNode

    source, order = arguments.file or paths.pair_file, apply.Order(arguments.confirm, cut=arguments.cut)
    if arguments.this_node:
        applied = both.AppliedOnBoth(apply.apply(paths, source, order), None)
    else:
        applied = both.apply_on_both(paths, source, order, PeerNode(paths, apply.who()))
    _print_applied(arguments, applied)
    return 0


def _print_applied(arguments: argparse.Namespace, applied: "AppliedOnBoth") -> None:
    if arguments.json:
        there = {"peer": applied.peer, "cut_connections_there": applied.ended_there}
        print(json.dumps(_applied_values(applied.own) | there))
        return
    print(_applied_text(applied), end="")


def _applied_values(applied: "Applied") -> dict[str, object]:
    return {
        "schema": 1,
        "generation": applied.generation.number,
        "before": applied.before.number if applied.before else None,
        "rules": applied.generation.rules,
        "by_agent": applied.by_agent,
        "forbidden_connections": applied.forbidden,
        "cut_connections": applied.cut,
        "confirm_within_s": round(applied.pending.remaining_s(), 1) if applied.pending else None,
    }


def _applied_text(on_both: "AppliedOnBoth") -> str:
    """What is in force now, and what is left to do."""
    applied, peer = on_both.own, on_both.peer
    number, before = applied.generation.number, applied.before
    where = f" here and on {peer}" if peer is not None else ""
    lines = [f"generation {number} is in force{where} (rules {applied.generation.rules})"]
    if before == applied.generation:
        lines = [f"generation {number} was in force already{where}; its rules were loaded again"]
    if not applied.by_agent:
        lines.append("no agent runs here; the rules were loaded without it")
    lines += _connections_text(applied)
    if peer is not None and on_both.ended_there is not None:
        lines.append(_ended_text(on_both.ended_there, f"on {peer}"))
    if applied.pending is not None:
        lines.append(applied.pending.describe())
    if peer is None:
        lines.append("the other node was left as it is")
    return "".join(f"{line}\n" for line in lines)


def _connections_text(applied: "Applied") -> list[str]:
    if applied.cut is not None:
        return [_ended_text(applied.cut, "here")]
    if applied.forbidden:
        many = applied.forbidden
        which = "1 connection stays" if many == 1 else f"{many} connections stay"
        return [f"{which} open that these rules do not allow; --cut would end them"]
    return []


def _ended_text(ended: int, where: str) -> str:
    which = "1 connection" if ended == 1 else f"{ended} connections"
    return f"{which} cut that these rules do not allow ({where}); conntrackd tells the other node"


def run_confirm(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.rollout import apply, both
    from agent.rollout.peer_node import PeerNode

    if arguments.this_node:
        print(f"generation {apply.confirm(paths).number} stays in force")
        return 0
    peer = PeerNode(paths, apply.who())
    print(f"generation {both.confirm_on_both(paths, peer).number} stays in force, here and on {peer.name}")
    return 0


def run_serve(_arguments: argparse.Namespace, paths: Paths) -> int:
    """One request from standard input, its answer to standard output."""
    from agent.rollout.request import MAX_REQUEST
    from agent.rollout.serve import answer_request

    answer = answer_request(paths, sys.stdin.buffer.read(MAX_REQUEST))
    with open(os.dup(STANDARD_OUTPUT), "wb") as out:
        out.write(answer)
    return 0


def run_rollback(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.rollout import apply, both
    from agent.rollout.peer_node import PeerNode

    if arguments.unconfirmed is not None:
        apply.roll_back_unconfirmed(paths, arguments.unconfirmed, arguments.after)
        return 0
    if arguments.this_node:
        applied = both.AppliedOnBoth(apply.roll_back(paths, arguments.number), None)
    else:
        applied = both.roll_back_on_both(paths, arguments.number, PeerNode(paths, apply.who()))
    if not arguments.json:
        print(applied.own.generation.why)
    _print_applied(arguments, applied)
    return 0


def run_generations(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.rollout.active import OnDisk

    on_disk = OnDisk(paths)
    generations = on_disk.generations
    if arguments.number is not None:
        files = generations.require(arguments.number).files
        if arguments.json:
            print(json.dumps(dict(files)))
            return 0
        for place, (name, text) in enumerate(files):
            print(f"# include: {name}\n{text}" if place else text, end="")
        return 0
    known, pending, in_force = generations.known(), generations.pending(), on_disk.find_in_force()
    for reason in generations.unusable():
        complain(f"hafw: {reason}; it is skipped")
    marks = {in_force.number: "in force"} if in_force else {}
    if pending is not None:
        marks[pending.number] = f"waits {pending.remaining_s():.0f} s for its confirmation"
    if arguments.json:
        print(
            json.dumps(
                [
                    {name: getattr(one, name) for name in ("number", "at", "who", "why", "rules")}
                    | {"mark": marks.get(one.number)}
                    for one in known
                ]
            )
        )
        return 0
    for one in known:
        mark = f"  ({marks[one.number]})" if one.number in marks else ""
        print(f"{one.number:6}  {one.at}  {one.rules}  {one.who}: {one.why}{mark}")
    if not known:
        print("there are none yet: the agent keeps one at its start, `hafw rules apply` every new one")
    return 0
