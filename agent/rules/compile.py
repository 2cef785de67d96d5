# SPDX-License-Identifier: GPL-2.0-or-later
"""From the pair to our tables, `inet hafw` and `inet hafw-gate`, the same on both nodes, as commands.

    hook (priority)      chain        what it does
    prerouting (-450)    gate         in hafw-gate, while it is closed: nothing enters but what may always
    prerouting (-300)    raw-in       no tracking for replication and VRRP (raw-out for what leaves);
                                      source-check, by every packet of IPv6
    prerouting (-110)    sources      source-check, by the first packet of a connection over IPv4
    prerouting (-100)    dstnat       port forwarding (only where there is any)
    forward (-1)         role         in hafw-gate, while it is closed: nothing is forwarded
    forward (0)          forward      ct state, source-check, a chain per ordered pair of interfaces
    input (0)            input        source-check, management, sync, VRRP, neighbors, ICMP, own services
    output (0)           output       everything may leave
    postrouting (100)    srcnat       source NAT

Chains are found by maps of interface names: `from/eth1/to/eth0` for what is forwarded, `self/eth1` for what
is for the firewall itself.

`inet hafw` says what both were made from: the empty chain `digest-...` carries the digest. (A comment on the
table would not do: nft 1.0.6 leaves it out of its JSON.) A flip flushes that chain, which does nothing if it
is there and fails the whole transaction if it is not, so that the gate of another policy is never moved.
"""

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from agent.core.roles import RuleSet
from agent.model.pair import Pair
from agent.rules.forward import forward
from agent.rules.gate import (
    LOST_FORWARD,
    LOST_INPUT,
    closed,
    flip,
    gate,
    no_forward,
    own_sets,
)
from agent.rules.holes import Hole
from agent.rules.input import closed_input, local
from agent.rules.matching import named_sets
from agent.rules.nat import nat
from agent.rules.nft_json import command_texts, joined_text
from agent.rules.objects import (
    GATE_TABLE,
    TABLE,
    TABLES,
    Chain,
    Command,
    Commands,
    Object,
    Rule,
    Table,
    Verb,
    add,
    flush_chain,
)
from agent.rules.source_check import sources

DIGEST_PREFIX = "digest-"


@dataclass(frozen=True, slots=True)
class Compiled:
    """The tables of one pair."""

    body: tuple[Object, ...]
    """What both roles share."""
    digest: str
    packed: bytes
    """The commands that add `body`, as nft gets them: the digest is of this text, because nodes, generations
    and versions of this program are compared by it. Packed, for it is kept as long as the rules."""
    stop_gaps: Mapping[Hole, Commands]
    """What closes each hole that another program may make in our tables, until they are as they were."""

    def objects(self, rules: RuleSet) -> tuple[Object, ...]:
        """All that is in the tables, in the given role."""
        return (Chain(TABLE, self._name), *self.body, *_role(rules))

    def commands(self, rules: RuleSet) -> Commands:
        """One transaction that puts this, in the given role, in the place of what was there of ours."""
        return (*self._before, *add(*self.body), *_after(rules))

    def text(self, rules: RuleSet) -> str:
        """commands(), as nft gets them."""
        body = zlib.decompress(self.packed).decode()
        return joined_text((*command_texts(self._before), body, *command_texts(_after(rules))))

    def flip(self, rules: RuleSet) -> Commands:
        """Changes the role of these tables; fails on any other."""
        return (flush_chain(TABLE, self._name), *flip(rules))

    @property
    def _before(self) -> Commands:
        # add, delete, add: the delete must find a table, and nft 1.0.6 does not know `destroy`
        renewed = (
            Command(verb, Table(name)) for name in TABLES for verb in (Verb.ADD, Verb.DELETE, Verb.ADD)
        )
        return (*renewed, *add(Chain(TABLE, self._name)))

    @property
    def _name(self) -> str:
        return DIGEST_PREFIX + self.digest


def _role(rules: RuleSet) -> tuple[Object, ...]:
    return closed() if rules is RuleSet.BACKUP else ()


def _after(rules: RuleSet) -> Commands:
    return add(*_role(rules))


def compile_pair(pair: Pair) -> Compiled:
    """Raises ConfigError when management would be locked out or an interface name is none."""
    parts = (*gate(pair), *named_sets(pair), *sources(TABLE, pair), *forward(pair), *local(pair), *nat(pair))
    # the kernel wants a chain, set or object to be there before the first rule that names it
    body = tuple(sorted(parts, key=_is_rule))
    return Compiled(body, *_digest(body), _compile_stop_gaps(pair))


def _compile_stop_gaps(pair: Pair) -> Mapping[Hole, Commands]:
    """Beside what another program has left of our tables, until they are as they were: nothing is forwarded,
    or the firewall itself takes only what it takes under any policy. Of the same size for every policy,
    and in the table that is small. Each fails, and changes nothing, where it is in force, and that for a
    removed table where the table is there. The other two need the gate's table, and awake."""
    parts = (own_sets(GATE_TABLE, pair), sources(GATE_TABLE, pair), closed_input(GATE_TABLE, pair))
    own = sorted(chain.from_iterable(parts), key=_is_rule)
    forward_lost, input_lost = Chain(GATE_TABLE, LOST_FORWARD), Chain(GATE_TABLE, LOST_INPUT)
    return {
        Hole.TABLE: (
            Command(Verb.CREATE, Table(TABLE)),
            *add(Table(GATE_TABLE), forward_lost, *no_forward(), input_lost, *own),
        ),
        Hole.FORWARD: (Command(Verb.CREATE, forward_lost), *add(*no_forward())),
        Hole.INPUT: (Command(Verb.CREATE, input_lost), *add(*own)),
    }


def _digest(body: Iterable[Object]) -> tuple[str, bytes]:
    """Short hash of what the tables are made of, the same in every role, and the packed text of that."""
    found, packing = hashlib.sha256(b"["), zlib.compressobj(1)
    packed = bytearray()
    for number, text in enumerate(command_texts(Command(Verb.ADD, one) for one in body)):
        piece = f"{',' if number else ''}{text}".encode()
        found.update(piece)
        packed += packing.compress(piece)
    found.update(b"]")
    return found.hexdigest()[:16], bytes(packed + packing.flush())


def _is_rule(one: Object) -> bool:
    return isinstance(one, Rule)
