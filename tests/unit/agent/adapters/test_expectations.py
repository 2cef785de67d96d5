# SPDX-License-Identifier: GPL-2.0-or-later
"""How an announced connection is translated, from the way of the connection that announced it."""

import errno
import math
import socket
import struct
import time

import pytest

from agent.adapters.ctnetlink import Conntrack
from agent.adapters.expectations import End, Translation, Way, complete_all, find_translation
from agent.cli.kernel_check import judge_automatic, judge_keeping
from agent.core.actions import Completed
from agent.errors import UnavailableError


def end(address: str, port: int) -> End:
    return End(socket.inet_aton(address), port.to_bytes(2, "big"))


def way(source: tuple[str, int], target: tuple[str, int]) -> Way:
    return Way(socket.IPPROTO_TCP, end(*source), end(*target))


CLIENT, SERVER, VIP = "192.168.2.10", "192.168.0.3", "192.168.0.100"
REPLY, ORIGINAL = 1, 0


@pytest.mark.parametrize(
    ("expected", "there", "back", "translation"),
    [
        pytest.param(
            way((SERVER, 0), (VIP, 5000)),
            way((CLIENT, 4000), (SERVER, 21)),
            way((SERVER, 21), (VIP, 4000)),
            Translation(REPLY, (5000).to_bytes(2, "big")),
            id="active FTP from behind source NAT: on to the client",
        ),
        pytest.param(
            way((CLIENT, 0), (SERVER, 5000)),
            way((CLIENT, 4000), (SERVER, 21)),
            way((SERVER, 21), (VIP, 4000)),
            None,
            id="passive FTP from behind source NAT: the rules do it",
        ),
        pytest.param(
            way((SERVER, 0), (VIP, 1025)),
            way((CLIENT, 4000), (SERVER, 69)),
            way((SERVER, 69), (VIP, 1025)),
            Translation(REPLY, (4000).to_bytes(2, "big")),
            id="TFTP, whose answer goes to the port that NAT has changed",
        ),
        pytest.param(
            way((CLIENT, 0), (VIP, 5000)),
            way((CLIENT, 4000), (VIP, 21)),
            way((SERVER, 21), (CLIENT, 4000)),
            Translation(ORIGINAL, (5000).to_bytes(2, "big")),
            id="passive FTP to a forwarded server: on to the server",
        ),
        pytest.param(
            way((SERVER, 0), (CLIENT, 5000)),
            way((CLIENT, 4000), (SERVER, 21)),
            way((SERVER, 21), (CLIENT, 4000)),
            None,
            id="no NAT",
        ),
    ],
)
def test_translation(expected: Way, there: Way, back: Way, translation: Translation | None) -> None:
    assert find_translation(expected, there, back) == translation


def test_findings_say_what_to_do() -> None:
    assert judge_keeping(True).good
    assert judge_automatic(False).good
    assert not judge_keeping(False).good
    assert "update to 5.17" in judge_keeping(False).text
    assert not judge_automatic(True).good
    assert "nf_conntrack_helper=0" in judge_automatic(True).text


class SilentConntrack(Conntrack):
    """A kernel that takes every question and answers none."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(limit_s=limit_s)
        self._socket.close()
        self._socket, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def close(self) -> None:
        super().close()
        self.kernel.close()


def test_a_silent_kernel_holds_up_a_gate_for_the_limit_and_no_longer() -> None:
    waited = []
    for limit_s in (0.01, math.inf):
        tracking = SilentConntrack(limit_s)
        begun = time.monotonic()
        if limit_s < math.inf:
            assert complete_all(tracking, lambda: False) == Completed(0, all_seen=False)
        else:
            with pytest.raises(UnavailableError, match="does not answer"):
                complete_all(tracking, lambda: False)
        waited.append(time.monotonic() - begun)
        tracking.close()
    assert waited[0] < waited[1] / 2


def test_without_the_right_to_list_expectations_the_error_says_so() -> None:
    """Not that there are none: who has no CAP_NET_ADMIN here gets an error in place of the list."""
    refused = struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -errno.EPERM) + bytes(16)
    tracking = SilentConntrack(1.0)
    tracking.kernel.send(refused)
    with pytest.raises(UnavailableError, match="Operation not permitted"):
        complete_all(tracking, lambda: False)
    tracking.close()
