# SPDX-License-Identifier: GPL-2.0-or-later
"""`./run bench`: the measurements, each with a table for people and JSON for programs."""

import argparse
import json
import signal

from agent.arguments import parse_path
from agent.model.pair import SyncMode
from hafw_lab.arguments.advert import add_advert_argument
from hafw_lab.arguments.common import add_sync_argument, check_writable, parse_count, parse_positive
from hafw_lab.arguments.machines import add_machine_arguments
from hafw_lab.bench import daemons, failover, flap, handover, hook, planned, rejoin, rules
from hafw_lab.bench.facts import read_facts
from hafw_lab.measure.blows import Daemon, Place
from hafw_lab.model.options import AgentKind
from hafw_lab.progress import Progress
from hafw_lab.spoken import Ink, choose_ink, show_painted, start_clock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="measure", required=True, metavar="WHAT")
    _add_failover(
        kinds.add_parser(
            "failover", help="power loss: how many connections survive, how long the silence is"
        )
    )
    _add_handover(kinds.add_parser("handover", help="a hundred handovers: how long the agent itself takes"))
    _add_flap(kinds.add_parser("flap", help="a link that flaps: how long until the pair is stable again"))
    _add_rejoin(
        kinds.add_parser("rejoin", help="a backup that comes back empty: how long until it has all states")
    )
    _add_daemons(
        kinds.add_parser("daemons", help="each daemon is killed, or stopped: is the pair whole again?")
    )
    _add_hook(kinds.add_parser("hook", help="what the hook and the resident agent cost"))
    _add_rules(
        kinds.add_parser(
            "rules", help="what rules cost: to load, to change the role, to forward through, beside nft"
        )
    )


def _add_failover(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--agents",
        type=parse_agents,
        default="hafw,stock,stock-drop",
        metavar="A,B,...",
        help="default: hafw,stock,stock-drop",
    )
    parser.add_argument(
        "--sync", type=parse_modes, default="direct,cache", metavar="A,B,...", help="default: direct,cache"
    )
    parser.add_argument(
        "--states",
        type=parse_counts,
        default="0,20000,300000",
        metavar="N,M,...",
        help="default: 0,20000,300000",
    )
    parser.add_argument("--runs", type=parse_positive, default=3, metavar="N", help="of each (default: 3)")
    add_advert_argument(parser)
    _finish(parser, failover.measure)


def _add_handover(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=parse_positive, default=100, metavar="N", help="default: 100")
    add_sync_argument(parser)
    add_advert_argument(parser)
    parser.add_argument(
        "--planned", action="store_true", help="measure what hafw handover loses, in direct mode, instead"
    )
    parser.add_argument(
        "--states",
        type=parse_counts,
        default="0,300000",
        metavar="N,M,...",
        help="with --planned (default: 0,300000)",
    )
    parser.add_argument(
        "--runs",
        type=parse_positive,
        default=20,
        metavar="N",
        help="with --planned: so many each way (default: 20)",
    )
    _finish(parser, _measure_handover)


def _measure_handover(
    args: argparse.Namespace, ink: Ink, progress: Progress
) -> tuple[dict[str, object], str]:
    if args.planned:
        return planned.measure(args, ink, progress)
    return handover.measure(args, ink, progress)


def _add_flap(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--agents", type=parse_agents, default="hafw,stock", metavar="A,B,...", help="default: hafw,stock"
    )
    parser.add_argument("--states", type=parse_count, default=300_000, metavar="N", help="default: 300000")
    parser.add_argument("--seconds", type=parse_positive, default=60, metavar="N", help="default: 60")
    parser.add_argument("--rate", type=parse_positive, default=10, metavar="HZ", help="default: 10")
    add_sync_argument(parser)
    add_advert_argument(parser)
    _finish(parser, flap.measure)


def _add_rejoin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--methods",
        type=parse_methods,
        default="hafw,conntrackd",
        metavar="A,B,...",
        help="default: hafw,conntrackd",
    )
    parser.add_argument(
        "--states",
        type=parse_positive_counts,
        default="20000,300000,1000000",
        metavar="N,M,...",
        help="default: 20000,300000,1000000",
    )
    parser.add_argument(
        "--limit",
        type=parse_positive,
        default=180,
        metavar="SECONDS",
        help="how long the backup may take (default: 180)",
    )
    add_advert_argument(parser)
    _finish(parser, rejoin.measure)


def _add_daemons(parser: argparse.ArgumentParser) -> None:
    for option, parse, known in (
        ("--daemons", parse_daemons, [one.value for one in Daemon]),
        ("--nodes", parse_places, [one.value for one in Place]),
        ("--signals", parse_signals, list(daemons.SIGNALS)),
    ):
        parser.add_argument(
            option,
            type=parse,
            default=",".join(known),
            metavar="A,B,...",
            help=f"some of {', '.join(known)} (default: all)",
        )
    parser.add_argument("--rounds", type=parse_positive, default=5, metavar="N", help="of each (default: 5)")
    parser.add_argument(
        "--stop-seconds",
        type=parse_positive,
        default=60,
        metavar="N",
        help="how long one is stopped (default: 60)",
    )
    parser.add_argument(
        "--limit",
        type=parse_positive,
        default=120,
        metavar="SECONDS",
        help="how long the pair may take to be calm again (default: 120)",
    )
    add_advert_argument(parser, None)
    add_machine_arguments(parser)
    _finish(parser, daemons.measure)


def _add_hook(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=parse_positive, default=100, metavar="N", help="default: 100")
    _finish(parser, hook.measure)


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=parse_positive, default=5, metavar="N", help="of each (default: 5)")
    parser.add_argument("--slices", type=parse_positive, default=60, metavar="N", help="default: 60")
    parser.add_argument(
        "--max",
        type=parse_positive,
        default=100_000,
        metavar="N",
        help="leave out larger cases (default: 100000)",
    )
    # its former name
    parser.add_argument("--most", type=parse_positive, dest="max", default=100_000, help=argparse.SUPPRESS)
    _finish(parser, rules.measure)


def _finish(parser: argparse.ArgumentParser, measure: object) -> None:
    parser.add_argument("--json", type=parse_path, metavar="FILE", help="also write the figures to FILE")
    parser.set_defaults(bench=measure)


def run(args: argparse.Namespace) -> int:
    """0 if everything could be measured, else 1. How good the figures are has no part in it."""
    check_writable(args.json)
    ink = choose_ink()
    found, text = args.bench(args, ink, start_clock(ink))
    show_painted(f"\n{text}")
    if args.json:
        whole = {"bench": args.measure, "facts": read_facts(), **found}
        args.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return 1 if found.get("failed") else 0


def parse_agents(text: str) -> tuple[AgentKind, ...]:
    return tuple(AgentKind(word) for word in _words(text, {kind.value for kind in AgentKind}))


def parse_modes(text: str) -> tuple[SyncMode, ...]:
    return tuple(SyncMode(word) for word in _words(text, {mode.value for mode in SyncMode}))


def parse_methods(text: str) -> tuple[rejoin.Method, ...]:
    return tuple(rejoin.Method(word) for word in _words(text, {method.value for method in rejoin.Method}))


def parse_daemons(text: str) -> tuple[Daemon, ...]:
    return tuple(Daemon(word) for word in _words(text, {one.value for one in Daemon}))


def parse_places(text: str) -> tuple[Place, ...]:
    return tuple(Place(word) for word in _words(text, {one.value for one in Place}))


def parse_signals(text: str) -> tuple[signal.Signals, ...]:
    return tuple(daemons.SIGNALS[word] for word in _words(text, set(daemons.SIGNALS)))


def parse_positive_counts(text: str) -> tuple[int, ...]:
    return tuple(parse_positive(word) for word in text.split(","))


def parse_counts(text: str) -> tuple[int, ...]:
    return tuple(parse_count(word) for word in text.split(","))


def _words(text: str, known: set[str]) -> list[str]:
    words = text.split(",")
    for word in words:
        if word not in known:
            raise argparse.ArgumentTypeError(f"{word!r} is not one of {', '.join(sorted(known))}")
    return words
