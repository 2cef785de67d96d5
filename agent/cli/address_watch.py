# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual addresses while they move: when this node ceases to hold one or begins to, and when the other node
answers for it. In a thread of its own: the command waits for the agents meanwhile."""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace

from agent.adapters.address_probe import AddressProbe, AddressQuestion
from agent.adapters.links import AddressEvents, Links
from agent.core.drill import Seen, VipOnLink
from agent.errors import UnavailableError

EVERY_S = 0.005
MAX_PER_S = 1000
"""Of all addresses together."""
IDLE_S = 0.05


def interval_s(addresses: int) -> float:
    """Between two questions for the same address."""
    return max(EVERY_S, addresses / MAX_PER_S)


@contextlib.contextmanager
def watching(questions: Sequence[AddressQuestion]) -> Iterator["AddressWatch"]:
    """In the background, until the block is left. Raises UnavailableError before it begins, and at its end
    when the watch has ended before."""
    with ExitStack() as stack:
        probes = [stack.enter_context(closing(AddressProbe(one))) for one in questions]
        events, links = stack.enter_context(closing(AddressEvents())), stack.enter_context(closing(Links()))
        watch = AddressWatch(probes, events, links)
        watch.look(time.monotonic())
        ended, end = os.pipe()
        with os.fdopen(ended, "rb") as reader, ThreadPoolExecutor(1, "addresses") as beside:
            with os.fdopen(end, "wb"):
                running = beside.submit(watch.run, reader.fileno())
                yield watch
            running.result()


class AddressWatch:
    def __init__(self, probes: Sequence[AddressProbe], events: AddressEvents, links: Links) -> None:
        self._probes, self._events, self._links = probes, events, links
        self._lock = threading.Lock()
        self._seen = {probe.place: Seen() for probe in probes}
        self._held = dict.fromkeys(self._seen, False)
        self._asking = False
        self.every_s = interval_s(len(probes))
        self.late_s = 0.0
        """For how long the watch was itself held up at the most."""

    def begin(self) -> None:
        """A handover: what was seen before does not count."""
        with self._lock:
            self._seen = dict.fromkeys(self._seen, Seen())
            self._asking = True

    def end(self) -> Mapping[VipOnLink, Seen]:
        with self._lock:
            self._asking = False
            return dict(self._seen)

    def wait(self, fact: Callable[[Seen], bool], limit_s: float) -> None:
        """For every address, as far as that comes in time."""
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            with self._lock:
                if all(fact(seen) for seen in self._seen.values()):
                    return
            time.sleep(EVERY_S)

    def run(self, end: int) -> None:
        """Until `end` can be read."""
        waited: list[int | AddressEvents | AddressProbe] = [end, self._events, *self._probes]
        asking, next_s = False, 0.0
        while True:
            pause_s = next_s - time.monotonic() if asking else IDLE_S
            ready = select.select(waited, (), (), max(0.0, pause_s))[0]
            now_s = time.monotonic()
            if end in ready:
                return
            with self._lock:
                if self._events in ready:
                    self._events.drain()
                    self.look(now_s)
                for probe in self._probes:
                    if probe in ready:
                        self._take_answers(probe, now_s)
                if self._asking and not asking:
                    next_s = now_s
                asking = self._asking
                if asking and now_s >= next_s:
                    self.late_s = max(self.late_s, now_s - next_s)
                    self._ask()
                    next_s = now_s + self.every_s

    def look(self, now_s: float) -> None:
        """Which of them this node has."""
        try:
            links = self._links.read()
        except UnavailableError:  # they changed while they were read: the next notice is there already
            return
        here = {(link.name, one.ip) for link in links for one in link.addresses}
        for place, before in self._held.items():
            held = (place.interface, place.address) in here
            if before and not held:
                self._seen[place] = replace(self._seen[place], ceased_s=now_s)
            elif held and not before:
                self._seen[place] = replace(self._seen[place], held_s=now_s)
            self._held[place] = held

    def _ask(self) -> None:
        """No other host answers a node for what it has itself."""
        for probe in self._probes:
            if not self._held[probe.place]:
                probe.ask()
                seen = self._seen[probe.place]
                self._seen[probe.place] = replace(seen, asked=seen.asked + 1)

    def _take_answers(self, probe: AddressProbe, now_s: float) -> None:
        count, seen = probe.take_answers(), self._seen[probe.place]
        if count:
            first_s = now_s if seen.first_s is None else seen.first_s
            answered = seen.answered + count
            self._seen[probe.place] = replace(seen, answered=answered, first_s=first_s, last_s=now_s)
