# SPDX-License-Identifier: GPL-2.0-or-later
"""The key by which the nodes of a pair know each other: made on one of them, and carried to the other once.

It is never shown, and a file of it is root's alone from its first moment.
"""

from pathlib import Path

from agent.adapters import atomic_file
from agent.adapters.openssl import make_pair_key
from agent.channel.keys import parse_key
from agent.channel.local import MAX_KEY_FILE, join_command
from agent.errors import HafwError
from agent.file_cures import cure_of
from agent.regular_file import read_regular

MODE = 0o600


def make(place: Path, text: str | None = None) -> None:
    """`text`: one that is made already. Raises HafwError, also when there is one already: the other node may
    have it."""
    if place.exists():
        raise HafwError(f"{place} is there already", "copy it to the other node, or remove it on both first")
    _write(place, text or make_pair_key())


def find_key(place: Path) -> str | None:
    """The text of the key; None where there is none. Raises HafwError when it cannot be read."""
    if not place.exists():
        return None
    return read_regular(place, MAX_KEY_FILE).decode("ascii", "replace")


def join(place: Path, text: str) -> bool:
    """Take the key that the other node has. False when it is the one that is here. Raises HafwError when
    `text` is none."""
    parse_key(text)
    if place.exists() and read_regular(place, MAX_KEY_FILE) == text.encode():
        return False
    _write(place, text)
    return True


def carry_words(place: Path, node: str = "THIS-NODE") -> str:
    """What is to be typed on the other node than `node`, where the key was made."""
    return f"The other node needs the same key, once. There, as root:\n\n{_ways(place, node)}"


def take_words(place: Path, node: str) -> str:
    """What is to be typed here; `node` is the one where the key is made."""
    return (
        f"This node needs {place} of {node}, the key by which the nodes know each other, once:\n"
        f"`hafw setup` makes it on {node}. When that is done, here, as root:\n\n{_ways(place, node)}"
    )


def lacking_for_tunnels(place: Path, peer: str, *, makes_it: bool) -> HafwError:
    """Why this node is not set up at all: half of it would be a conntrackd on tunnels that are not there.
    `makes_it`: the peer is the node where the key is made."""
    join = f"type here: {join_command(peer, place)}"
    do = (
        f"`hafw setup` on {peer} makes it, then {join}"
        if makes_it
        else f"{join} (or, to renew it: hafw pair key)"
    )
    return HafwError(
        f"the tunnels over the sync links are made of the key of the pair, and {place} is not on this node",
        f"nothing was written; {do}; then run hafw setup again here",
    )


def _ways(place: Path, node: str) -> str:
    return (
        f"    {join_command(node, place)}\n\n"
        "or carry the file by other means, and take it with: hafw pair join FILE\n"
    )


def _write(place: Path, text: str) -> None:
    try:
        atomic_file.make_directory(place.parent)
        atomic_file.write(place, text, MODE, durable=True)
    except OSError as error:
        raise HafwError(f"cannot write {place}: {error.strerror}", cure_of(error)) from error
