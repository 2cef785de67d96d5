# SPDX-License-Identifier: GPL-2.0-or-later
"""What makes an image may be broken off at any moment, and then nothing is left of it: no process, no mount,
no file. The real mmdebstrap takes minutes; what stands in for it here mounts, leaves its process group and
does not end when it is asked to."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hafw_lab.errors import LabError
from hafw_lab.image.debian import Release, cached_tree
from hafw_lab.long_command import run_shown
from tests.checkout import ROOT

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="mounts here need root")]

PATIENCE_S = 60
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/host-tools"}
STUBBORN = """
trap '' TERM INT HUP
mkdir "$TMPDIR/root" && mount -t tmpfs none "$TMPDIR/root" && touch "$TMPDIR/root/file" "$0"
setsid sleep 1000 &
echo "place $TMPDIR"
while :; do sleep 1; done
"""
GENTLE = 'trap \'touch "$0.told"; exit 1\' TERM\necho "place $TMPDIR"\nwhile :; do sleep 0.1; done'
BUILD = """
import signal, sys
from pathlib import Path
from hafw_lab.verbs.main import _end_in_order
from hafw_lab.image.debian import _APART
from hafw_lab.long_command import run_shown
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, _end_in_order)
script, half = sys.argv[1:]
say = lambda text: print(text, flush=True)
log = Path(half + ".log")
run_shown([*_APART, "sh", "-c", script, half], say, "x", log=log, timeout_s=600, left=(Path(half), log))
"""


def start(script: str, half: Path) -> tuple["subprocess.Popen[str]", Path, int]:
    """The build, its place for what it leaves lying about, and its keeper."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, script, str(half)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    place = next(line.partition("place ")[2].strip() for line in process.stdout if "place " in line)
    (keeper,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return process, Path(place), int(keeper)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    half = tmp_path / "half"
    process, place, keeper = start(STUBBORN, half)
    assert half.exists()
    assert not os.path.ismount(place / "root"), "its mounts are not this machine's"
    ended = os.pidfd_open(keeper)
    sleepers = [pid for pid in find_pids() if str(place) in read_environment(pid)]
    assert len(sleepers) >= 2
    process.send_signal(number)
    ready, _, _ = select.select([ended], [], [], PATIENCE_S)
    os.close(ended)
    assert ready, "its keeper is still there"
    process.communicate(timeout=PATIENCE_S)
    assert not [pid for pid in find_pids() if str(place) in read_environment(pid)]
    assert not place.exists()
    assert list(tmp_path.iterdir()) == []


def test_it_is_asked_before_it_is_killed(tmp_path: Path) -> None:
    half = tmp_path / "half"
    process, place, _ = start(GENTLE, half)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert (tmp_path / "half.told").exists()
    assert not place.exists()


def find_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def read_environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:  # it ended meanwhile
        return ""


# -- full disks --


SMALL = 'mount -t tmpfs -o size=2m none "$0" && exec /usr/bin/python3 -c "$1" "$0"'
FILL = """
import sys
from pathlib import Path
from hafw_lab.errors import LabError
from hafw_lab.long_command import run_shown
place = Path(sys.argv[1])
try:
    run_shown(["dd", "if=/dev/zero", f"of={place}/half"], print, "image", log=place / "log", timeout_s=60)
except LabError as error:
    print(error)
"""


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    argv = ["unshare", "--mount", "sh", "-c", SMALL, str(tmp_path), FILL]
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.stdout.splitlines()[-1:], done.stderr) == (
        [
            f"image: the disk of {tmp_path} is full (0 MB free); make room there, or set HAFW_CACHE to a"
            " directory on another disk"
        ],
        "",
    )


def test_room_is_looked_for_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAFW_CACHE", str(tmp_path))
    with pytest.raises(
        LabError, match=r"Debian 12 \(bookworm\) from packages needs about \d+ MB on the disk"
    ):
        cached_tree(Release.BOOKWORM, ["no-such-package"], print, megabytes=1 << 40)
    assert not list((tmp_path / "debian").glob("bookworm*"))


def test_the_status_of_a_program_is_its_own(tmp_path: Path) -> None:
    for status in (1, 77):
        with pytest.raises(LabError, match=f"ended with status {status}"):
            run_shown(["sh", "-c", f"exit {status}"], print, "x", log=tmp_path / "log", timeout_s=60)
