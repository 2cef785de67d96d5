"""Long programs whose progress a person watches."""

import os
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.process import ENVIRONMENT
from hafw_lab.progress import Progress

_SAY_EVERY_S = 2.0
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
) -> None:
    """Run it with its output in `log`; `say` hears at least every two seconds where it is. Raises LabError
    with the last lines when it fails."""
    try:
        with open(log, "wb") as file:
            _run(argv, say, what, file.fileno(), timeout_s, {**environment, **_find_proxies()})
    except FileNotFoundError as error:
        raise LabError(f"{what}: {error.filename} is not there") from error
    except _FailedError as error:
        raise LabError(f"{what}: {error}", f"its whole output is in {log}") from error


class _FailedError(Exception):
    pass


def _find_proxies() -> dict[str, str]:
    names = [name for one in _PROXIES for name in (one, one.upper())]
    return {name: os.environ[name] for name in names if name in os.environ}


def _run(
    argv: Sequence[str], say: Progress, what: str, log: int, timeout_s: float, environment: Mapping[str, str]
) -> None:
    started = time.monotonic()
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )
    last: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        _watch(process, say, what, log, started, timeout_s, last)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    if process.returncode != 0:
        said = "; ".join(last) or "no message"
        raise _FailedError(f"{argv[0]} ended with status {process.returncode}: {said}")


def _watch(
    process: subprocess.Popen[bytes],
    say: Progress,
    what: str,
    log: int,
    started: float,
    timeout_s: float,
    last: deque[str],
) -> None:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        said_at = started
        rest = b""
        while True:
            ready = selector.select(_SAY_EVERY_S / 2)
            now = time.monotonic()
            if ready:
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                os.write(log, data)
                *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
                last.extend(text for line in lines if (text := line.decode(errors="replace").strip()))
            if now - said_at >= _SAY_EVERY_S:
                said_at = now
                say(f"{what}, {now - started:.0f} s: {last[-1][:90] if last else '...'}")
            if now - started > timeout_s:
                raise _FailedError(f"{argv_of(process)} did not end within {timeout_s:g} s")
    process.wait()


def argv_of(process: subprocess.Popen[bytes]) -> str:
    args = process.args
    return str(args[0]) if isinstance(args, (list, tuple)) else str(args)
