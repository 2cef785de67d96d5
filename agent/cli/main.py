# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `hafw`. Arguments in, one function called, errors as one sentence and an exit status.

Exit status: 0 OK, 1 failed, 2 wrong arguments or pair file; `hafw status` has those of monitoring
plug-ins.
"""

import argparse
import contextlib
import io
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import __version__
from agent.arguments import parse_path, refuse_early_options
from agent.cli import pair_key, rules, sets
from agent.core.roles import Role
from agent.errors import ConfigError, HafwError
from agent.paths import Paths
from agent.render.kinds import Rendered
from agent.setup import arguments as setup_arguments
from agent.streams import ReaderGoneError, complain, harmless, open_missing, write_answer

if TYPE_CHECKING:
    from agent.model.pair import Pair  # each verb loads what it needs: a status has to be there at once

EPILOG = """\
examples:
  hafw check hafw.yaml                           is the pair file good?
  hafw check --pair                              do both nodes agree, and run what it wants?
  hafw render keepalived hafw.yaml --node fw-1   what keepalived needs
  hafw setup --dry-run                           what would be written on this node
  hafw plan backup primary                       what a takeover would do here
  hafw status                                    who is this node, and how is it?
  hafw history -n 20                             what happened
"""

ROLES = {
    "backup": Role.BACKUP,
    "primary": Role.PRIMARY,
    "master": Role.PRIMARY,
    "fault": Role.FAULT,
    "stopped": Role.STOPPED,
    "stop": Role.STOPPED,
}

_Verb = Callable[[argparse.Namespace, Paths], int]
_Add = Callable[[str, _Verb, str], argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    open_missing()
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            status = _run(argv)
        write_answer(printed.getvalue())
        return status
    except ConfigError as error:
        problems = "".join(f"\n  {problem}" for problem in error.problems)
        complain(f"hafw: {error.file} cannot be used:{problems}")
        return 2
    except HafwError as error:
        complain(f"hafw: {error}")
        return 1
    except ReaderGoneError:
        return 1
    except KeyboardInterrupt:
        return 130


def _run(argv: Sequence[str] | None) -> int:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser = make_parser()
            refuse_early_options(parser, sys.argv[1:] if argv is None else argv, "command")
            arguments = parser.parse_args(argv)
    except SystemExit as done:  # help was asked for, or the arguments are wrong: argparse has said so
        if said.getvalue():
            complain(said.getvalue().rstrip("\n"))
        return int(done.code or 0)
    return int(arguments.run(arguments, Paths()))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hafw",
        description="Fail over a pair of Linux firewalls without dropping connections.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hafw {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: _Verb, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run=run)
        return command

    for name, run, text in (
        ("agent", run_agent, "follow keepalived and carry out its transitions"),
        ("settle", run_settle, "bring this node to the state that its role needs, once"),
    ):
        command = add(name, run, text)
        _add_file_option(command)
    add("channel", run_channel, "speak with the other node of the pair, for the agent")
    _add_files(add)
    command = setup_arguments.add_command(commands.add_parser)
    command.set_defaults(run=run_setup)
    _add_file_option(command)
    _add_plan(add)
    command = add("maintenance", run_maintenance, "hand over, and do not become primary while it lasts")
    command.add_argument("state", choices=("on", "off"), help="begin it, or end it")
    command.add_argument("--reason", default="", metavar="TEXT", help="shown on both nodes")
    command.add_argument("--never", action="store_true", help="not primary even if there is no other node")
    command.add_argument("--force", action="store_true", help="also where the other node cannot take over")
    command.add_argument("--json", action="store_true", help="for programs")
    command = add("handover", run_handover, "make the other node primary without losing a packet")
    command.add_argument(
        "--force", action="store_true", help="also when the other node is not ready: packets are lost then"
    )
    command.add_argument(
        "--stopping", action="store_true", help=argparse.SUPPRESS
    )  # keepalived's unit says so
    command.add_argument("--json", action="store_true", help="for programs")
    command = add(
        "drill", run_drill, "try a handover to the other node and back, and measure it; asks first"
    )
    command.add_argument("--yes", action="store_true", help="begin without asking")
    command.add_argument(
        "--wait", type=_wait, default=300, metavar="SECONDS", help="for the way back (default: 300)"
    )
    command.add_argument("--json", action="store_true", help="for programs, with --yes")
    command.set_defaults(refuse=command.error)
    rules.add_to(
        commands.add_parser(
            "rules",
            help="check, show, change and roll back the rules",
            description="Check, show, change and roll back the rules.",
            epilog=rules.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    pair_key.add_commands(
        commands.add_parser(
            "pair",
            help="make the key by which the nodes know each other, or take it",
            description="Make the key by which the nodes know each other, or take it.",
        )
    )
    sets.add_verbs(
        commands.add_parser(
            "set",
            help="list and change the dynamic sets of the policy",
            description="List and change the dynamic sets of the policy.",
        )
    )
    _add_looks(add)
    return parser


def _add_files(add: _Add) -> None:
    command = add("check", run_check, "report every problem in a pair file, or in the kernel")
    _add_file_argument(command)
    asked = command.add_mutually_exclusive_group()
    asked.add_argument(
        "--kernel",
        action="store_true",
        help="test whether FTP and SIP survive a failover here, and look for WireGuard",
    )
    asked.add_argument(
        "--pair", action="store_true", help="compare both nodes, and what they run with the pair file"
    )
    command.add_argument("--json", action="store_true", help="for programs, with --pair")
    command.set_defaults(refuse=command.error)
    command = add("render", run_render, "print what another daemon needs, made from the pair file")
    command.add_argument("what", choices=tuple(what.value for what in Rendered))
    _add_file_argument(command)
    command.add_argument("--node", help="for which of the two nodes (default: this host's name)")


def _add_plan(add: _Add) -> None:
    command = add("plan", run_plan, "print what a change of role would do, without doing it")
    command.add_argument("before", choices=sorted(ROLES), metavar="FROM", help=", ".join(ROLES))
    command.add_argument("after", choices=sorted(ROLES), metavar="TO", help="the same")
    command.add_argument("--json", action="store_true", help="for programs")
    _add_file_option(command)


def _add_looks(add: _Add) -> None:
    command = add("status", run_status, "show the role of this node and its problems")
    command.add_argument("--json", action="store_true", help="for programs")
    command = add("history", run_history, "show what happened, from the records")
    command.add_argument("-n", "--lines", type=_positive, default=40, help="how many records (default: 40)")
    command.add_argument(
        "--since", type=_moment, help="not before: 2h, 30min, 7d, or a date and time (2026-01-31 13:00)"
    )
    command.add_argument("--json", action="store_true", help="for programs")


def _add_file_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "file", type=parse_path, nargs="?", metavar="FILE", help=f"default: {Paths().pair_file}"
    )


def _add_file_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--file", type=parse_path, help="the pair file (default: /etc/hafw/hafw.yaml)")
    command.add_argument("--node", help="which of the two nodes this is (default: by host name)")


def _positive(text: str) -> int:
    return _number(text, 100_000)


def _wait(text: str) -> int:
    return _number(text, 3600)


def _number(text: str, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= highest):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {highest}")
    return int(text)


def _moment(text: str) -> datetime:
    from agent.cli.history import parse_since

    try:
        return parse_since(text, datetime.now().astimezone())
    except (ValueError, OverflowError) as error:
        hint = "write 2h, 30min, 7d or 2026-01-31 13:00"
        raise argparse.ArgumentTypeError(f"invalid time {text!r}; {hint}") from error


def _load(arguments: argparse.Namespace, paths: Paths) -> "Pair":
    from agent.config import loader

    return loader.load(arguments.file or paths.pair_file)


def _find_node(pair: "Pair", wanted: str | None) -> str:
    name = wanted or find_host(pair, socket.gethostname())
    if pair.node(name) is None:
        known = " and ".join(node.name for node in pair.nodes)
        raise HafwError(
            f"{name} is not a node of pair {pair.name} ({known} are)", "name the node with --node"
        )
    return name


def find_host(pair: "Pair", host: str) -> str:
    """The node that is this host: by its whole name, or by the part before the first dot where only one
    node has it; the host's name when none is."""
    if pair.node(host) is not None:
        return host
    short = host.partition(".")[0]
    same = [node.name for node in pair.nodes if node.name.partition(".")[0] == short]
    return same[0] if len(same) == 1 and (same[0] == short or host == short) else host


def run_agent(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.engine import agent
    from agent.rollout import active, apply

    if arguments.file is None:
        apply.recover(paths)
    taken = active.take(paths, arguments.file, lambda pair: _find_node(pair, arguments.node))
    agent.run_resident(taken, _find_node(taken.pair, arguments.node), paths)
    return 0


def run_channel(_: argparse.Namespace, paths: Paths) -> int:
    from agent.channel import main as channel

    channel.run(paths)
    return 0


def run_settle(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.engine import agent
    from agent.rollout import active

    taken = active.take(paths, arguments.file, lambda pair: _find_node(pair, arguments.node))
    agent.run_settle(taken, _find_node(taken.pair, arguments.node), paths)
    return 0


def run_check(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.config import loader
    from agent.rules.unreached import find_warnings

    if arguments.pair:
        from agent.cli import check_pair

        if arguments.file is not None:
            arguments.refuse("--pair is about the installed pair file; leave FILE out")
        return check_pair.run(paths, _find_node, as_json=arguments.json)
    if arguments.json:
        arguments.refuse("--json goes with --pair; add that, or leave it out")
    if arguments.file is not None or not arguments.kernel:
        file = arguments.file or paths.pair_file
        pair = loader.load(file)
        nodes = " and ".join(node.name for node in pair.nodes)
        print(f"{harmless(str(file))} is good: pair {pair.name}, nodes {nodes}, {pair.sync.mode.value} mode")
        for warning in (*map(str, find_warnings(pair)), *_host_warnings(pair, paths)):
            print(f"warning: {warning}")
    return _check_kernel(arguments.file or paths.pair_file) if arguments.kernel else 0


def _host_warnings(pair: "Pair", paths: Paths) -> tuple[str, ...]:
    """Of the host that this runs on, where that is a node of the pair; the file may be for others."""
    try:
        node = _find_node(pair, None)
    except HafwError:
        return ()
    from agent.adapters.iproute import read_links
    from agent.setup.host import find_ssh_session, host_warnings
    from agent.setup.installed import InstalledFiles

    try:
        outdated = InstalledFiles(node, paths).find_outdated(pair)
        hints = (f"{one}; see: hafw setup --dry-run" for one in outdated)
        return (*host_warnings(pair, read_links(), find_ssh_session()), *_tunnel_warnings(pair), *hints)
    except HafwError as error:
        return (f"cannot read the network settings here: {error}",)


def _tunnel_warnings(pair: "Pair") -> Iterator[str]:
    """Raises HafwError when it cannot be tried."""
    if pair.tunnels:
        from agent.adapters.wireguard import MISSING, has_wireguard

        if not has_wireguard():
            yield f"{MISSING}, and sync.encrypt needs it: hafw setup will refuse this file here"


def _check_kernel(pair_file: Path) -> int:
    from agent.cli.kernel_check import examine_kernel
    from agent.config import loader

    try:
        encrypts = bool(loader.load(pair_file).tunnels)
    except HafwError:  # the kernel is good or bad without one
        encrypts = False
    found = examine_kernel(encrypts=encrypts)
    for finding in found:
        print(f"{'good' if finding.good else 'BAD ' if finding.wanted else 'note'}  {finding.text}")
    return 0 if all(finding.good or not finding.wanted for finding in found) else 1


def run_render(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.render.renderers import RENDERERS

    pair = _load(arguments, paths)
    node = _find_node(pair, arguments.node)
    print(RENDERERS[Rendered(arguments.what)].render(pair, node, paths), end="")
    return 0


def run_setup(arguments: argparse.Namespace, paths: Paths) -> int:
    # not the one that collects: the question comes after the diff
    out = sys.__stdout__
    from agent.cli import setup

    return setup.run(arguments, paths, _find_node, lambda text: write_answer(text, out))


def run_maintenance(arguments: argparse.Namespace, paths: Paths) -> int:
    # not the one that collects, as for a handover
    out = sys.__stdout__
    from agent.cli import maintenance

    return maintenance.run(arguments, paths, lambda text: write_answer(text, out))


def run_handover(arguments: argparse.Namespace, paths: Paths) -> int:
    # not the one that collects: what happens is said while it does
    out = sys.__stdout__
    from agent.cli import handover

    return handover.run(arguments, paths, lambda text: write_answer(text, out))


def run_drill(arguments: argparse.Namespace, paths: Paths) -> int:
    # not the one that collects: the question comes after the plan
    out = sys.__stdout__
    from agent.cli import drill

    return drill.run(arguments, paths, lambda text: write_answer(text, out))


def run_plan(arguments: argparse.Namespace, paths: Paths) -> int:
    """Both parts of the plan: what is done at once, and what when the role has settled."""
    from agent.core.plan import Settings
    from agent.core.preview import preview

    pair = _load(arguments, paths)
    if arguments.node is not None:
        _find_node(pair, arguments.node)
    settings = Settings.of(pair, shortest_timeout_s=30.0)
    found = preview(settings, ROLES[arguments.before], ROLES[arguments.after])
    if arguments.json:
        named = {"at_once": found.at_once, "when_settled": found.when_settled}
        print(json.dumps({name: [_action(action) for action in plan] for name, plan in named.items()}))
        return 0
    print(f"{arguments.before} -> {arguments.after}, {settings.mode.value} mode")
    actions = (*found.at_once, *found.when_settled)
    for number, action in enumerate(actions, 1):
        print(f"{number:3}. {action.describe()}")
    if not actions:
        print("nothing is done: the role stays the same")
    return 0


def _action(action: Any) -> dict[str, str]:
    return {"action": type(action).__name__, "text": action.describe()}


_NO_PAIR_FILE = "write the pair file first, on both nodes; without one the agent does not start"


def _can_start(paths: Paths) -> bool:
    """As the conditions of the unit have it; True where this user may not look."""
    generations = paths.state_dir / "generations"
    try:
        return os.path.exists(paths.pair_file) or any(generations.iterdir())
    except PermissionError:
        return True
    except OSError:
        return False


def run_status(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.adapters.control import ask_status
    from agent.cli.status_text import exit_status, to_text
    from agent.errors import UnavailableError
    from agent.model import schema

    try:
        values = ask_status(paths.control_socket)
    except UnavailableError as given:
        error = given if _can_start(paths) else UnavailableError(given.message, _NO_PAIR_FILE)
        if arguments.json:
            print(json.dumps({"schema": schema.STATUS, "error": str(error)}))
        else:
            complain(f"hafw: {error}")
        return 3
    print(json.dumps(values) if arguments.json else to_text(values))
    return exit_status(values)


def run_history(arguments: argparse.Namespace, paths: Paths) -> int:
    from agent.adapters.journal import read_records
    from agent.cli.history import to_table

    records = read_records(paths, arguments.lines, arguments.since)
    if arguments.json:
        for record in records:
            print(json.dumps(record))
    else:
        print(to_table(records), end="")
    return 0
