# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy and paste, with text and pictures: host to machine, machine to host, machine to machine."""

import io
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from PIL import Image

from hafw_lab.client.lab import Lab
from hafw_lab.desktop.clipboard_bridge import ensure_display
from hafw_lab.errors import LabError
from hafw_lab.verbs.clipboard import Format, get_clipboard, set_clipboard
from tests.checkout import ROOT
from tests.desktop.conftest import LAB
from tests.desktop.test_view import NODE as VIEWED
from tests.desktop.test_view import start_viewer, wait_viewed
from tests.desktop.virtual_screen import VirtualScreen
from tests.vm.guests import wait_until

ONE, OTHER = "client", "omarine"
COMMAND = (sys.executable, "-P", "-m", "hafw_lab", "clipboard")
SET, GET = (("xclip", "-selection", "clipboard", verb, "-target") for verb in ("-in", "-out"))


def environment(screen: VirtualScreen | None = None) -> dict[str, str]:
    base = screen.environment() if screen else {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    return {**base, "PYTHONPATH": f"{ROOT}:{ROOT / 'host-tools'}"}


def make_text(seed: int, letters: int = 500) -> bytes:
    return "".join(random.Random(seed).choices("abc äß✓𝄞 \n", k=letters)).encode()


def make_picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (90, 70), random.Random(seed).randbytes(90 * 70 * 3)).save(file, "PNG")
    return file.getvalue()


def set_host(screen: VirtualScreen, kind: Format, content: bytes) -> None:
    # Nobody waits for its output: it stays there in the background until another program copies something.
    quiet = subprocess.DEVNULL
    subprocess.run([*SET, kind.value], input=content, env=screen.environment(), stdout=quiet, check=True)


def get_host(screen: VirtualScreen, kind: Format) -> bytes:
    argv = [*GET, kind.value]
    return subprocess.run(
        argv, env=screen.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    ).stdout


def get_machine(lab: Lab, name: str, kind: Format) -> bytes | None:
    try:
        return get_clipboard(lab.machine(name), kind)
    except LabError as error:
        if "in its clipboard" in str(error):
            return None
        raise


def wait_pasted(lab: Lab, name: str, kind: Format, content: bytes) -> None:
    wait_until(f"{name} can paste it", lambda: get_machine(lab, name, kind) == content)


def wait_pasted_here(screen: VirtualScreen, kind: Format, content: bytes) -> None:
    wait_until("it can be pasted here", lambda: get_host(screen, kind) == content)


@contextmanager
def start_bridge(log: Path, screen: VirtualScreen | None = None, *words: str) -> Iterator[None]:
    """`hafw-lab clipboard bridge`, from when it has said all of `words`."""
    with log.open("wb") as file:
        argv = [*COMMAND, "bridge", "--name", LAB]
        process = subprocess.Popen(argv, env=environment(screen), stderr=file)
        try:
            wait_until(f"the bridge says {words}", lambda: all(word in log.read_text() for word in words))
            yield
        finally:
            process.terminate()
            process.wait()


def test_get_and_set(desktops: Lab, tmp_path: Path) -> None:
    big = make_text(1, 300_000)
    set_clipboard(desktops.machine(ONE), Format.TEXT, big)
    assert get_clipboard(desktops.machine(ONE), Format.TEXT) == big
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    source.write_bytes(make_picture(1))
    png = ("--type", "png", "--name", LAB)
    subprocess.run([*COMMAND, ONE, "set", *png, "--input", str(source)], env=environment(), check=True)
    subprocess.run([*COMMAND, ONE, "get", *png, "--output", str(target)], env=environment(), check=True)
    assert target.read_bytes() == source.read_bytes()
    with pytest.raises(LabError, match="no text in its clipboard"):
        get_clipboard(desktops.machine(ONE), Format.TEXT)
    with pytest.raises(LabError, match="no PNG picture"):
        set_clipboard(desktops.machine(ONE), Format.PNG, b"text")


def test_a_bridge_joins_this_machine_and_all_desktops(
    desktops: Lab, virtual_screen: VirtualScreen, tmp_path: Path
) -> None:
    text, picture = make_text(2, 200_000), make_picture(2)
    with start_bridge(tmp_path / "log", virtual_screen, f"{ONE}: joined", f"{OTHER}: joined"):
        set_host(virtual_screen, Format.TEXT, text)
        wait_pasted(desktops, ONE, Format.TEXT, text)
        set_clipboard(desktops.machine(OTHER), Format.PNG, picture)
        wait_pasted_here(virtual_screen, Format.PNG, picture)
        wait_pasted(desktops, ONE, Format.PNG, picture)


def test_a_bridge_without_a_screen_here(desktops: Lab, tmp_path: Path) -> None:
    text = make_text(3)
    with start_bridge(tmp_path / "log", None, f"{ONE}: joined", f"{OTHER}: joined"):
        set_clipboard(desktops.machine(ONE), Format.TEXT, text)
        wait_pasted(desktops, OTHER, Format.TEXT, text)


def test_with_a_viewer_open(desktops: Lab, virtual_screen: VirtualScreen, tmp_path: Path) -> None:
    other, log = next(name for name in (ONE, OTHER) if name != VIEWED), tmp_path / "log"
    text, picture = make_text(4), make_picture(4)
    with ExitStack() as bridge:
        with start_viewer(virtual_screen):
            wait_viewed(desktops)
            # The viewer carries the clipboard, and what get and set do in the machine with it.
            wait_until("its agent listens", lambda: _pasted_after_set(desktops, virtual_screen))
            # The bridge leaves the viewer alone and joins the rest.
            words = f"{VIEWED}: a viewer is open", f"{other}: joined"
            bridge.enter_context(start_bridge(log, virtual_screen, *words))
            set_clipboard(desktops.machine(VIEWED), Format.PNG, picture)
            wait_pasted_here(virtual_screen, Format.PNG, picture)
            wait_pasted(desktops, other, Format.PNG, picture)
            set_clipboard(desktops.machine(other), Format.TEXT, text)
            wait_pasted(desktops, VIEWED, Format.TEXT, text)
        # Where the viewer has gone the bridge takes its place.
        wait_until("the bridge joins it", lambda: f"{VIEWED}: joined" in log.read_text())
        after = make_text(5)
        set_host(virtual_screen, Format.TEXT, after)
        wait_pasted(desktops, VIEWED, Format.TEXT, after)


def _pasted_after_set(lab: Lab, screen: VirtualScreen) -> bool:
    """A viewer that has just come has not yet told the agent in the machine that it is there."""
    text = make_text(os.getpid(), 100)
    set_clipboard(lab.machine(VIEWED), Format.TEXT, text)
    return get_host(screen, Format.TEXT) == text


def test_the_display_that_is_started_is_closed_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "XAUTHORITY", "GDK_BACKEND"):
        monkeypatch.setenv(name, "")
    with ensure_display():
        owner = dict(os.environ)
        stranger = {**owner, "XAUTHORITY": os.devnull}
        put = subprocess.run(
            [*SET, "STRING"], input=b"secret", env=owner, stdout=subprocess.DEVNULL, check=False
        )
        assert put.returncode == 0
        assert (
            subprocess.run([*GET, "STRING"], env=owner, capture_output=True, check=True).stdout == b"secret"
        )
        refused = subprocess.run([*GET, "STRING"], env=stranger, capture_output=True, check=False)
        assert (refused.returncode, refused.stdout) == (1, b"")
        assert b"Can't open display" in refused.stderr
