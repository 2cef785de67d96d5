# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that the lab itself runs, with a fixed environment and explained failures."""

import re
import subprocess
from collections.abc import Sequence

from hafw_lab.errors import LabError

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}


def run(argv: Sequence[str], *, text: str = "", timeout_s: float = 20.0) -> str:
    """Its standard output. Raises LabError with the command and its last line when it fails."""
    try:
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=ENVIRONMENT,
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not there", "hafw-lab doctor lists the missing packages") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)} did not end within {timeout_s:g} s") from error
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise LabError(f"{' '.join(argv)} failed with status {done.returncode}: {lines[0]}")
    return done.stdout


def run_ip(lines: str) -> None:
    """Carry out lines for ip(8), up to the first that fails. Raises LabError with that line."""
    done = subprocess.run(
        ["ip", "-batch", "-"], input=lines, capture_output=True, text=True, env=ENVIRONMENT
    )
    if done.returncode == 0:
        return
    said = done.stderr.strip()
    place = re.search(r"Command failed -:(\d+)", said)
    line = lines.splitlines()[int(place[1]) - 1] if place else "-batch"
    raise LabError(f"ip {line}: {said.splitlines()[0] if said else 'no message'}")
