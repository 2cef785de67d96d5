# SPDX-License-Identifier: GPL-2.0-or-later
"""The base chains of every table, of any program, as far as they could drop packets of the pair.

Hard facts
* libnftables reads every rule of every table, whatever it is asked to list; the kernel gives chains alone,
  and the rules of one chain.
* What a rule does is in its expressions: one without a condition has counter and log at the most before
  its verdict. nft's `reject` is an expression of its own.
* The chains of a dormant table are not hooked in.
"""

import struct
from collections.abc import Iterator

from agent.adapters.netlink_socket import NetlinkSocket
from agent.adapters.nfnetlink import (
    NETFILTER,
    NFTABLES,
    as_number,
    as_text,
    attribute,
    generic,
    of_generic,
    parse_attributes,
)
from agent.core.chains import BaseChain, Ends

_GET_TABLE, _GET_CHAIN, _GET_RULE = NFTABLES | 1, NFTABLES | 4, NFTABLES | 7
_GROUP_NFTABLES = 1 << 6
_FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 10: "ip6"}
_HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output", 4: "postrouting", 5: "ingress"}
_NETDEV_HOOKS = {0: "ingress", 1: "egress"}
_TABLE_NAME, _TABLE_FLAGS, _DORMANT = 1, 2, 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_USE, _CHAIN_TYPE = 1, 3, 4, 5, 6, 7
_HOOK_NUMBER, _HOOK_DEVICE, _HOOK_DEVICES = 1, 3, 4
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 2, 2, 1, 2
_DROP, _ACCEPT, _JUMP, _GOTO, _RETURN = 0, 1, -3, -4, -5
_WITHOUT_CONDITION = {b"counter", b"log", b"notrack"}
MAX_RULES = 1000
"""A chain with more rules is judged by its policy alone."""
DEEPEST = 5
"""So many jumps are followed."""


class ChainsWatch(NetlinkSocket):
    """Becomes readable when any rule changes. Raises UnavailableError where the kernel does not report
    it."""

    def __init__(self) -> None:
        super().__init__(NETFILTER, _GROUP_NFTABLES)


class Chains:
    def __init__(self) -> None:
        """Raises UnavailableError where cannot open a netlink socket."""
        self._socket = NetlinkSocket(NETFILTER)

    def close(self) -> None:
        self._socket.close()

    def read(self, not_of: frozenset[tuple[str, str]]) -> tuple[BaseChain, ...]:
        """The base chains of type filter, without those of the tables `not_of` (family, name). Raises
        UnavailableError."""
        dormant = {
            (family, attributes[_TABLE_NAME])
            for family, attributes in self._dump(_GET_TABLE, 0, b"")
            if as_number(attributes.get(_TABLE_FLAGS)) & _DORMANT
        }
        found = []
        for family, attributes in self._dump(_GET_CHAIN, 0, b""):
            table, words = attributes[_CHAIN_TABLE], _FAMILIES.get(family, "")
            if not words or _CHAIN_HOOK not in attributes or attributes.get(_CHAIN_TYPE) != b"filter\0":
                continue
            if (family, table) not in dormant and (words, as_text(table)) not in not_of:
                found.append(self._base_chain(family, attributes))
        return tuple(found)

    def _base_chain(self, family: int, attributes: dict[int, bytes]) -> BaseChain:
        hooks = _NETDEV_HOOKS if _FAMILIES[family] == "netdev" else _HOOKS
        hook = dict(parse_attributes(attributes[_CHAIN_HOOK]))
        devices = [hook[_HOOK_DEVICE]] if _HOOK_DEVICE in hook else []
        devices += [name for _, name in parse_attributes(hook.get(_HOOK_DEVICES, b""))]
        if as_number(attributes.get(_CHAIN_USE)) > MAX_RULES:
            ends = Ends.OPEN
        else:
            ends = self._end_of(family, attributes[_CHAIN_TABLE], attributes[_CHAIN_NAME], 0)
        if ends is Ends.OPEN:
            drops = _CHAIN_POLICY in attributes and as_number(attributes[_CHAIN_POLICY]) == _DROP
            ends = Ends.POLICY_DROP if drops else Ends.ACCEPT
        place = (as_text(attributes[_CHAIN_TABLE]), as_text(attributes[_CHAIN_NAME]))
        words = hooks.get(as_number(hook[_HOOK_NUMBER]), "")
        return BaseChain(
            _FAMILIES[family], *place, words, ends, tuple(sorted({as_text(name) for name in devices}))
        )

    def _end_of(self, family: int, table: bytes, chain: bytes, depth: int) -> Ends:
        """What becomes of a packet that matches no condition of this chain."""
        asked = attribute(_RULE_TABLE, table) + attribute(_RULE_CHAIN, chain)
        rules = self._dump(_GET_RULE, family, asked)
        for _, attributes in rules[:MAX_RULES]:
            code, target = _verdict(attributes.get(_RULE_EXPRESSIONS, b""))
            if code in (_JUMP, _GOTO) and depth < DEEPEST:
                ends = self._end_of(family, table, target, depth + 1)
                if ends is not Ends.OPEN or code == _GOTO:
                    return ends
            elif code in (_DROP, _ACCEPT):
                return Ends.RULE_DROP if code == _DROP else Ends.ACCEPT
            elif code == _RETURN:
                return Ends.OPEN
        return Ends.OPEN

    def _dump(self, message_type: int, family: int, body: bytes) -> list[tuple[int, dict[int, bytes]]]:
        """Family and attributes."""
        messages = map(of_generic, self._socket.dump(message_type, generic(family, body)))
        return [(family, dict(parse_attributes(body))) for family, body in messages]


def _verdict(expressions: bytes) -> tuple[int | None, bytes]:
    """Of a rule that asks for nothing: what it does and where it leads to. None for one with a condition."""
    for name, data in _each(expressions):
        if name == b"immediate":
            value = dict(parse_attributes(dict(parse_attributes(data)).get(_IMMEDIATE_DATA, b"")))
            verdict = dict(parse_attributes(value.get(_DATA_VERDICT, b"")))
            code = verdict.get(_VERDICT_CODE)
            found = struct.unpack("!i", code)[0] if code is not None else None
            return found, verdict.get(_VERDICT_CHAIN, b"")
        if name == b"reject":
            return _DROP, b""
        if name not in _WITHOUT_CONDITION:
            return None, b""
    return None, b""


def _each(expressions: bytes) -> Iterator[tuple[bytes, bytes]]:
    for _, element in parse_attributes(expressions):
        attributes = dict(parse_attributes(element))
        yield attributes.get(_EXPRESSION_NAME, b"").rstrip(b"\0"), attributes.get(_EXPRESSION_DATA, b"")
