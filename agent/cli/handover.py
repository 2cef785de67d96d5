# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw handover`: the other node becomes primary, and no packet is lost."""

import argparse
import json
from collections.abc import Callable

from agent.adapters.control import ask_handover, ask_peer_name
from agent.core.roles import Role
from agent.errors import HafwError
from agent.paths import Paths

STOPPING_LIMIT_S = 10.0
"""keepalived is stopped as it would be without a handover when that takes longer."""
FORCE = "hafw handover --force does it nevertheless"


def run(arguments: argparse.Namespace, paths: Paths, write: Callable[[str], None]) -> int:
    """`write`: at once, as what happens is of interest while it does. Raises HafwError when it is refused or
    fails."""

    if arguments.stopping:
        write(f"{_before_stop(paths)}\n")
        return 0

    def say(text: str) -> None:
        if not arguments.json:
            write(f"{text}\n")

    found = ask_handover(paths.control_socket, say, force=arguments.force)
    if arguments.json:
        write(json.dumps(found) + "\n")
        return int("error" in found)
    if "error" not in found:
        say(found["text"])
        return 0
    losses = {str(one["loss"]) for one in found["objections"]}
    if arguments.force or not losses:
        raise HafwError(str(found["error"]))
    raise HafwError(str(found["error"]), f"{FORCE}, and then {'; '.join(sorted(losses))}")


def _before_stop(paths: Paths) -> str:
    """What came of it, for the journal. Nothing that fails here keeps keepalived from stopping."""
    try:
        if ask_peer_name(paths.control_socket).get("role") != Role.PRIMARY.value:
            return "this node is not primary: nothing is handed over"
        found = ask_handover(paths.control_socket, lambda _: None, force=False, limit_s=STOPPING_LIMIT_S)
    except HafwError as error:
        return f"no handover: {error}"
    return str(found.get("text") or found.get("error"))
