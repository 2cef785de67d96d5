# SPDX-License-Identifier: GPL-2.0-or-later
"""Long programs whose progress a person watches, and that leave nothing when they are broken off."""

import contextlib
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.lab_directory import LabDirectory, make_lab_directory
from hafw_lab.process import ENVIRONMENT
from hafw_lab.progress import Progress
from hafw_lab.room import explain_full, is_full, tells_full
from hafw_lab.source_paths import SEARCH_PATH
from hafw_lab.terminal import clean

SAY_EVERY_S = 2.0
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "ftp_proxy")
_LAST_LINES = 6


def run_shown(
    argv: Sequence[str],
    say: Progress,
    what: str,
    *,
    log: Path,
    timeout_s: float,
    environment: Mapping[str, str] = ENVIRONMENT,
    left: Sequence[Path] = (),
) -> None:
    """Run it with its output in `log`; `say` hears at least every two seconds where it is. Raises LabError
    with the last lines when it fails. When it is broken off, by whatever befalls this process, it ends with
    all that it has started, and `left` is removed."""
    if shutil.which(argv[0], path=environment.get("PATH")) is None:
        raise LabError(f"{what}: {argv[0]} is not there")
    scratch = make_lab_directory()
    try:
        with open(log, "wb") as file:
            watched = _Watched(say, what, file.fileno(), timeout_s)
            _run(argv, watched, {**environment, **_find_proxies()}, scratch, left)
    except _FailedError as error:
        if tells_full(watched.last):
            raise explain_full(what, (log.parent, scratch.path)) from error
        hint = f"its whole output is in {log}" if log.exists() else None
        raise LabError(f"{what}: {error}", hint) from error
    except OSError as error:
        if is_full(error):
            raise explain_full(what, (log.parent, scratch.path)) from error
        raise LabError(f"{what}: {error.strerror}: {error.filename or log}") from error
    finally:
        if scratch.path.exists():
            scratch.remove()


class _FailedError(Exception):
    pass


@dataclass(slots=True)
class _Watched:
    say: Progress
    what: str
    log: int
    timeout_s: float
    started: float = field(default_factory=time.monotonic)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))


def _find_proxies() -> dict[str, str]:
    names = [name for one in _PROXIES for name in (one, one.upper())]
    return {name: os.environ[name] for name in names if name in os.environ}


def _run(
    argv: Sequence[str],
    watched: _Watched,
    environment: Mapping[str, str],
    scratch: LabDirectory,
    left: Sequence[Path],
) -> None:
    with _start_kept(argv, environment, scratch, left) as process:
        _watch(process, argv[0], watched)
    if process.returncode != 0:
        said = "; ".join(watched.last) or "no message"
        raise _FailedError(f"{argv[0]} ended with status {process.returncode}: {said}")


@contextlib.contextmanager
def _start_kept(
    argv: Sequence[str], environment: Mapping[str, str], scratch: LabDirectory, left: Sequence[Path]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Its keeper, which ends it if it has not ended with the block."""
    keeper = [
        sys.executable,
        "-P",
        "-S",
        "-m",
        "hafw_lab.kernel.keeper",
        str(scratch.lock),
        str(scratch.path),
    ]
    ours = {"PYTHONPATH": str(SEARCH_PATH), "PYTHONDONTWRITEBYTECODE": "1"}
    # the program itself is not to find our modules
    program = ["env", "--unset=PYTHONPATH", *_own_path(environment), *argv]
    process = subprocess.Popen(
        [*keeper, *map(str, left), "--", *program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(scratch.lock,),
        env={**environment, **ours, "TMPDIR": str(scratch.path)},
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.stdout.close()
        process.stdin.close()  # what it takes as the sign to break off
        _wait_ended(process)


def _wait_ended(process: "subprocess.Popen[bytes]") -> None:
    """It takes seconds to clear away what there is, for as long as which a second Ctrl-C changes nothing."""
    while True:
        try:
            process.wait()
        except (KeyboardInterrupt, SystemExit):
            continue
        return


def _own_path(environment: Mapping[str, str]) -> list[str]:
    return [f"PYTHONPATH={environment['PYTHONPATH']}"] if "PYTHONPATH" in environment else []


def _watch(process: "subprocess.Popen[bytes]", name: str, watched: _Watched) -> None:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        said_at = watched.started
        rest = b""
        while True:
            ready = selector.select(SAY_EVERY_S / 2)
            now = time.monotonic()
            if ready:
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                os.write(watched.log, data)
                *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
                watched.last.extend(text for line in lines if (text := clean(line.decode(errors="replace"))))
            if now - said_at >= SAY_EVERY_S:
                said_at = now
                seconds = f"{now - watched.started:.0f} s"
                watched.say(f"{watched.what}, {seconds}: {watched.last[-1][:90] if watched.last else '...'}")
            if now - watched.started > watched.timeout_s:
                raise _FailedError(f"{name} did not end within {watched.timeout_s:g} s")
    process.wait()
