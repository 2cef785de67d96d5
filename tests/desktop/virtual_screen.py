# SPDX-License-Identifier: GPL-2.0-or-later
"""An X server without a monitor, whose picture can be read; and pictures that are found in others."""

import io
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SIZE = "1600x1200x24"


@dataclass(frozen=True, slots=True)
class VirtualScreen:
    display: str
    _frame: Path

    def environment(self) -> dict[str, str]:
        """Of a program that opens its windows here."""
        return {**os.environ, "DISPLAY": self.display, "NO_AT_BRIDGE": "1", "GDK_BACKEND": "x11"}

    def take_picture(self) -> Image.Image:
        """What is on it now (the file is a window dump in the form of xwd)."""
        data = self._frame.read_bytes()
        head = struct.unpack(">25I", data[:100])
        start, width, height, line, colors = head[0], head[4], head[5], head[12], head[19]
        pixels = data[start + 12 * colors :]
        return Image.frombuffer("RGB", (width, height), pixels, "raw", "BGRX", line, 1)


@contextmanager
def start_virtual_screen(directory: Path) -> Iterator[VirtualScreen]:
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", SIZE, "-fbdir", str(directory)]
    process = subprocess.Popen([*command, "-nolisten", "tcp"], pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with open(read, encoding="ascii") as pipe:
            number = pipe.readline().strip()  # it is ready when it has told it
        assert number, "Xvfb did not start"
        yield VirtualScreen(f":{number}", directory / "Xvfb_screen0")
    finally:
        process.terminate()
        process.wait()


def decode(png: bytes) -> Image.Image:
    assert png.startswith(b"\x89PNG\r\n"), png[:8]
    return Image.open(io.BytesIO(png)).convert("RGB")


def is_within(part: Image.Image, whole: Image.Image) -> bool:
    """Whether `part` is somewhere in `whole`, pixel by pixel."""
    width, height = part.size
    rows = [part.crop((0, y, width, y + 1)).tobytes() for y in range(height)]
    stride, pixels = whole.width * 3, whole.tobytes()
    at = pixels.find(rows[0])
    while at >= 0:
        x, y = at % stride, at // stride
        if not x % 3 and x + width * 3 <= stride and y + height <= whole.height:
            starts = range(at, at + height * stride, stride)
            if all(
                pixels[start : start + width * 3] == row for start, row in zip(starts, rows, strict=True)
            ):
                return True
        at = pixels.find(rows[0], at + 1)
    return False
