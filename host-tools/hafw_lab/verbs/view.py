# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab view NODE`: the screen of a machine, in remote-viewer.

The ticket goes to the viewer through a pipe, so it is on no disk and in no command line.
"""

import argparse
import getpass
import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

from hafw_lab.arguments.common import add_lab_argument
from hafw_lab.client import registry
from hafw_lab.client.desktop import Desktop, Ticket
from hafw_lab.desktop.connection_file import compose_local, compose_remote
from hafw_lab.errors import LabError
from hafw_lab.hints import DEFAULT_LAB, absolute
from hafw_lab.spoken import program, say, show
from hafw_lab.vm.spice import LONGEST_TICKET_S, TICKET_S

_VIEWER = "remote-viewer"
_ANY = ("0.0.0.0", "::")


def add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("node")
    verb.add_argument(
        "--print",
        action="store_true",
        help="open nothing; print the connection file for remote-viewer on another machine, with a ticket in"
        " it, and how to use it",
    )
    verb.add_argument(
        "--valid",
        type=int,
        default=TICKET_S,
        metavar="SECONDS",
        help=f"how long the ticket is valid, at most {LONGEST_TICKET_S} (default: {TICKET_S})",
    )
    verb.add_argument(
        "--take-over", action="store_true", help="even if another viewer is open; it is closed"
    )
    add_lab_argument(verb)


def run(args: argparse.Namespace) -> int:
    lab = registry.attach(args.name)
    try:
        desktop = lab.machine(args.node).desktop
        remote = bool(lab.options["remote"])
        elsewhere = compose_elsewhere(args.node, args.name, desktop.socket, remote=remote)
        viewer = None if args.print else require_viewer(elsewhere)
        if not args.take_over:
            check_alone(desktop)
        ticket = desktop.make_ticket(args.valid)
    finally:
        lab.close()
    if viewer is None:
        show(compose_for_others(args.node, ticket, args.valid, elsewhere).removesuffix("\n"), args.name)
        return 0
    return open_viewer(viewer, compose_local(args.node, ticket, ticket.socket))


def check_alone(desktop: Desktop) -> None:
    """Raises LabError if a viewer is open, since another one would close it."""
    viewers = desktop.find_viewers()
    if viewers:
        raise LabError(
            f"{desktop.name} is already viewed, from {', '.join(viewers)}; a machine has one viewer at"
            " a time, so yours would close theirs",
            "to take it over, add --take-over",
        )


def require_viewer(elsewhere: str) -> str:
    """The program. Raises LabError that says what is missing; `elsewhere` is what can be typed on another
    machine."""
    found = shutil.which(_VIEWER)
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if found and screen:
        return found
    missing = f"{_VIEWER} is not installed" if found is None else "there is no graphical session here"
    advice = "apt-get install virt-viewer" if found is None else "type it in a terminal of your desktop"
    raise LabError(
        f"cannot open a window: {missing}",
        f"{advice}; or look from another machine that has a viewer, where you type:\n{elsewhere}",
    )


def open_viewer(viewer: str, connection: str) -> int:
    """Until its window is closed. Returns its exit status."""
    done = subprocess.run(
        [viewer, "-"],
        input=connection,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.stdout:  # among it what the machine's qemu has told it
        say(done.stdout.rstrip("\n"))
    return done.returncode


def compose_elsewhere(node: str, lab: str, ticket_socket: Path, *, remote: bool) -> str:
    """What is typed on another machine. Without a door to the network, ssh brings the socket there first."""
    here = f"{getpass.getuser()}@{socket.gethostname()}"
    name = [] if lab == DEFAULT_LAB else ["--name", lab]
    words = [*absolute(program()), "view", *name, node, "--print"]
    command = shlex.join(words)  # for the shell there; where that changes nothing, it is readable as it is
    show = f"ssh {here} {command if command == ' '.join(words) else shlex.quote(command)} | {_VIEWER} -"
    if remote:
        return show
    forward = f"{_forwarded(node)}:{ticket_socket}"
    return f"ssh -fN -o StreamLocalBindUnlink=yes -L {shlex.quote(forward)} {here}\n{show}"


def compose_for_others(node: str, ticket: Ticket, valid_s: int, elsewhere: str) -> str:
    """The connection file, with comments that say what to do with it."""
    comments = [f"The ticket is for one viewer that comes within {valid_s} s. On the other machine:"]
    comments += [f"  {line}" for line in elsewhere.splitlines()]
    if ticket.remote is None:
        text = compose_local(node, ticket, _forwarded(node))
    else:
        bound = ticket.remote.host
        text = compose_remote(node, ticket, socket.gethostname() if bound in _ANY else bound)
    return "".join(f"# {line}\n" for line in comments) + text


def _forwarded(node: str) -> Path:
    """Where another machine has the socket."""
    return Path(f"/tmp/hafw-{node}.sock")
