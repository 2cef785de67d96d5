# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab`: the command line. The only place that wires."""

import argparse
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType, ModuleType
from typing import Any, NoReturn

from agent import __version__
from agent.arguments import parse_path, refuse_early_options
from agent.errors import HafwError
from agent.model.pair import SyncMode
from hafw_lab.arguments.advert import add_advert_argument, choose_advert_ms
from hafw_lab.arguments.common import add_lab_argument
from hafw_lab.arguments.desktops import add_desktop_arguments, choose_desktops
from hafw_lab.arguments.machines import add_machine_arguments, choose_machines
from hafw_lab.client import registry
from hafw_lab.client.lab import Lab, LabStatus, NodeStatus
from hafw_lab.client.node import Node
from hafw_lab.client.records import readable
from hafw_lab.doctor import examine
from hafw_lab.errors import LabError
from hafw_lab.model.fault import KNOWN, OF_MACHINES, Fault
from hafw_lab.model.options import AgentKind, LabOptions
from hafw_lab.model.topology_file import choose_topology
from hafw_lab.node.enter import become_inside
from hafw_lab.spoken import adapted, adapted_columns, pass_on, program, say, show, show_json
from hafw_lab.verbs import console
from hafw_lab.vm.accelerator import find_obstacle

LATE_VERBS = {
    "demo": "cut the primary's power under live connections and show what happens",
    "bench": "measure failovers against the stock script",
    "snapshot": "save a lab of machines as it is, and restore it in seconds",
    "image": "build, list and remove the disks that virtual machines boot from",
    "render": "print this machine's bridges as systemd-networkd's files",
    "export": "write the machines and networks as libvirt's definitions",
    "clipboard": "copy and paste between this machine and the desktops, and among them",
    "usb": "hand USB devices of this machine to a machine of the lab",
    "graph": "draw the topology, with live roles when the lab is up",
    "view": "the screen of a machine with a desktop, in remote-viewer",
    "screenshot": "a picture of the screen of a machine with a desktop",
    "watch": "both firewalls side by side, live, with keys to fail and heal",
}
"""Loaded only when they are asked for: the others start sooner."""
_NOT_UP = 3
_LONGEST_LINE = 65536
_EXAMPLES = """examples:
  hafw-lab up                            the pair, its client and its server, until `hafw-lab down`
  hafw-lab status
  hafw-lab exec client -- ping -c3 192.168.0.3
  hafw-lab fail fw-1 --how power         cut its power; others: hafw-lab fail --help
  hafw-lab logs fw-2 keepalived
  hafw-lab heal fw-1
  hafw-lab down
Nothing outside of the lab's own namespaces is touched, unless `up --host omarine` plugs this machine in, and
root is not needed where the kernel lets ordinary users make namespaces (hafw-lab doctor says)."""


def _fault(text: str) -> Fault:
    try:
        return Fault.parse(text)
    except LabError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def make_parser(late: ModuleType | None = None, late_verb: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program(),
        description="A firewall pair, its client and its server in namespaces of this machine.",
        epilog=adapted_columns(_EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hafw-lab {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        verb.set_defaults(run=run)
        if name not in ("doctor", *LATE_VERBS):
            add_lab_argument(verb)
        return verb

    _add_up(add("up", "start the lab and leave it running", _up))
    add("down", "end the lab; always succeeds", _down)
    add("status", "who is primary, what runs, what is broken", _status).add_argument(
        "--json", action="store_true", help="for programs"
    )
    _add_command(add("exec", "run a command in a node; input, output and status pass through", _exec))
    add("shell", "a shell in a node", _shell).add_argument("node")
    add("console", "the serial console of a virtual machine; Ctrl-] leaves it", _console).add_argument(
        "node"
    )
    _add_logs(add("logs", "what the daemons of a node said", _logs))
    fail = add("fail", "break something; it stays broken until heal", _fail)
    fail.add_argument("node")
    known = f"{', '.join(KNOWN)}; {' and '.join(OF_MACHINES)} of machines only (default: power)"
    fail.add_argument("--how", type=_fault, default="power", metavar="FAULT", help=known)
    add("heal", "repair everything that is broken on a node", _heal).add_argument("node")
    add("doctor", "can this machine run the lab, and how well", _doctor).add_argument(
        "--json", action="store_true", help="for programs"
    )
    for name, text in LATE_VERBS.items():
        verb = add(name, text, late.run if late and name == late_verb else _later)
        if late and name == late_verb:
            late.add_arguments(verb)
            verb.usage = adapted(verb.usage) if verb.usage else None
            verb.epilog = adapted_columns(verb.epilog) if verb.epilog else None
    return parser


def _add_up(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--agent",
        choices=[one.value for one in AgentKind],
        default=AgentKind.HAFW.value,
        help="who acts at a failover (default: hafw)",
    )
    verb.add_argument(
        "--sync",
        choices=[one.value for one in SyncMode],
        default=SyncMode.DIRECT.value,
        help="where the backup keeps the states (default: direct)",
    )
    add_advert_argument(verb, None)
    verb.add_argument("--no-nat", dest="nat", action="store_false", help="forward without source NAT")
    verb.add_argument("--server-route", action="store_true", help="the server knows the way to the clients")
    verb.add_argument(
        "--preempt", action="store_true", help="the higher priority takes over when it comes back"
    )
    verb.add_argument(
        "--restart", action="store_true", help="start daemons that die again, as systemd would"
    )
    verb.add_argument(
        "--topology", type=parse_path, metavar="FILE", help="another topology than the built-in one"
    )
    add_machine_arguments(verb)
    add_desktop_arguments(verb)


def _add_command(verb: argparse.ArgumentParser) -> None:
    verb.usage = adapted("hafw-lab exec [--name NAME] NODE -- COMMAND [ARGUMENT...]")
    verb.add_argument("node")
    verb.add_argument("command", nargs=argparse.REMAINDER, help="after --")


def _add_logs(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("node")
    verb.add_argument(
        "service", nargs="?", help="bus, conntrackd, agent, keepalived or syslog; default: all"
    )
    verb.add_argument("-f", "--follow", action="store_true", help="continue as more is written")


# -- verbs --


def _lab_of(args: argparse.Namespace | None) -> str | None:
    """None where the command line has not been understood, and for verbs that have none."""
    return getattr(args, "name", None)


def _up(args: argparse.Namespace) -> int:
    topology = choose_topology(args.topology)
    names = [node.name for node in topology.nodes if node.name != args.host]
    desktops = choose_desktops(args.desktop, args.video, args.remote, topology, args.host)
    machines = choose_machines(args.vm, args.release, names, desktops)
    options = LabOptions(
        agent=AgentKind(args.agent),
        sync=SyncMode(args.sync),
        advert_interval_ms=choose_advert_ms(args.advert, machines, topology, find_obstacle(), say),
        nat=args.nat,
        server_route=args.server_route,
        preempt=args.preempt,
        restart=args.restart,
        machines=machines,
        host=args.host,
        desktops=desktops,
        remote=args.remote,
    )
    if registry.up(args.name, options, topology, say):
        text = "the lab is up; try: hafw-lab status, hafw-lab fail fw-1 --how power, hafw-lab down"
        say(text, _lab_of(args))
    else:
        say("the lab is already up, as requested")
    return 0


def _down(args: argparse.Namespace) -> int:
    registry.down(args.name, say)
    return 0


def _status(args: argparse.Namespace) -> int:
    if args.name not in registry.find_names():
        if args.json:
            show_json({"name": args.name, "up": False}, indent=None)
        else:
            show(f"no lab {args.name!r} is up; start one with: hafw-lab up", _lab_of(args))
        return _NOT_UP
    status = registry.attach(args.name).status()
    if args.json:
        show_json({"up": status.starting is None, **status.to_json()})
    else:
        show(describe(status))
    return 0 if status.starting is None else _NOT_UP


def describe(status: LabStatus) -> str:
    """The table of `hafw-lab status`."""
    lines = [f"lab {status.name!r}: agent {status.options['agent']}, sync {status.options['sync']}; "]
    lines[0] += f"primary: {status.primary or 'none'}"
    if status.starting is not None:
        lines.append(f"  it is starting: {status.starting}")
    for node in status.nodes:
        off = "off" if status.starting is None else "not on yet"
        lines.append(f"  {node.name:10} {_describe_node(node) if node.alive else off}")
    refused = sorted({text for node in status.nodes for text in node.refused_sysctls})
    lines += [f"  not set in this lab: {text}" for text in refused]
    return "\n".join(lines)


def _describe_node(node: NodeStatus) -> str:
    words = ["this machine itself" if node.host else "on"]
    if node.machine is not None:
        words = list(_describe_machine(node.machine))
    words += [f"holds {', '.join(node.vips)}"] if node.vips else []
    words += [f"link {name} is down" for name, up in node.links.items() if not up]
    words += [f"{name} does not run" for name, one in node.services.items() if not one.running]
    if node.firewall:
        words.append("connections unknown" if node.conntrack is None else f"{node.conntrack} connections")
    if "agent" in node.services and node.services["agent"].running:
        words.append(f"agent: {node.agent.get('role', 'no role')}" if node.agent else "agent silent")
    return "; ".join(words)


def _describe_machine(machine: Mapping[str, Any]) -> Iterator[str]:
    state = "paused" if machine["paused"] else "on" if machine["ready"] else "not reachable (booting?)"
    yield f"{state}, {machine['release']} on {machine['accelerator'].upper()}"


def _exec(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise LabError("no command given", f"for example: hafw-lab exec {args.node} -- ip address")
    _enter(registry.attach(args.name), args.node, command)


def _shell(args: argparse.Namespace) -> int:
    prompt = f"PS1={args.node}:\\w# "
    _enter(registry.attach(args.name), args.node, ["env", prompt, "bash", "--norc"])


def _console(args: argparse.Namespace) -> int:
    lab = registry.attach(args.name)
    machine = lab.machine(args.node)
    if lab.status().starting is not None:  # what it has said already is what one wants to see
        pass_on(machine.read_log("console"))
    lab.close()
    return console.talk(machine.console_socket)


def _enter(lab: Lab, node: str, command: Sequence[str]) -> NoReturn:
    if node in lab.machines:
        lab.machine(node).require_reachable()
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        argv = lab.machine(node).enter_argv(command, terminal=terminal)
        lab.close()
        os.execv(argv[0], argv)
    if node == lab.host:
        argv = lab.node(node).enter_argv(command)
        lab.close()
        os.execvp(argv[0], argv)
    pid, privileged = lab.node(node).pid, lab.privileged
    lab.close()
    become_inside(pid, command, privileged=privileged)


def _logs(args: argparse.Namespace) -> int:
    lab = registry.attach(args.name)
    if args.node in lab.machines:
        return _machine_logs(args, lab)
    if args.node == lab.host:
        raise LabError(f"{args.node} is this machine itself", "its logs are not the lab's")
    node, whole = lab.node(args.node), lab.status()
    status = whole.node(args.node)
    if not status.logs:
        stage = f": lab {lab.name!r} is starting: {whole.starting}" if whole.starting else ""
        raise LabError(f"{args.node} has no logs yet{stage}", "hafw-lab status shows the progress")
    names = [name for name in status.logs if args.service in (None, _service_of(name))]
    if not names:
        known = ", ".join(sorted({_service_of(name) for name in status.logs}))
        raise LabError(f"{args.node} has no log of {args.service!r}", f"there are logs of {known}")
    if args.follow and status.alive:
        return _follow(node, ["tail", "-n", "20", "-F", *(f"/var/log/{name}" for name in names)])
    for name in names:
        head = "" if args.service else f"{_service_of(name):11} "
        for line in node.read_text(f"/var/log/{name}").splitlines():
            pass_on(f"{head}{readable(line)}\n")
    return 0


def _service_of(log: str) -> str:
    """Of `keepalived.log`, and of the agent `agent.log` and its records in `hafw/agent.jsonl`."""
    return log.rpartition("/")[2].partition(".")[0]


def _machine_logs(args: argparse.Namespace, lab: Lab) -> int:
    machine = lab.machine(args.node)
    known = ("bus", "conntrackd", "agent", "keepalived", "console")
    if args.service not in (None, *known):
        raise LabError(
            f"{args.node} has no log of {args.service!r}", f"there are logs of {', '.join(known)}"
        )
    if args.follow and args.service != "console":
        machine.require_reachable()
        return _follow(machine, machine.log_argv(args.service or "all", follow=True))
    pass_on(machine.read_log(args.service or "all"))
    return 0


def _follow(node: Node, argv: Sequence[str]) -> int:
    """Until Ctrl-C, or the node goes. Nothing of it is held back."""
    with node.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        try:
            while part := process.stdout.readline(_LONGEST_LINE):
                pass_on(readable(part.decode(errors="replace")))
        finally:
            process.kill()
    return process.returncode


def _fail(args: argparse.Namespace) -> int:
    lab = registry.attach(args.name)
    lab.fail(args.node, args.how)
    say(f"{args.node}: {args.how}; heal it with: hafw-lab heal {args.node}", _lab_of(args))
    return 0


def _heal(args: argparse.Namespace) -> int:
    registry.attach(args.name).heal(args.node)
    say(f"{args.node} is repaired")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    found = examine.examine()
    if args.json:
        show_json([finding.to_json() for finding in found])
    else:
        for finding in found:
            hint = f"; {finding.hint}" if finding.hint and finding.level is not examine.Level.OK else ""
            show(f"{finding.level.value:5} {finding.text}{hint}")
    return 1 if any(finding.level is examine.Level.BAD for finding in found) else 0


def load_verb(name: str) -> ModuleType:
    """One of LATE_VERBS: its `add_arguments` and its `run`."""
    return importlib.import_module("hafw_lab.bench.main" if name == "bench" else f"hafw_lab.verbs.{name}")


def _later(_: argparse.Namespace) -> int:
    raise LabError("this verb must be the first word")


# -- main --


def _end_in_order(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def main(argv: Sequence[str]) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_in_order)
    args: argparse.Namespace | None = None
    try:
        late_verb = argv[0] if argv and argv[0] in LATE_VERBS else None
        late = load_verb(late_verb) if late_verb else None
        try:
            parser = make_parser(late, late_verb)
            refuse_early_options(parser, argv, "verb")
            args = parser.parse_args(argv)
            run: Callable[[argparse.Namespace], int] = args.run
            return run(args)
        finally:
            sys.stdout.flush()
    except (LabError, HafwError) as error:
        say(f"hafw-lab: {error}", _lab_of(args))
        return 1
    except BrokenPipeError:  # the reader of our output has had enough; a demo that was left is no success
        sys.stderr.close()
        return 128 + signal.SIGPIPE
    except OSError as error:  # a disk that is full, a directory that is closed
        place = f": {error.filename}" if error.filename else ""
        say(f"hafw-lab: {error.strerror or error}{place}")
        return 1
    except KeyboardInterrupt:
        return 130
