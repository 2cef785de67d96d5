# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes to an agent's channel from the addresses of its peer and is not the peer: it changes nothing,
and is recorded once. The pair continues to talk meanwhile."""

import os
import time
from collections.abc import Iterator, Sequence

import pytest

from agent.adapters.openssl import make_pair_key
from agent.channel.link import UNPROVED
from agent.channel.messages import PROTOCOL
from agent.channel.session import MAX_PER_SECOND
from agent.engine.refusals import AGAIN_S
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.client.records import Record
from tests.netns.agent.channel.as_peer import STRANGE_KEY, arguments, said, speak, wait_well
from tests.netns.pair_checks import find, records, until

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces here need root")]

RECORD_S = 30.0
NOT_TLS = "no TLS as the pair speaks it"

# of one who has no key
SHOWS_NOTHING = {
    "truncated": "connect().sendall(b'\\x16\\x03\\x01\\x02\\x00\\x01')",
    "nothing": "connect()",
    "slow": """
out = ssl.MemoryBIO()
try: make_context().wrap_bio(ssl.MemoryBIO(), out).do_handshake()
except ssl.SSLWantReadError: pass
line = connect()
try:
    for byte in out.read(): line.sendall(bytes((byte,))); time.sleep(0.25)
except OSError: pass
""",
    "ten at once": "lines = [connect() for _ in range(10)]\nfor line in lines: wait_end(line)",
    "no hello, though it has the key": "wait_end(secure())",
}
STRANGERS = {
    "garbage": ("line = connect(); line.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); wait_end(line)", NOT_TLS),
    "100 MiB": (
        """
line = connect()
try:
    for _ in range(100): line.sendall(bytes(1 << 20))
except OSError: pass
""",
        NOT_TLS,
    ),
    "another key": (f"wait_end(secure(key={STRANGE_KEY!r}))", "it has another key"),
    "no key": ("wait_end(secure(key=None))", NOT_TLS),
    "a recording": (
        """
def talk(line, out, incoming, tls):
    recorded = []
    def flush():
        if data := out.read(): recorded.append(data); line.sendall(data)
    while True:
        try: tls.do_handshake(); break
        except ssl.SSLWantReadError: flush(); incoming.write(line.recv(65536))
    text = json.dumps(hello).encode()
    tls.write(len(text).to_bytes(4, "big") + text); flush()
    line.recv(4096)
    return recorded
out, incoming = ssl.MemoryBIO(), ssl.MemoryBIO()
line = connect()
recorded = talk(line, out, incoming, make_context().wrap_bio(incoming, out))
line.close()
line = connect()
try:
    for one in recorded: line.sendall(one); time.sleep(0.2)
except OSError: pass
wait_end(line)
""",
        NOT_TLS,
    ),
}

# of one who has the key of the pair
LIARS = {
    "another node": ('{**hello, "node": "fw-9", "pair": "G9"}', "it is fw-9 of pair G9, not"),
    "itself": ('{**hello, "node": told["status"]["itself"]}', "as this node is"),
    "another version": ('{**hello, "lowest": 7, "highest": 9}', f"7 to 9 of the protocol, we {PROTOCOL}"),
    "half a hello": ('{"kind": "hello"}', "a message has no"),
    "no hello": ('{"kind": "song"}', "its first message says not who it is"),
}
LIES = {
    **{
        name: (f"line = secure(); send(line, json.dumps({first})); wait_end(line)", words)
        for name, (first, words) in LIARS.items()
    },
    "no JSON": ("line = secure(); send(line, '{'); wait_end(line)", "a message is not JSON"),
    "a long message": (
        """
line = greet(); line.sendall((100 << 20).to_bytes(4, "big"))
try:
    for _ in range(100): line.sendall(bytes(1 << 20))
except OSError: pass
""",
        f"it announces a message of {100 << 20} bytes",
    ),
    "half a message": (
        "line = greet(); line.sendall(b'\\0\\0\\1\\0{'); line.shutdown(socket.SHUT_WR); wait_end(line)",
        "ends in the middle",
    ),
    "a bad status": (
        'line = greet(); send(line, \'{"kind": "status", "role": 7}\'); wait_end(line)',
        "`role` of a message is not a short text",
    ),
    "too many messages": (
        f"""
line = greet()
try:
    for _ in range({MAX_PER_SECOND * 20}): send(line, json.dumps({{"kind": "status", **told["status"]}}))
except OSError: pass
wait_end(line)
""",
        f"it sends more than {MAX_PER_SECOND} messages a second",
    ),
}
ATTACKS = {**STRANGERS, **{f"the key, and {name}": lie for name, lie in LIES.items()}}
TWICE = 2


@pytest.fixture(scope="module")
def started() -> Iterator[Lab]:
    with Lab.start(LabOptions(), name="outsiders") as lab:
        lab.node(lab.firewalls[0]).write_text(STRANGE_KEY, make_pair_key())
        lab.wait_settled(30)
        yield lab


@pytest.fixture
def lab(started: Lab) -> Lab:
    for name in started.firewalls:
        wait_well(started, name)
    return started


def attack(lab: Lab, programs: Sequence[str], words: str) -> None:
    attacker, victim = lab.firewalls
    before = {name: said(lab, name)["role"] for name in lab.firewalls}
    since_ns = time.monotonic_ns()
    told = arguments(lab, attacker, itself=victim)
    for program in programs:
        speak(lab.node(attacker), program, told)
    until(
        lambda: bool(find_refused(lab.node(victim), since_ns, words)),
        RECORD_S,
        lambda: [one["message"] for one in records(lab.node(victim), since_ns)],
    )
    first = find_refused(lab.node(victim), since_ns, words)[0]
    for name in lab.firewalls:
        wait_well(lab, name)
        found = records(lab.node(name), since_ns)
        assert not find(found, event="alarm"), [one["message"] for one in found]
        assert said(lab, name)["role"] == before[name]
    until_ns = int(str(first["mono_ns"])) + round(AGAIN_S * 1e9)
    again = [
        one["message"]
        for one in find_refused(lab.node(victim), since_ns)
        # on a busy machine also the other node may need too long for that
        if int(str(one["mono_ns"])) < until_ns and (words == UNPROVED or UNPROVED not in str(one["message"]))
    ]
    assert again == [first["message"]]


def find_refused(node: Node, since_ns: int, words: str = "") -> list[Record]:
    found = find(records(node, since_ns), event="refused")
    return [
        one for one in found if "as the other node" in str(one["message"]) and words in str(one["message"])
    ]


def test_who_shows_nothing_changes_nothing(lab: Lab) -> None:
    """It is one record for all of them: nothing tells them apart."""
    attack(lab, tuple(SHOWS_NOTHING.values()), UNPROVED)


@pytest.mark.parametrize("name", ATTACKS)
def test_who_is_not_the_peer_changes_nothing(lab: Lab, name: str) -> None:
    program, words = ATTACKS[name]
    attack(lab, [program] * TWICE, words)
