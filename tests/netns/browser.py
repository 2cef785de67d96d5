# SPDX-License-Identifier: GPL-2.0-or-later
"""A headless Chromium, and what it says of a page (its DevTools protocol, over a pipe).

Hard facts
* It takes the pipe's ends as descriptors 3 and 4; a message ends with a zero byte.
* Without a sandbox of its own it also runs as root. It then opens nothing but our own file.
"""

import base64
import json
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROGRAM = "/usr/lib/chromium/chromium-headless-shell"
_START = ("sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh")
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
_TIMEOUT_S = 180.0
_COMPLAINTS = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


class Page:
    """A page that is open and has loaded everything it wants."""

    def __init__(self, browser: "subprocess.Popen[bytes]", address: str) -> None:
        self._browser = browser
        self._number = 0
        self._rest = b""
        self._session: dict[str, str] = {}
        self._events: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Network", "Log", "Runtime", "Page"):
            self._ask(f"{domain}.enable")
        self._ask("Page.navigate", url=address)
        while not self._find("Page.loadEventFired"):
            self._events.append(self._receive())

    def evaluate(self, script: str) -> Any:
        """The value of an expression in JavaScript."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def take_picture(self) -> bytes:
        """All of it, as PNG."""
        answer = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def find_requests(self) -> list[str]:
        """The addresses of all that it asked for."""
        return [event["request"]["url"] for event in self._find("Network.requestWillBeSent")]

    def find_complaints(self) -> list[dict[str, Any]]:
        """What is in the console."""
        return [event for name in _COMPLAINTS for event in self._find(name)]

    def _find(self, name: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self._events if event["method"] == name]

    def _ask(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters, **self._session}
        assert self._browser.stdin
        self._browser.stdin.write(json.dumps(order).encode() + b"\0")
        self._browser.stdin.flush()
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._events.append(message)

    def _receive(self) -> dict[str, Any]:
        assert self._browser.stdout
        until = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._rest:
            left_s = max(until - time.monotonic(), 0)
            assert select.select([self._browser.stdout], [], [], left_s)[0], "the browser says nothing"
            data = self._browser.stdout.read1()  # type: ignore[attr-defined]  # a pipe has a buffered reader
            assert data, "the browser has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def open_page(page: Path, profile: Path) -> Iterator[Page]:
    argv = [*_START, _PROGRAM, *_OPTIONS, f"--user-data-dir={profile}", "--window-size=1100,900"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as browser:
        try:
            yield Page(browser, page.resolve().as_uri())
        finally:
            browser.terminate()
