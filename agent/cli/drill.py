# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw drill`: hand over to the other node and back, on the real pair, and tell what was seen of it."""

import argparse
import contextlib
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from agent.adapters import control
from agent.adapters.address_probe import MAC_BYTES, AddressQuestion
from agent.adapters.drill_reports import write_report
from agent.adapters.established import read_established
from agent.adapters.journal import open_sink
from agent.adapters.neighbors import Neighbors
from agent.adapters.signals import finish_command
from agent.cli.address_watch import AddressWatch, interval_s, watching
from agent.core.drill import (
    EXIT_STATUS,
    Address,
    ConnectionsLeft,
    DrillEnd,
    DrillReport,
    Leg,
    Seen,
    VipOnLink,
    conclude,
    describe_plan,
    silence_away_ms,
    silence_back_ms,
    to_text,
)
from agent.core.roles import Role
from agent.errors import HafwError, UnavailableError
from agent.model.pair import IPAddress
from agent.model.records import Record, RecordKind
from agent.paths import Paths
from agent.rollout.apply import who
from agent.rollout.peer_node import PeerNode
from agent.rollout.request import Request, RulesVerb
from agent.streams import ReaderGoneError, complain

NEIGHBOR_WAIT_S = 1.0
LOOK_AGAIN_S = 0.3
ASK_AGAIN_S = 3.0
SEEN_LIMIT_S = 5.0
"""For what follows a handover within moments."""


@dataclass(frozen=True, slots=True)
class Fitness:
    """What the agent of this node says: see Handovers.describe_fitness() and status.describe_links()."""

    node: str
    peer: str
    primary: bool
    away: tuple[str, ...]
    back: tuple[str, ...]
    links: tuple[Mapping[str, Any], ...]
    firewalls: tuple[IPAddress, ...]


def run(arguments: argparse.Namespace, paths: Paths, write: Callable[[str], None]) -> int:
    """`write`: at once. Raises HafwError when it is refused; nothing was changed then."""
    if arguments.json and not arguments.yes:
        arguments.refuse("--json asks no question; add --yes")
    if not arguments.yes and not sys.stdin.isatty():
        raise HafwError(
            "there is no terminal to answer here, so nothing was done", "add --yes to begin without asking"
        )
    fitness = _require_fit(paths)
    peer = _require_peer(paths)
    questions, unseen = _find_questions(fitness)
    places = [one.place for one in questions]
    say = _nothing if arguments.json else write
    every_ms = interval_s(len(questions)) * 1000
    say(describe_plan((fitness.node, fitness.peer), places, unseen, every_ms))
    if not arguments.yes:
        write("Begin? [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            write("Nothing was done.\n")
            return 1
        fitness = _require_fit(paths)
    with watching(questions) as watch:
        drill = _Drill(paths, fitness, peer, watch, unseen, _unbroken(say))
        report = drill.carry_out(arguments.wait)
    with contextlib.suppress(HafwError, ReaderGoneError):
        write(json.dumps(report.values()) + "\n" if arguments.json else to_text(report))
    return EXIT_STATUS[report.ending]


def _nothing(_text: str) -> None:
    """--json prints one thing only, at the end."""


def _unbroken(say: Callable[[str], None]) -> Callable[[str], None]:
    """A terminal that is gone, with an SSH session to a virtual address, ends nothing."""

    def say_line(text: str) -> None:
        with contextlib.suppress(HafwError, ReaderGoneError):
            say(f"{text}\n")

    return say_line


def _ask_fitness(paths: Paths) -> Fitness:
    """Raises HafwError."""
    found = control.ask_fitness(paths.control_socket)
    return Fitness(
        str(found["node"]),
        str(found["peer"]),
        found["role"] == Role.PRIMARY.value,
        tuple(found["away"]),
        tuple(found["back"]),
        tuple(found["links"]),
        tuple(map(ip_address, found["firewalls"])),
    )


def _require_fit(paths: Paths) -> Fitness:
    """Raises HafwError with everything that speaks against a drill."""
    found = _ask_fitness(paths)
    if not found.primary:
        raise HafwError(f"no drill: {'; '.join(found.away)}", "a drill begins on the primary")
    if found.away:
        raise HafwError(f"no drill: it would not be without loss ({'; '.join(found.away)})")
    if found.back:
        raise HafwError(f"no drill: {found.peer} would not hand back ({'; '.join(found.back)})")
    return found


def _require_peer(paths: Paths) -> PeerNode:
    """One that can be asked to hand back. Raises HafwError."""
    try:
        peer = PeerNode(paths, who())
        answer = peer.ask(Request(RulesVerb.REACH, peer.who))
    except HafwError as error:
        raise HafwError(f"no drill: {error.message}") from error
    if answer.error is not None:
        raise HafwError(f"no drill: {peer.name} cannot be asked to hand back: {answer.error}")
    return peer


def _find_questions(fitness: Fitness) -> tuple[list[AddressQuestion], dict[VipOnLink, str]]:
    """One address of each IP version on each link: those of a link come and go together. Those that cannot
    be asked for have the reason."""
    macs = _find_macs(fitness)
    questions, unseen = [], {}
    for link in fitness.links:
        name = str(link["interface"])
        for vip in _one_of_each_version(link["vips"]):
            place, mac = VipOnLink(name, vip), macs.get(name)
            source = next(
                (one for one in _one_of_each_version(link["own"]) if one.version == vip.version), None
            )
            if source is None:
                unseen[place] = f"this node has no IPv{vip.version} address there"
            elif mac is None:
                unseen[place] = f"{fitness.peer} does not answer there"
            else:
                questions.append(AddressQuestion(place, source, mac))
    return questions, unseen


def _one_of_each_version(texts: list[str]) -> Iterator[IPAddress]:
    first = {one.version: one for one in map(ip_address, reversed(texts))}
    yield from (first[version] for version in sorted(first))


def _find_macs(fitness: Fitness) -> dict[str, bytes]:
    """The link-layer address of the other node on each link. Raises UnavailableError."""
    asked: dict[str, tuple[int, IPAddress]] = {}
    for link in fitness.links:
        peers = [ip_address(one) for one in link["peer"]]
        with contextlib.suppress(OSError):  # it is gone
            if peers:
                asked[link["interface"]] = socket.if_nametoindex(link["interface"]), peers[0]
    found: dict[str, bytes] = {}
    with contextlib.closing(Neighbors()) as neighbors:
        for index, address in asked.values():
            neighbors.question(index, address)
        deadline_s = time.monotonic() + NEIGHBOR_WAIT_S
        while len(found) < len(asked) and time.monotonic() < deadline_s:
            time.sleep(NEIGHBOR_WAIT_S / 20)
            for name, (index, address) in asked.items():
                answer = neighbors.answer(index, address)
                if answer is not None and len(mac := bytes.fromhex(answer.replace(":", ""))) == MAC_BYTES:
                    found[name] = mac
    return found


class _Drill:
    """From here on nothing stops it, and it ends by itself."""

    def __init__(
        self,
        paths: Paths,
        fitness: Fitness,
        peer: PeerNode,
        watch: AddressWatch,
        unseen: Mapping[VipOnLink, str],
        say: Callable[[str], None],
    ) -> None:
        self._paths, self._fitness, self._peer, self._watch = paths, fitness, peer, watch
        self._unseen, self._say = unseen, say
        self._own = [one.packed for one in fitness.firewalls]

    def carry_out(self, back_limit_s: float) -> DrillReport:
        """`back_limit_s`: how long both may need until they are ready for the way back. Raises HafwError if
        the report cannot be written; nothing was changed then."""
        now = datetime.now(UTC)
        report = DrillReport(
            now.isoformat(timespec="seconds"),
            self._fitness.node,
            self._fitness.peer,
            who(),
            DrillEnd.BEGUN,
            every_ms=round(self._watch.every_s * 1000, 1),
        )
        place = self._paths.drills / f"{now:%Y%m%dT%H%M%S.%fZ}.json"
        write_report(place, report.values())
        finish_command()
        before = self._read_established()
        away, seen_away = self._hand_over()
        back: Leg | None = None
        seen_back: Mapping[VipOnLink, Seen] = {}
        if not (away.error is not None and self._is_primary()):
            back, seen_back = self._get_back(back_limit_s)
        report = replace(
            report,
            ending=conclude(away, back, primary=self._becomes_primary()),
            away=away,
            back=back,
            addresses=(*_measured(seen_away, seen_back), *_unmeasured(self._unseen)),
            connections=self._compare(before),
            late_ms=round(self._watch.late_s * 1000, 1),
        )
        self._keep(report, place)
        return report

    def _keep(self, report: DrillReport, place: Path) -> None:
        try:
            write_report(place, report.values())
            self._say(f"report: {place}")
        except HafwError as error:
            complain(f"hafw: {error}")
        record = Record(RecordKind.DRILL, f"{report.summary()}; report: {place}", time.monotonic_ns())
        open_sink(self._paths).write(record)

    def _hand_over(self) -> tuple[Leg, Mapping[VipOnLink, Seen]]:
        self._watch.begin()
        try:
            found = control.ask_handover(self._paths.control_socket, self._say, force=False)
        except HafwError as error:
            return Leg(error=str(error)), self._watch.end()
        if "error" in found:
            self._say(str(found["error"]))
            return Leg(error=str(found["error"])), self._watch.end()
        self._say(str(found["text"]))
        self._watch.wait(lambda seen: seen.first_s is not None, SEEN_LIMIT_S)
        return Leg(str(found["text"]), None, found["seconds"], found["gap_ms"]), self._watch.end()

    def _get_back(self, limit_s: float) -> tuple[Leg, Mapping[VipOnLink, Seen]]:
        """As soon as both nodes are ready for it."""
        peer, deadline_s = self._fitness.peer, time.monotonic() + limit_s
        self._say(f"waiting until {peer} can hand back")
        reason = ""
        while True:
            found = self._look()
            if found is not None and found.primary:
                return Leg(error=f"{found.node} became primary without a handover; see: hafw history"), {}
            pause_s = LOOK_AGAIN_S
            if found is None:
                reason = "the agent of this node does not answer"
            elif found.back:
                reason = "; ".join(found.back)
            else:
                leg, seen = self._ask_back()
                if leg.error is None:
                    return leg, seen
                reason, pause_s = leg.error, ASK_AGAIN_S
            if time.monotonic() > deadline_s:
                return Leg(error=reason), {}
            time.sleep(pause_s)

    def _ask_back(self) -> tuple[Leg, Mapping[VipOnLink, Seen]]:
        peer = self._fitness.peer
        self._say(f"{peer} is asked to hand back")
        self._watch.begin()
        try:
            answer = self._peer.ask(Request(RulesVerb.HAND_OVER, self._peer.who))
            if answer.error is not None:
                raise HafwError(answer.error)
        except HafwError as error:  # the word may have been lost, and not the handover
            if not self._becomes_primary():
                self._say(f"{peer}: {error}")
                return Leg(error=str(error)), self._watch.end()
            return Leg(f"{self._fitness.node} is primary ({error})"), self._watch.end()
        self._say(answer.text)
        self._watch.wait(lambda seen: seen.held_s is not None, SEEN_LIMIT_S)
        self._becomes_primary()
        seconds = None if answer.took_ms is None else answer.took_ms / 1000
        return Leg(answer.text, None, seconds, answer.gap_ms), self._watch.end()

    def _becomes_primary(self) -> bool:
        deadline_s = time.monotonic() + SEEN_LIMIT_S
        while not self._is_primary():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(LOOK_AGAIN_S)
        return True

    def _is_primary(self) -> bool:
        found = self._look()
        return found is not None and found.primary

    def _look(self) -> Fitness | None:
        """None while the agent does not answer."""
        try:
            return _ask_fitness(self._paths)
        except HafwError:
            return None

    def _read_established(self) -> frozenset[bytes] | None:
        try:
            return read_established(self._own)
        except UnavailableError:
            return None

    def _compare(self, before: frozenset[bytes] | None) -> ConnectionsLeft | None:
        after = None if before is None else self._read_established()
        return None if before is None or after is None else ConnectionsLeft(len(before), len(before & after))


def _measured(away: Mapping[VipOnLink, Seen], back: Mapping[VipOnLink, Seen]) -> Iterator[Address]:
    for place, seen in away.items():
        other = back.get(place, Seen())
        yield Address(
            place.interface,
            str(place.address),
            silence_away_ms(seen),
            silence_back_ms(other),
            seen.asked + other.asked,
            seen.answered + other.answered,
        )


def _unmeasured(unseen: Mapping[VipOnLink, str]) -> Iterator[Address]:
    for place, why in unseen.items():
        yield Address(place.interface, str(place.address), why_not=why)
