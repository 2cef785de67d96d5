# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw maintenance`: this node hands over, and does not become primary again while it is worked on."""

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime

from agent.adapters.control import ask_handover, ask_maintenance, ask_peer_name
from agent.adapters.maintenance_file import read_maintenance, write_maintenance
from agent.core.maintenance import MAX_REASON, Maintenance, is_reason
from agent.core.roles import Role
from agent.errors import HafwError, UnavailableError
from agent.paths import Paths

FORCE = "--force begins it nevertheless; this node stays primary while there is no other"


def run(arguments: argparse.Namespace, paths: Paths, write: Callable[[str], None]) -> int:
    """`write`: at once, as a handover is of interest while it happens. Raises HafwError."""

    def say(text: str) -> None:
        if not arguments.json:
            write(f"{text}\n")

    wanted = None
    if arguments.state == "on":
        if not is_reason(arguments.reason):
            raise HafwError(f"--reason is one line of at most {MAX_REASON} characters")
        since = datetime.now(UTC).isoformat(timespec="seconds")
        wanted = Maintenance(since, arguments.reason, arguments.never)
        _hand_over(paths, say, force=arguments.force)
    elif arguments.reason or arguments.never or arguments.force:
        raise HafwError("--reason, --never and --force are for `hafw maintenance on`")
    before = _read_before(paths)
    write_maintenance(paths.maintenance, wanted)
    taken = _tell_agent(paths)
    if arguments.json:
        maintenance = wanted.describe() if wanted is not None else None
        write(json.dumps({"schema": 1, "maintenance": maintenance, "agent": taken}) + "\n")
        return 0
    if wanted is not None:
        say(f"this node is in maintenance {wanted.describe()}")
    else:
        say("maintenance is over" if before else "this node was not in maintenance")
    if not taken:
        say("no agent runs here: it takes that from the disk when it starts")
    return 0


def _read_before(paths: Paths) -> bool:
    try:
        return read_maintenance(paths.maintenance) is not None
    except HafwError:
        return True  # what is there is replaced


def _hand_over(paths: Paths, say: Callable[[str], None], *, force: bool) -> None:
    """A primary hands over first. Raises HafwError when it cannot, and not by force."""
    try:
        role = ask_peer_name(paths.control_socket).get("role")
    except UnavailableError:
        return
    if role != Role.PRIMARY.value:
        return
    found = ask_handover(paths.control_socket, say, force=False)
    if "error" not in found:
        say(str(found["text"]))
    elif not force:
        raise HafwError(f"{found['error']}; nothing was changed", FORCE)
    else:
        say(f"in spite of this: {found['error']}")


def _tell_agent(paths: Paths) -> bool:
    """False where none runs. Raises HafwError when it could not take it."""
    try:
        found = ask_maintenance(paths.control_socket)
    except UnavailableError:
        return False
    if "error" in found:
        raise HafwError(str(found["error"]))
    return True
