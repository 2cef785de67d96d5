# SPDX-License-Identifier: GPL-2.0-or-later
"""From the pair to our tables, `inet hafw` and `inet hafw-gate`, the same on both nodes, as libnftables JSON
commands.

    hook (priority)      chain        what it does
    prerouting (-450)    gate         in hafw-gate, while it is closed: nothing enters but what may always
    prerouting (-300)    raw-in       no tracking for replication and VRRP (raw-out for what leaves);
                                      source-check, by every packet of IPv6
    prerouting (-110)    sources      source-check, by the first packet of a connection over IPv4
    prerouting (-100)    dstnat       port forwarding (only where there is any)
    forward (-1)         role         in hafw-gate, while it is closed: nothing is forwarded
    forward (0)          forward      ct state, source-check, a chain per ordered pair of interfaces
    input (0)            input        source-check, management, sync, VRRP, neighbours, ICMP, own services
    output (0)           output       everything may leave
    postrouting (100)    srcnat       source NAT

Chains are found by maps of interface names: `from/eth1/to/eth0` for what is forwarded, `self/eth1` for what
is for the firewall itself.

`inet hafw` says what both were made from: the empty chain `digest-...` carries the digest. (A comment on the
table would not do: nft 1.0.6 leaves it out of its JSON.) A flip flushes that chain, which does nothing if it
is there and fails the whole transaction if it is not, so that the gate of another policy is never moved.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
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
    is_role_part,
    no_forward,
    own_sets,
)
from agent.rules.holes import Hole
from agent.rules.input import closed_input, local
from agent.rules.matching import named_sets
from agent.rules.nat import nat
from agent.rules.nft_json import (
    GATE_TABLE,
    TABLE,
    TABLES,
    Command,
    Commands,
    add_chain,
    add_table,
    additions,
    create_chain,
    create_table,
    delete_table,
    flush_chain,
)
from agent.rules.source_check import sources

DIGEST_PREFIX = "digest-"


@dataclass(frozen=True, slots=True)
class Table:
    """The tables of one pair."""

    body: Commands
    """What both roles share."""
    digest: str

    def commands(self, rules: RuleSet) -> Commands:
        """One transaction that puts this, in the given role, in the place of whatever was there of ours."""
        # add, delete, add: the delete must find a table, and nft 1.0.6 does not know `destroy`
        renewed = tuple(
            step for name in TABLES for step in (add_table(name), delete_table(name), add_table(name))
        )
        role = closed() if rules is RuleSet.BACKUP else ()
        return (*renewed, add_chain(TABLE, self._name), *self.body, *role)

    def flip(self, rules: RuleSet) -> Commands:
        """Changes the role of these tables; fails on any other."""
        return (flush_chain(TABLE, self._name), *flip(rules))

    @property
    def _name(self) -> str:
        return DIGEST_PREFIX + self.digest


# all that is asked about a pair begins here, and a large policy takes its time
@lru_cache(maxsize=2)
def compile_pair(pair: Pair) -> Table:
    """Raises ConfigError when management would be locked out or an interface name is none."""
    parts = (*gate(pair), *named_sets(pair), *sources(TABLE, pair), *forward(pair), *local(pair), *nat(pair))
    # the kernel wants a chain, set or object to be there before the first rule that names it
    body = tuple(sorted(parts, key=_is_rule))
    return Table(body, digest(body))


def compile_table(pair: Pair, rules: RuleSet) -> Commands:
    return compile_pair(pair).commands(rules)


def compile_flip(pair: Pair, rules: RuleSet) -> Commands:
    return compile_pair(pair).flip(rules)


def compile_stop_gaps(pair: Pair) -> Mapping[Hole, Commands]:
    """Beside what another program has left of our tables, until they are as they were: nothing is forwarded,
    or the firewall itself takes only what it takes under any policy. Of the same size whatever the policy,
    and in the table that is small. Each fails, and changes nothing, where it is in force, and that for a
    removed table where the table is there. The other two need the gate's table, and awake."""
    parts = (own_sets(GATE_TABLE, pair), sources(GATE_TABLE, pair), closed_input(GATE_TABLE, pair))
    own = sorted(chain.from_iterable(parts), key=_is_rule)
    lost = (add_chain(GATE_TABLE, LOST_FORWARD), *no_forward(), add_chain(GATE_TABLE, LOST_INPUT), *own)
    return {
        Hole.TABLE: (create_table(TABLE), add_table(GATE_TABLE), *lost),
        Hole.FORWARD: (create_chain(GATE_TABLE, LOST_FORWARD), *no_forward()),
        Hole.INPUT: (create_chain(GATE_TABLE, LOST_INPUT), *own),
    }


def digest(commands: Commands) -> str:
    """Short hash of what `commands` put into the tables, whatever the role."""
    lasting = [{"add": {kind: body}} for kind, body in additions(commands) if not is_passing(kind, body)]
    text = json.dumps(lasting, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_rule(command: Command) -> bool:
    added = command.get("add")
    return isinstance(added, dict) and "rule" in added


def is_passing(kind: str, body: Mapping[str, object]) -> bool:
    """Whether what is added is a table as such, the role, or the digest itself."""
    is_digest = kind == "chain" and str(body.get("name")).startswith(DIGEST_PREFIX)
    return kind == "table" or is_digest or is_role_part(kind, body)
