# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw handover`: the other node becomes primary, and no packet is lost."""

import argparse
import json
from collections.abc import Callable

from agent.adapters.control import ask_handover
from agent.errors import HafwError
from agent.paths import Paths

FORCE = "hafw handover --force does it nevertheless"


def run(arguments: argparse.Namespace, paths: Paths, write: Callable[[str], None]) -> int:
    """`write`: at once, as what happens is of interest while it does. Raises HafwError when it is refused or
    fails."""

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
