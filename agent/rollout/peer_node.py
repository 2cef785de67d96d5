# SPDX-License-Identifier: GPL-2.0-or-later
"""The other node, asked through the agent of this one and the channel between the agents."""

import uuid
from pathlib import Path

from agent.adapters import atomic_file, control
from agent.errors import HafwError, UnavailableError
from agent.file_cures import cure_of
from agent.paths import Paths
from agent.rollout.request import Request, RulesAnswer, pack_request, unpack_answer

ALONE = "--this-node acts on this node alone"


class PeerNode:
    def __init__(self, paths: Paths, who: str) -> None:
        """Raises HafwError when the other node cannot be asked anything: what is to be said instead."""
        self._paths = paths
        try:
            found = control.ask_peer_name(paths.control_socket)
        except UnavailableError as error:
            raise HafwError(f"the other node cannot be asked: {error.message}", ALONE) from error
        if "error" in found:
            raise HafwError(f"{found['error']}; nothing was changed", ALONE)
        self.name = str(found["peer"])
        self.who = f"{who} on {found['node']}"

    def ask(self, request: Request) -> RulesAnswer:
        """Raises HafwError when no answer comes."""
        number = uuid.uuid4().hex
        place = request_file(self._paths, number)
        try:
            atomic_file.write(place, pack_request(request))
        except OSError as error:
            raise HafwError(f"cannot write {place}: {error.strerror}", cure_of(error)) from error
        try:
            found = control.ask_peer(self._paths.control_socket, number)
        finally:
            place.unlink(missing_ok=True)
        if "error" in found:
            raise HafwError(f"{self.name}: {found['error']}")
        return unpack_answer(bytes.fromhex(str(found["answer"])))


def request_file(paths: Paths, number: str) -> Path:
    """The agent reads it from here."""
    return paths.run_dir / f"ask.{number}"
