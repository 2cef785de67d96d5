# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab watch`: the running lab as it is now, with keys to fail and heal. Without a terminal it prints
one picture."""

import argparse
import contextlib
import curses
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from hafw_lab.arguments.common import add_lab_argument
from hafw_lab.client import registry
from hafw_lab.client.lab import Lab, LabStatus
from hafw_lab.errors import LabError
from hafw_lab.model.fault import POWER, Fault, FaultKind
from hafw_lab.spoken import show
from hafw_lab.verbs.watch_screen import KEYS, Tone, draw

_REFRESH_S = 1.0
_TICK_MS = 100
_ONCE_WIDTH, _ONCE_HEIGHT = 80, 1000
"""As wide as a terminal is at least; there is room for all below."""
_SAID = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_lab_argument(parser)
    parser.add_argument("--once", action="store_true", help="print one picture and exit")


def run(args: argparse.Namespace) -> int:
    lab = registry.attach(args.name)
    try:
        if args.once or not sys.stdout.isatty():
            for line in draw(lab.status(), (), width=_ONCE_WIDTH, height=_ONCE_HEIGHT, now=_clock()):
                show(line.text)
            return 0
        os.environ.setdefault("ESCDELAY", "25")
        with contextlib.suppress(KeyboardInterrupt):
            curses.wrapper(lambda window: Watch(lab, window).run())
        return 0
    except curses.error as error:
        raise LabError(
            f"this terminal cannot be used ({error})", "hafw-lab watch --once needs none"
        ) from error
    finally:
        lab.close()


def _clock() -> str:
    return time.strftime("%H:%M:%S")


class Watch:
    """Asking and acting run beside the screen, which therefore never freezes."""

    def __init__(self, lab: Lab, window: curses.window) -> None:
        self._lab, self._window = lab, window
        self._status: LabStatus | None = None
        self._said: list[str] = []
        self._pool = ThreadPoolExecutor(2)
        self._asking: Future[LabStatus] | None = None
        self._acting: Future[str] | None = None
        self._asked_at = 0.0
        self._tones = _make_tones()

    def run(self) -> None:
        self._window.timeout(_TICK_MS)
        with contextlib.suppress(curses.error):  # a terminal that cannot hide its cursor
            curses.curs_set(0)
        try:
            while True:
                self._collect()
                self._show()
                key = self._window.getch()
                if key in (ord("q"), ord("Q")):
                    return
                self._press(key)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _collect(self) -> None:
        if self._asking is None and time.monotonic() - self._asked_at >= _REFRESH_S:
            self._asked_at = time.monotonic()
            self._asking = self._pool.submit(self._lab.status)
        if self._asking is not None and self._asking.done():
            try:
                self._status = self._asking.result()
            except LabError as error:
                self._note(str(error))
            self._asking = None
        if self._acting is not None and self._acting.done():
            try:
                self._note(self._acting.result())
            except LabError as error:
                self._note(str(error))
            self._acting = None

    def _show(self) -> None:
        height, width = self._window.getmaxyx()
        self._window.erase()
        if self._status is None:
            self._window.addnstr(0, 0, "asking the lab ...", width - 1)
            return
        for row, line in enumerate(
            draw(self._status, self._said, width=width - 1, height=height, now=_clock())
        ):
            with contextlib.suppress(curses.error):  # the terminal has shrunk meanwhile
                self._window.addnstr(row, 0, line.text, width - 1, self._tones[line.tone])
        self._window.refresh()

    def _press(self, pressed: int) -> None:
        key = next((key for key in KEYS if pressed in (ord(key.letter), ord(key.letter.upper()))), None)
        if key is None:
            return
        if self._acting is not None:
            self._note("busy: the last action has not finished")
        elif self._status is not None:
            self._note(f"{key.text} ...")
            self._acting = self._pool.submit(self._make_work(key.order, self._status))

    def _make_work(self, order: str, status: LabStatus) -> Callable[[], str]:
        if order == "heal":
            return lambda: heal_all(self._lab)
        return lambda: break_one(self._lab, order, status)

    def _note(self, text: str) -> None:
        self._said = [*self._said, f"{_clock()} {text}"][-_SAID:]


def break_one(lab: Lab, order: str, status: LabStatus) -> str:
    """Raises LabError when there is no node to break."""
    primary = status.primary
    if primary is None:
        raise LabError("no node is primary now", "repair the lab first: hafw-lab heal NODE")
    backup = next((name for name in lab.firewalls if name != primary), primary)
    link = next(iter(status.node(primary).links))
    node, fault = {
        "power": (primary, POWER),
        "link": (primary, Fault(FaultKind.LINK, link)),
        "keepalived": (primary, Fault(FaultKind.KEEPALIVED)),
        "conntrackd": (backup, Fault(FaultKind.CONNTRACKD)),
    }[order]
    lab.fail(node, fault)
    return f"{node}: {fault}"


def heal_all(lab: Lab) -> str:
    for node in lab.nodes:
        lab.heal(node)
    return "everything is repaired"


def _make_tones() -> dict[Tone, int]:
    tones = {Tone.PLAIN: 0, Tone.HEAD: curses.A_BOLD, Tone.GOOD: curses.A_BOLD, Tone.BAD: curses.A_REVERSE}
    if not curses.has_colors() or os.environ.get("NO_COLOR"):
        return tones
    with contextlib.suppress(curses.error):  # a terminal that says it has colors and has none
        curses.use_default_colors()
        curses.init_pair(1, curses.COLOR_GREEN, -1)
        curses.init_pair(2, curses.COLOR_RED, -1)
        tones[Tone.GOOD] |= curses.color_pair(1)
        tones[Tone.BAD] = curses.A_BOLD | curses.color_pair(2)
    return tones
