# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of a packet that a rule is about, and of one that no rule is about.

A rule with limits or a log has a chain of its own, `rule/NAME`, that all its interfaces share. What is above
a limit is dropped, not looked at any further. A limit is about new connections: a packet of one that was let
in and is not answered yet goes past it. Sources are counted each in a bucket of its own, kept until it is
full again; those that find no room for one share one. A refused packet is answered only where its zone is
inside, and only by a primary: the chain `role` comes first. Since TCP opens with SYN only, no reset ever
hits a connection that lives.
"""

from collections.abc import Iterator

from agent.model.pair import Action, Connections, Pair, Rate, Rule, Side, Zone
from agent.rules.matching import VERSIONS
from agent.rules.objects import TABLE, Chain, Object, Set, make_rule
from agent.rules.statements import (
    ACCEPT,
    COUNTER,
    DROP,
    L4PROTO,
    ConnectionLimit,
    Ct,
    Decision,
    Limit,
    Log,
    Match,
    NamedSet,
    Reject,
    SetUpdate,
    jump,
)
from agent.rules.values import comment_text, networks_of_source

# `reject` alone is a word of nft's own
REJECT = "reject-it"
_LOG_LIMIT = Limit(10, "minute", 5)
# as many sources are counted at a time; those beyond share one bucket
_MAX_SOURCES = 65_535
_BEGUN = Match(Ct("status"), "confirmed", "in")
_PLAIN = {Action.ACCEPT: ACCEPT, Action.DROP: DROP, Action.REJECT: jump(REJECT)}


def verdict(rule: Rule) -> Decision:
    return jump(_chain(rule)) if _has_chain(rule) else _PLAIN[rule.action]


def refusal(zone: Zone) -> Decision:
    """What becomes of a packet from `zone` that no rule is about."""
    return jump(refuse_chain(zone)) if has_refuse_chain(zone) else DROP


def has_refuse_chain(zone: Zone) -> bool:
    return zone.log or zone.side is Side.INSIDE


def refuse_chain(zone: Zone) -> str:
    return f"refuse/{zone.name}"


def verdict_chains(pair: Pair) -> Iterator[Object]:
    """The chains and sets that `verdict` and `refusal` need."""
    zones = [zone for zone in pair.zones if has_refuse_chain(zone)]
    rules: dict[str | None, Rule] = {}
    for rule in pair.policy:
        if _has_chain(rule):
            rules.setdefault(rule.name, rule)
    inside = any(zone.side is Side.INSIDE for zone in zones)
    if inside or any(rule.action is Action.REJECT for rule in pair.policy):
        yield from _reject()
    for zone in zones:
        yield from _refuse(zone)
    for rule in rules.values():
        yield from _limits(rule)


def _reject() -> Iterator[Object]:
    yield Chain(TABLE, REJECT)
    yield make_rule(TABLE, REJECT, Match(L4PROTO, "tcp"), Reject("tcp reset"))
    yield make_rule(TABLE, REJECT, Reject("icmpx", "admin-prohibited"))


def _refuse(zone: Zone) -> Iterator[Object]:
    chain = refuse_chain(zone)
    yield Chain(TABLE, chain)
    if zone.log:
        yield make_rule(
            TABLE, chain, _LOG_LIMIT, _log(f"hafw refuse {zone.name}: "), comment=f"{zone.name}: log"
        )
    what = jump(REJECT) if zone.side is Side.INSIDE else DROP
    yield make_rule(TABLE, chain, what, comment=f"{zone.name}: {zone.side.value}")


def _has_chain(rule: Rule) -> bool:
    return bool(rule.rate or rule.connections or rule.log)


def _chain(rule: Rule) -> str:
    return f"rule/{rule.name}"


def _limits(rule: Rule) -> Iterator[Object]:
    chain = _chain(rule)
    yield Chain(TABLE, chain)
    if rule.rate or rule.connections:
        yield make_rule(TABLE, chain, _BEGUN, COUNTER, ACCEPT, comment=f"{rule.label}: already accepted")
    if rule.rate:
        yield from _rate(rule, rule.rate)
    if rule.connections:
        yield from _connections(rule, rule.connections)
    if rule.log:
        prefix = f"hafw {rule.action.value} {rule.label}: "
        yield make_rule(TABLE, chain, _LOG_LIMIT, _log(prefix), comment=f"{rule.label}: log")
    yield make_rule(TABLE, chain, COUNTER, _PLAIN[rule.action], comment=f"{rule.label}: {rule.action.value}")


def _rate(rule: Rule, rate: Rate) -> Iterator[Object]:
    over, comment = Limit(rate.count, rate.period, rate.burst, over=True), f"{rule.label}: above {rate}"
    if not rate.per_source:
        yield make_rule(TABLE, _chain(rule), over, COUNTER, DROP, comment=comment)
        return
    for version in VERSIONS:
        name = f"limit/{rule.name}/{version}"
        kept_s = rate.refill_s + 1
        yield Set(
            TABLE, name, (f"ipv{version}_addr",), flags=("timeout",), timeout_s=kept_s, size=_MAX_SOURCES
        )
        yield from _per_source(rule, version, name, over, "update", comment)


def _connections(rule: Rule, connections: Connections) -> Iterator[Object]:
    over, comment = ConnectionLimit(connections.max_count, over=True), f"{rule.label}: above {connections}"
    if not connections.per_source:
        yield make_rule(TABLE, _chain(rule), over, COUNTER, DROP, comment=comment)
        return
    for version in VERSIONS:
        name = f"connections/{rule.name}/{version}"
        yield Set(TABLE, name, (f"ipv{version}_addr",), size=_MAX_SOURCES)
        yield from _per_source(rule, version, name, over, "add", comment)


def _per_source(
    rule: Rule, version: int, name: str, over: Limit | ConnectionLimit, operation: str, comment: str
) -> Iterator[Object]:
    source = networks_of_source(version, rule.source_lengths[VERSIONS.index(version)])
    counted = SetUpdate(operation, source, name, (over,))
    yield make_rule(TABLE, _chain(rule), counted, COUNTER, DROP, comment=comment)
    # the kernel skips a rule whose set takes no more
    beyond = Match(source, NamedSet(name), "!=")
    yield make_rule(
        TABLE, _chain(rule), beyond, over, COUNTER, DROP, comment=f"{comment}, for all beyond the set"
    )


def _log(prefix: str) -> Log:
    return Log(comment_text(prefix), "info")
