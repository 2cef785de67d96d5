"""How an announced connection is translated, from the way of the connection that announced it."""

import socket

import pytest

from agent.adapters.expectations import End, Translation, Way, find_translation
from agent.cli.kernel_check import judge_automatic, judge_keeping


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
