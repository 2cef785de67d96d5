# SPDX-License-Identifier: GPL-2.0-or-later
"""A viewer's window shows what the machine shows, and a machine has one viewer."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from hafw_lab.client.lab import Lab
from tests.checkout import ROOT
from tests.desktop.conftest import LAB
from tests.desktop.processes import find_descendants, find_listening_ports
from tests.desktop.virtual_screen import VirtualScreen, decode, is_within
from tests.vm.guests import shell, wait_until

NODE = "omarine"
SIDE = 64
COMMAND = (sys.executable, "-P", "-m", "hafw_lab")


def show_pattern(lab: Lab, seed: int) -> Image.Image:
    """Fill the background of the machine's screen with a pattern of 64 by 64 pixels; its picture."""
    number = random.Random(seed)
    rows = [[number.randrange(256) for _ in range(SIDE // 8)] for _ in range(SIDE)]
    # X reads lines of 255 bytes at most
    data = ",\n".join(",".join(f"{byte:#04x}" for byte in row) for row in rows)
    bitmap = f"#define p_width {SIDE}\n#define p_height {SIDE}\nstatic char p_bits[] = {{\n{data}}};\n"
    lab.node(NODE).write_text("/tmp/pattern.xbm", bitmap)
    shell(lab, NODE, "DISPLAY=:0 xsetroot -bitmap /tmp/pattern.xbm -fg '#d02040' -bg '#20a060'")
    pattern = Image.new("RGB", (SIDE, SIDE), "#20a060")
    for y, row in enumerate(rows):
        for x in range(SIDE):
            if row[x // 8] >> (x % 8) & 1:
                pattern.putpixel((x, y), (0xD0, 0x20, 0x40))
    return pattern


def take_picture(lab: Lab) -> Image.Image:
    return decode(lab.machine(NODE).desktop.take_picture())


@contextmanager
def start_viewer(screen: VirtualScreen, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """What a person types."""
    environment = {**screen.environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'host-tools'}"}
    argv = [*COMMAND, "view", NODE, "--name", LAB, *options]
    process = subprocess.Popen(argv, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)  # with remote-viewer, which it waits for
        process.wait()


def switch_terminal(lab: Lab, number: int) -> None:
    """What Ctrl-Alt-F2 does (VT_ACTIVATE)."""
    program = f"import fcntl; fcntl.ioctl(open('/dev/tty0'), 0x5606, {number})"
    shell(lab, NODE, f'/usr/bin/python3 -c "{program}"')


def wait_shown(screen: VirtualScreen, pattern: Image.Image) -> None:
    """Also before a viewer is ended: one that leaves while it is still coming in (its display channel has
    connected, and has not said its first word) ends qemu, by a defect of spice-server 0.15.1."""
    wait_until("the viewer shows it", lambda: is_within(pattern, screen.take_picture()))


def wait_viewed(lab: Lab, *, viewed: bool = True) -> None:
    wait_until(
        f"{NODE} is looked at: {viewed}",
        lambda: bool(lab.machine(NODE).desktop.find_viewers()) is viewed,
    )


def test_there_is_a_terminal(desktops: Lab) -> None:
    colors = {color: count for count, color in take_picture(desktops).getcolors(1 << 24)}
    assert colors.get((255, 255, 255), 0) > 100_000, "no white paper of 80 by 24 letters"


def test_the_viewer_shows_what_the_machine_shows(desktops: Lab, virtual_screen: VirtualScreen) -> None:
    first = show_pattern(desktops, 1)
    wait_until("the machine shows it", lambda: is_within(first, take_picture(desktops)))
    with start_viewer(virtual_screen):
        wait_shown(virtual_screen, first)
        # While a viewer is open, what changes in the machine changes in the viewer.
        second = show_pattern(desktops, 2)
        wait_shown(virtual_screen, second)
        assert is_within(second, take_picture(desktops))
        assert not is_within(first, virtual_screen.take_picture())


def test_a_second_viewer_is_warned_before_it_closes_the_first(
    desktops: Lab, virtual_screen: VirtualScreen
) -> None:
    pattern = show_pattern(desktops, 4)
    with start_viewer(virtual_screen) as first:
        wait_shown(virtual_screen, pattern)
        done = subprocess.run(
            [*COMMAND, "view", NODE, "--name", LAB],
            env={**virtual_screen.environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'host-tools'}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "one viewer at a time" in done.stderr
        assert "--take-over" in done.stderr
        assert first.poll() is None
        with start_viewer(virtual_screen, "--take-over"):
            first.wait(300)
            pattern = show_pattern(desktops, 5)
            wait_shown(virtual_screen, pattern)
    wait_viewed(desktops, viewed=False)


def test_it_can_be_looked_at_again(desktops: Lab, virtual_screen: VirtualScreen) -> None:
    pattern = show_pattern(desktops, 3)
    for _ in range(2):
        with start_viewer(virtual_screen):
            wait_shown(virtual_screen, pattern)
        wait_viewed(desktops, viewed=False)


def test_a_picture_of_a_text_console(desktops: Lab, tmp_path: Path) -> None:
    before = take_picture(desktops)
    switch_terminal(desktops, 2)
    try:
        wait_until("the picture changes", lambda: take_picture(desktops).tobytes() != before.tobytes())
        target = tmp_path / "picture.png"
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'host-tools'}"}
        argv = [*COMMAND, "screenshot", NODE, "--name", LAB, "--output", str(target)]
        subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
        assert decode(target.read_bytes()).size >= (640, 400)
    finally:
        switch_terminal(desktops, 1)


def test_no_port_is_open(desktops: Lab) -> None:
    lab = [desktops.supervisor_pid, *find_descendants(desktops.supervisor_pid)]
    machines = [pid for pid in lab if Path(f"/proc/{pid}/comm").read_text().startswith("qemu")]
    assert len(machines) == len(desktops.machines)
    for pid in (desktops.supervisor_pid, *machines):
        assert not find_listening_ports(pid)
