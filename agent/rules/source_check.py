# SPDX-License-Identifier: GPL-2.0-or-later
"""No packet comes in by an interface where its source does not live.

Asked of the kernel's routes (fib). Over IPv6 by every packet, and before connection tracking could take a
stranger's packet for one of a connection that it knows. Over IPv4 rp_filter does that, so a packet of a
known connection pays nothing; rp_filter drops without a word, and therefore the first packet of each
connection is asked before routing, where it would be dropped: a chain of type nat sees first packets alone.
The forward and the input chain look again at what has been through there before: a second packet of a
connection without answers, an error about one, and what is not tracked. In the input chain it comes before
management, whose sources are checked with it. On a backup all routes of the pair's own networks are the same
as on the primary. A virtual address as a source is the firewall's own address on the primary, which lives on
no interface, and an ordinary neighbor's on the backup. Interfaces that are no part of the pair are checked
like the others.
"""

from collections.abc import Iterator

from agent.errors import Problem
from agent.model.pair import Pair, Protocol
from agent.rules.objects import TABLE, Chain, CounterObject, Object, base_chain, make_rule
from agent.rules.statements import (
    DROP,
    IIFNAME,
    RETURN,
    Fib,
    Match,
    NamedCounter,
    Payload,
    Prefix,
    in_state,
    jump,
)
from agent.rules.values import interface_name, of_version

RAW_IN = "raw-in"
CHECK = "source-check"
SOURCES = "sources"
BEFORE_TRANSLATION = -110
_ANSWERED_FIRST = (Protocol.TCP, Protocol.SCTP)
_LIVES_ELSEWHERE = Match(Fib("oif", ("saddr", "iif")), False)
_LINK_LOCAL = Prefix("fe80::", 10)


def sources(table: str, pair: Pair) -> tuple[Object, ...]:
    unchecked = [interface for interface in pair.data_interfaces if interface.no_source_check]
    return (
        CounterObject(table, "spoofed"),
        Chain(table, CHECK),
        base_chain(table, SOURCES, "prerouting", BEFORE_TRANSLATION, kind="nat"),
        make_rule(table, SOURCES, of_version(4), Match(IIFNAME, "lo", "!="), jump(CHECK)),
        *(
            make_rule(
                table,
                CHECK,
                Match(IIFNAME, interface_name(interface.name)),
                RETURN,
                comment=f"{interface.name}: not checked: {interface.no_source_check}",
            )
            for interface in unchecked
        ),
        # hosts that have no address yet, and addresses that live on every link
        make_rule(table, CHECK, Match(Payload("ip", "saddr"), "0.0.0.0"), RETURN),
        make_rule(table, CHECK, Match(Payload("ip6", "saddr"), "::"), RETURN),
        make_rule(table, CHECK, Match(Payload("ip6", "saddr"), _LINK_LOCAL), RETURN),
        make_rule(table, CHECK, _LIVES_ELSEWHERE, NamedCounter("spoofed"), DROP, comment="spoofed source"),
    )


def find_believed(pair: Pair) -> Iterator[Problem]:
    """Warnings, where the management of the firewalls believes any source: without the check only what is
    answered before it is believed, as a connection over TCP or SCTP, tells a pretended source from a real
    one."""
    names = [one.name for one in pair.management.services if one.protocol not in _ANSWERED_FIRST]
    if not names:
        return
    for interface in pair.data_interfaces:
        if interface.no_source_check:
            yield Problem(
                f"interfaces.{interface.name}.no_source_check",
                f"management by {', '.join(names)} believes every packet there that pretends to come from"
                " one of its sources",
            )


def check_all_ipv6() -> Object:
    return make_rule(TABLE, RAW_IN, of_version(6), Match(IIFNAME, "lo", "!="), jump(CHECK))


def check(table: str, chain: str, *states: str) -> Object:
    """Sends packets in these states through the check."""
    return make_rule(table, chain, in_state(*states), jump(CHECK))
