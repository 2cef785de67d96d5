# SPDX-License-Identifier: GPL-2.0-or-later
"""The images of the machines, built beside the unit tests: those keep one processor busy, and on a new
machine the packages take minutes."""

import os
import signal
import subprocess
import sys

from hafw_lab.cache import cache_dir
from tests.checkout import ROOT

QUICK = ("static", "unit")
"""The tests beside which it is done. Nothing else runs beside all others, which look at time as well."""
DESKTOP_RELEASE = os.environ.get("HAFW_DESKTOP_RELEASE", "bookworm")
"""Debian 12 boots in less time; HAFW_DESKTOP_RELEASE=trixie is for all of tests/desktop on Debian 13."""
_BUILD = f"{sys.executable} -P -m hafw_lab image build"
_SCRIPT = (
    f"{_BUILD} --release trixie; {_BUILD} --release bookworm; {_BUILD} --release {DESKTOP_RELEASE} --desktop"
)
_TIMEOUT_S = 3600.0


class ImageBuilds:
    """Whether they succeed is not looked at: a test that needs an image builds it then, and says why it
    cannot."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'host-tools'}"}
        cache_dir().mkdir(parents=True, exist_ok=True)
        with (cache_dir() / "beforehand.log").open("wb") as log:
            self._running = subprocess.Popen(
                ["nice", "sh", "-c", _SCRIPT],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        if self._running is not None:
            self._running.wait(_TIMEOUT_S)
            self._running = None

    def stop(self) -> None:
        if self._running is not None:
            os.killpg(self._running.pid, signal.SIGTERM)
            self.wait()
