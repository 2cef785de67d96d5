# SPDX-License-Identifier: GPL-2.0-or-later
"""The dynamic sets of the policy, as the kernel has them: their elements come and go while the rules stay.

Hard fact: an element that is there already is left as it is by an `add`, with the time that it has left; and
deleting one that is not there fails, with the whole transaction.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from agent.adapters.nft_context import find, is_missing, open_json_context, run
from agent.errors import HafwError, ToolError
from agent.model.pair import IPAddress
from agent.rules.matching import VERSIONS, set_name
from agent.rules.nft_json import list_text
from agent.rules.nft_parse import entries_of
from agent.rules.objects import FAMILY, TABLE

TRIES = 3
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
                elements = body.get("elem", [])
                there = map(_element, elements if isinstance(elements, list) else [elements])
                found[matched[1]] = (*found.get(matched[1], ()), *there)
    except ValueError as error:
        raise HafwError(f"nft lists the sets in a way that is not understood: {error}") from error
    return tuple(DynamicSet(name, elements) for name, elements in sorted(found.items()))


def add_elements(name: str, addresses: Sequence[IPAddress]) -> tuple[IPAddress, ...]:
    """Their time begins now. Returns those that could not be, of which there are none. Raises HafwError."""
    for left in reversed(range(TRIES)):
        there = {one.address for one in _require(name).elements}
        try:
            _change(name, [one for one in dict.fromkeys(addresses) if one in there], addresses)
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
            _change(name, [one for one in dict.fromkeys(addresses) if one in there], ())
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


def _change(name: str, gone: Sequence[IPAddress], fresh: Sequence[IPAddress]) -> None:
    """In one transaction."""
    commands = [*_commands("delete", name, gone), *_commands("add", name, fresh)]
    if commands:
        run(open_json_context(), json.dumps({"nftables": commands}), f"change set {name}")


def _commands(verb: str, name: str, addresses: Sequence[IPAddress]) -> Iterator[dict[str, Any]]:
    for version in VERSIONS:
        found = [str(one) for one in addresses if one.version == version]
        place = {"family": FAMILY, "table": TABLE, "name": set_name(name, version)}
        if found:
            yield {verb: {"element": {**place, "elem": found}}}


def _is_dynamic(body: Mapping[str, object]) -> bool:
    flags = body.get("flags")
    return isinstance(flags, list) and "timeout" in flags


def _element(found: object) -> Element:
    """ValueError for what is none."""
    match found:
        case {"elem": {"val": str() as address, "expires": int() as expires_s}}:
            return Element(ip_address(address), expires_s)
        case str():
            return Element(ip_address(found))
        case _:
            raise ValueError(f"an element is none of a set of addresses: {str(found)[:60]}")
