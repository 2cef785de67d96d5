# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab clipboard`: copy and paste between this machine and the desktops of the lab, and among them.

`get` and `set` work inside the machine, with xclip in its session: so they do with a viewer open and with
none, and what they set travels on through an open viewer. `bridge` is what an open viewer does, without a
window (clipboard_bridge.py).
"""

import argparse
import subprocess
import sys
from enum import Enum
from pathlib import Path

from agent.arguments import parse_path
from hafw_lab.arguments.common import add_lab_argument
from hafw_lab.client import registry
from hafw_lab.client.machine_node import MACHINE_PATIENCE, MachineNode
from hafw_lab.desktop import clipboard_bridge
from hafw_lab.errors import LabError

_TIMEOUT_S = 20.0 * MACHINE_PATIENCE
_EXAMPLES = """examples:
  hafw-lab clipboard client get                        print what was copied in the client
  echo hello | hafw-lab clipboard omarine set          paste it there with Shift-Insert or Ctrl-V
  hafw-lab clipboard client get --type png --output shot.png
  hafw-lab clipboard client get | hafw-lab clipboard omarine set
  hafw-lab clipboard bridge                            one clipboard for this machine and all desktops"""


class Format(Enum):
    """What is copied; the value is what X calls it."""

    TEXT = "UTF8_STRING"
    PNG = "image/png"


# No screen is told apart from an empty clipboard by its status. xclip stays there in the background, for as
# long as no other program copies anything, so it must not hold the ends of our connection.
_NO_SCREEN = 77
_SESSION = f"""
test -S /tmp/.X11-unix/X0 || exit {_NO_SCREEN}
export DISPLAY=:0 HOME=/home/user
as_user="setpriv --reuid=user --regid=user --init-groups"
"""
# xclip itself gives what it holds in the name of whatever is asked for, so it is asked what it has.
_GET = (
    _SESSION
    + '$as_user xclip -selection clipboard -out -target TARGETS | grep -qx "$1" || exit 1\n'
    + 'exec $as_user xclip -selection clipboard -out -target "$1"'
)
_SET = _SESSION + 'exec $as_user xclip -selection clipboard -in -target "$1" >/dev/null 2>&1'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "hafw-lab clipboard NODE get|set [OPTION...] | hafw-lab clipboard bridge [NODE...]"
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("words", nargs="+", metavar="NODE get|set | bridge [NODE...]")
    parser.add_argument("--type", choices=[kind.name.lower() for kind in Format], default="text")
    parser.add_argument(
        "--input", type=parse_path, metavar="FILE", help="what to set (default: standard input)"
    )
    parser.add_argument(
        "--output", type=parse_path, metavar="FILE", help="where to write (default: standard output)"
    )
    add_lab_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Raises LabError."""
    if args.words[0] == "bridge":
        return clipboard_bridge.run_bridge(args.name, args.words[1:])
    if len(args.words) != 2 or args.words[1] not in ("get", "set"):
        raise LabError("clipboard wants a node and get or set, or bridge", "hafw-lab clipboard --help")
    name, verb = args.words
    lab = registry.attach(args.name)
    try:
        node, kind = lab.machine(name), Format[args.type.upper()]
        if verb == "get":
            _write(args.output, get_clipboard(node, kind))
        else:
            set_clipboard(node, kind, _read(args.input))
    finally:
        lab.close()
    return 0


def get_clipboard(node: MachineNode, kind: Format) -> bytes:
    """What was copied in the machine's session. Raises LabError."""
    done = _run(node, _GET, kind)
    if done.returncode != 0:
        what = "text" if kind is Format.TEXT else "a picture"
        raise LabError(f"{node.name}: there is no {what} in its clipboard")
    return done.stdout


def set_clipboard(node: MachineNode, kind: Format, content: bytes) -> None:
    """As if it had been copied in the machine's session. Raises LabError."""
    if kind is Format.PNG and not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise LabError("this is no PNG picture", "for text leave --type away")
    if _run(node, _SET, kind, content).returncode != 0:
        raise LabError(f"{node.name}: xclip could not set the clipboard", f"hafw-lab logs {node.name}")


def _run(
    node: MachineNode, script: str, kind: Format, content: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    argv = ["sh", "-c", script, "sh", kind.value]
    with node.popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            out, _ = process.communicate(content, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise LabError(f"{node.name}: its clipboard did not answer within {_TIMEOUT_S:g} s") from error
    if process.returncode == _NO_SCREEN:
        hint = f"start the lab with: hafw-lab up --desktop {node.name}"
        raise LabError(f"{node.name} has no desktop", hint)
    if process.returncode == 255:
        raise LabError(f"{node.name} cannot be reached", "hafw-lab status says how it is")
    return subprocess.CompletedProcess(argv, process.returncode, out)


def _read(path: Path | None) -> bytes:
    try:
        return sys.stdin.buffer.read() if path is None else path.read_bytes()
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from error


def _write(path: Path | None, content: bytes) -> None:
    if path is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        path.write_bytes(content)
    except OSError as error:
        raise LabError(f"cannot write to {path}: {error.strerror}", "choose another --output") from error
