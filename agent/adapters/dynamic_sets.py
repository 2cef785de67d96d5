# SPDX-License-Identifier: GPL-2.0-or-later
"""The dynamic sets of the policy, as the kernel has them: their elements come and go while the rules stay.

Hard facts
* An element that is there already is left as it is by an `add`, with the time that it has left.
* Deleting one that is not there fails, with the whole transaction.
* A timeout of 0 is none, and an element that has less than a second left is listed with 0.
* The kernel lets nobody else change a table while it works on a transaction, not even the agent that opens
  the gate.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from agent.adapters.nft_context import Context, find, is_missing, open_json_context, run
from agent.errors import HafwError, ToolError
from agent.model.pair import IPAddress
from agent.rules.matching import VERSIONS, set_name
from agent.rules.nft_json import list_text
from agent.rules.nft_parse import entries_of
from agent.rules.objects import FAMILY, TABLE

TRIES = 3
AT_ONCE = 1000
"""So many addresses change in a transaction of put_elements(): some milliseconds."""
GRACE_S = 5
"""Times that differ by so much are the same: the elements were on their way."""
_NAME = re.compile(r"([a-z][a-z0-9-]{0,31})/[46]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Element:
    """`expires_s`: after so many seconds it goes; None: never."""

    address: IPAddress
    expires_s: int | None = None


@dataclass(frozen=True, slots=True)
class DynamicSet:
    name: str
    elements: tuple[Element, ...] = ()


def list_sets() -> tuple[DynamicSet, ...]:
    """All of them, by their names. Raises HafwError when our table is not loaded, or cannot be listed."""
    text = find(open_json_context(), list_text("sets", table=TABLE), "the sets")
    if text is None:
        raise HafwError("no rules of hafw are loaded", "see: hafw status")
    found: dict[str, tuple[Element, ...]] = {}
    try:
        for kind, body in entries_of(text):
            matched = _NAME.fullmatch(str(body.get("name"))) if kind == "set" else None
            if matched is not None and _is_dynamic(body):
                found[matched[1]] = (*found.get(matched[1], ()), *_elements(body))
    except ValueError as error:
        raise HafwError(f"nft lists the sets in a way that is not understood: {error}") from error
    return tuple(DynamicSet(name, elements) for name, elements in sorted(found.items()))


def list_elements(name: str) -> tuple[Element, ...]:
    """Of that set alone: others may hold what outsiders have filled in. Raises HafwError."""
    context = open_json_context()
    found: list[Element] = []
    for version in VERSIONS:
        text = find(context, list_text("set", table=TABLE, name=set_name(name, version)), "a set")
        if text is None:
            raise HafwError(f"there is no dynamic set {name}", "see: hafw set list")
        try:
            found += (one for kind, body in entries_of(text) if kind == "set" for one in _elements(body))
        except ValueError as error:
            raise HafwError(f"nft lists set {name} in a way that is not understood: {error}") from error
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Put:
    """How many were `changed`, and the addresses of those that differ still."""

    changed: int
    differing: Collection[IPAddress]


def put_elements(
    name: str, wanted: Sequence[Element], *, beside: bool = False, among: Collection[IPAddress] | None = None
) -> Put:
    """Those that are `wanted` with the time that they have left, in the place of those that are there, or
    `beside` them, of which then none is changed. `among`: only these addresses are. Raises HafwError; some
    may have been changed then, where they are more than AT_ONCE."""
    context = open_json_context()
    changed: set[IPAddress] = set()
    differing: Collection[IPAddress] = ()
    for left in reversed(range(TRIES)):
        gone, fresh = _find_changes(list_elements(name), wanted, beside=beside)
        moving = {*gone, *fresh}
        differing = () if among is None else moving.difference(among)
        moved = sorted(moving.difference(differing), key=lambda one: (one.version, int(one)))
        try:
            for at in range(0, len(moved), AT_ONCE):
                now = moved[at : at + AT_ONCE]
                less, more = (one for one in now if one in gone), {a: fresh[a] for a in now if a in fresh}
                _change(context, name, [*less], more)
                changed.update(now)
        except ToolError as error:
            if not is_missing(error) or not left:
                raise
        else:
            break
    return Put(len(changed), differing)


def _find_changes(
    there: Sequence[Element], wanted: Sequence[Element], *, beside: bool
) -> tuple[Collection[IPAddress], Mapping[IPAddress, int | None]]:
    """What is to be deleted, and what is to be added after that."""
    own = {one.address: one.expires_s for one in there}
    others = {one.address: one.expires_s for one in wanted if one.expires_s != 0}
    fresh = {
        address: left_s
        for address, left_s in others.items()
        if address not in own or not (beside or _is_same_time(own[address], left_s))
    }
    gone = {address for address in fresh if address in own}
    if not beside:
        named = {one.address for one in wanted}
        gone |= {one for one, left_s in own.items() if one not in named and not _is_same_time(left_s, 0)}
    return gone, fresh


def _is_same_time(one_s: int | None, other_s: int | None) -> bool:
    if one_s is None or other_s is None:
        return one_s is other_s
    return abs(one_s - other_s) <= GRACE_S


def add_elements(name: str, addresses: Sequence[IPAddress]) -> tuple[IPAddress, ...]:
    """Their time begins now. Returns those that could not be, of which there are none. Raises HafwError."""
    for left in reversed(range(TRIES)):
        there = {one.address for one in _require(name).elements}
        try:
            fresh = dict.fromkeys(addresses)
            _change(open_json_context(), name, [one for one in fresh if one in there], fresh)
        except ToolError as error:
            if not is_missing(error) or not left:
                raise
        else:
            break
    return ()


def delete_elements(name: str, addresses: Sequence[IPAddress]) -> tuple[IPAddress, ...]:
    """Those that are there. Returns the others: one of them may have just expired. Raises HafwError."""
    for left in reversed(range(TRIES)):
        there = {one.address for one in _require(name).elements}
        try:
            _change(open_json_context(), name, [one for one in dict.fromkeys(addresses) if one in there], {})
        except ToolError as error:
            if not is_missing(error) or not left:
                raise
        else:
            return tuple(one for one in addresses if one not in there)
    return ()


def _require(name: str) -> DynamicSet:
    sets = {one.name: one for one in list_sets()}
    if name not in sets:
        known = f"there are: {', '.join(sets)}" if sets else "the policy has none"
        raise HafwError(f"there is no dynamic set {name}", known)
    return sets[name]


def _change(
    context: Context, name: str, gone: Collection[IPAddress], fresh: Mapping[IPAddress, int | None]
) -> None:
    """In one transaction. `fresh`: with the seconds that each lasts; None: as long as the set says."""
    commands = [*_commands("delete", name, dict.fromkeys(gone)), *_commands("add", name, fresh)]
    if commands:
        run(context, json.dumps({"nftables": commands}), f"change set {name}")


def _commands(verb: str, name: str, which: Mapping[IPAddress, int | None]) -> Iterator[dict[str, Any]]:
    for version in VERSIONS:
        found = [_value(*one) for one in which.items() if one[0].version == version]
        place = {"family": FAMILY, "table": TABLE, "name": set_name(name, version)}
        if found:
            yield {verb: {"element": {**place, "elem": found}}}


def _value(address: IPAddress, lasts_s: int | None) -> object:
    return str(address) if lasts_s is None else {"elem": {"val": str(address), "timeout": lasts_s}}


def _is_dynamic(body: Mapping[str, object]) -> bool:
    flags = body.get("flags")
    return isinstance(flags, list) and "timeout" in flags


def _elements(body: Mapping[str, object]) -> Iterator[Element]:
    """ValueError when they are none."""
    elements = body.get("elem", [])
    return map(_element, elements if isinstance(elements, list) else [elements])


def _element(found: object) -> Element:
    """ValueError for what is none."""
    match found:
        case {"elem": {"val": str() as address, "expires": int() as expires_s}}:
            return Element(ip_address(address), expires_s)
        case {"elem": {"val": str() as address}}:  # with a comment, or a counter
            return Element(ip_address(address))
        case str():
            return Element(ip_address(found))
        case _:
            raise ValueError(f"an element is none of a set of addresses: {str(found)[:60]}")
