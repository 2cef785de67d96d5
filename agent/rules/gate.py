"""The gate, and the small set that makes the only difference between a primary and a backup.

The gate stands before everything that could remember or answer a packet: hook prerouting, priority -450,
which is before defragmentation (-400), raw (-300) and connection tracking (-200). A packet that a closed
gate drops leaves no conntrack entry and no reassembly queue, and nobody answers it.

Prerouting sees whatever arrives on a data interface, in both directions of every connection, so a closed
gate alone stops all forwarding. The `role` chain stops it a second time: it is the first stop of the forward
hook, before established connections are accepted, since on a backup even an established connection must not
pass.

What makes the difference between a primary and a backup is one small set, `serving`: it holds both IP
versions on a primary and nothing on a backup, and two chains ask it.

    chain    primary    backup
    gate     return     data interfaces: jump always; count as `early`; drop
    role     return     count as `backup`; drop

The first rule of the forward hook asks the same set together with the state of the connection, so that a
packet of a known connection meets nothing else.

A flip changes the elements of this set and nothing else. (A transaction that adds a rule with a verdict
makes the kernel look through the whole table again, half a microsecond a rule; one of elements does not.)
"""

from agent.core.roles import RuleSet
from agent.pair import Pair
from agent.rules.nft import (
    ACCEPT,
    DROP,
    IIFNAME,
    L4PROTO,
    NFPROTO,
    RETURN,
    Command,
    Commands,
    Json,
    add_base_chain,
    add_chain,
    add_counter,
    add_rule,
    add_set,
    concat,
    flush_set,
    interface_name,
    jump,
    match,
    named_counter,
    payload,
)

BEFORE_DEFRAG = -450
GATE = "gate"
ROLE = "role"
ROLE_CHAINS = (GATE, ROLE)
SERVING = "serving"
SERVED = ("ipv4", "ipv6")

IGMP = 2
AH = 51
VRRP = 112
VRRP_GROUP_4 = "224.0.0.18"
VRRP_GROUP_6 = "ff02::12"
LINK_LOCAL_4: Json = {"prefix": {"addr": "224.0.0.0", "len": 24}}
LINK_LOCAL_6: Json = {"prefix": {"addr": "fe80::", "len": 10}}
LINK_GROUPS_6: Json = {"prefix": {"addr": "ff02::", "len": 16}}

NEIGHBOUR_DISCOVERY: Json = {
    "set": ["nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"]
}
MULTICAST_LISTENERS: Json = {
    "set": ["mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report"]
}
_ON_DATA = match(IIFNAME, "@data")
IS_SERVING = match(NFPROTO, f"@{SERVING}")


def gate(pair: Pair) -> Commands:
    return (
        add_set("data", "ifname", [interface_name(interface.name) for interface in pair.data_interfaces]),
        add_set("own4", ["ifname", "ipv4_addr"], _own_addresses(pair, 4)),
        add_set("own6", ["ifname", "ipv6_addr"], _own_addresses(pair, 6)),
        add_counter("early"),
        add_counter("backup"),
        add_base_chain(GATE, "prerouting", BEFORE_DEFRAG),
        add_chain(ROLE),
        add_chain("always"),
        *_always(),
        *role_chains(),
    )


def role_chains() -> Commands:
    """The same in every role. Only expressions that every nft lists exactly as they were given."""
    return (
        add_rule(GATE, IS_SERVING, RETURN, comment="primary: the gate is open"),
        add_rule(GATE, _ON_DATA, jump("always")),
        add_rule(GATE, _ON_DATA, named_counter("early"), DROP, comment="backup: the gate is closed"),
        add_rule(ROLE, IS_SERVING, RETURN, comment="primary: the policy decides"),
        add_rule(ROLE, named_counter("backup"), DROP, comment="backup: nothing is forwarded"),
    )


def serving(rules: RuleSet) -> Command:
    """The set that makes the role. Elements can be given to a set that is there only in these words: for
    `add element` libnftables first reads every large set of the machine (a second for 100,000 elements).
    """
    return add_set(SERVING, "nf_proto", SERVED if rules is RuleSet.PRIMARY else ())


def flip(rules: RuleSet) -> Commands:
    return (flush_set(SERVING), *((serving(rules),) if rules is RuleSet.PRIMARY else ()))


def _always() -> Commands:
    """What passes a closed gate. The input chain still filters it; none of it can be forwarded by a backup.

    Management, the replies to the node's own questions and BFD go to the nodes' own addresses. Those count
    only on their own interface: a packet to the peer's address behind this node would otherwise get as far
    as routing, which answers a TTL of 1 before the forward hook sees it.
    """
    return (
        add_rule("always", match(concat(IIFNAME, payload("ip", "daddr")), "@own4"), ACCEPT),
        add_rule("always", match(concat(IIFNAME, payload("ip6", "daddr")), "@own6"), ACCEPT),
        *vrrp_rules("always"),
        add_rule("always", match(payload("ip", "daddr"), LINK_LOCAL_4), match(L4PROTO, IGMP), ACCEPT),
        *neighbour_rules("always"),
        add_rule("always", match(payload("ip6", "daddr"), LINK_LOCAL_6), ACCEPT),
    )


def vrrp_rules(chain: str) -> Commands:
    """VRRP by multicast; by unicast it goes to an own address."""
    return tuple(
        add_rule(
            chain, match(payload(protocol, "daddr"), group), match(L4PROTO, {"set": [AH, VRRP]}), ACCEPT
        )
        for protocol, group in (("ip", VRRP_GROUP_4), ("ip6", VRRP_GROUP_6))
    )


def neighbour_rules(chain: str) -> Commands:
    icmpv6 = payload("icmpv6", "type")
    return (
        add_rule(chain, match(icmpv6, NEIGHBOUR_DISCOVERY), match(payload("ip6", "hoplimit"), 255), ACCEPT),
        add_rule(
            chain, match(icmpv6, MULTICAST_LISTENERS), match(payload("ip6", "daddr"), LINK_GROUPS_6), ACCEPT
        ),
    )


def _own_addresses(pair: Pair, version: int) -> list[Json]:
    """The addresses of both nodes, so that the table is the same on both."""
    return [
        concat(interface_name(interface.name), str(address.ip))
        for interface in pair.data_interfaces
        for _, addresses in interface.addresses
        for address in addresses
        if address.version == version
    ]
