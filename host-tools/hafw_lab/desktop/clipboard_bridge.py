# SPDX-License-Identifier: GPL-2.0-or-later
"""One clipboard for this machine and the desktops of a lab: a SPICE client for each, without a window.

Hard facts
* A machine has one SPICE client at a time. An open viewer is one, and carries the clipboard itself; a viewer
  that is opened later takes this bridge's place, and the bridge comes back when it is closed.
* spice-gtk itself joins a session's clipboard to that of an X display (auto-clipboard), pictures and large
  texts included. So two machines are joined by being joined to one display; where this machine has none, an
  X server without a screen is started for it.
* `Session.connect` is the SPICE one and hides the one of signals.
* The display is looked for when the libraries are loaded, so it is chosen before.
* The library wants to tell the guest how loud this machine's sound is, and complains when it has no sound.
"""

import importlib
import os
import secrets
import struct
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hafw_lab.client import registry
from hafw_lab.client.desktop import Desktop
from hafw_lab.client.lab import Lab
from hafw_lab.errors import LabError
from hafw_lab.process import ENVIRONMENT
from hafw_lab.spoken import say

_LOOK_MS = 3000
MODULES = {"Gtk": "3.0", "GLib": "2.0", "GObject": "2.0", "SpiceClientGLib": "2.0", "SpiceClientGtk": "3.0"}
PACKAGES = ("python3-gi", "gir1.2-gtk-3.0", "gir1.2-spiceclientglib-2.0", "gir1.2-spiceclientgtk-3.0")


def run_bridge(lab_name: str, names: Sequence[str]) -> int:
    """Until it is interrupted or the lab ends. Raises LabError."""
    lab = registry.attach(lab_name)
    try:
        with ensure_display():
            return Bridge(lab, names or tuple(lab.options["desktops"])).run()
    finally:
        lab.close()


class Bridge:
    def __init__(self, lab: Lab, names: Sequence[str]) -> None:
        if not names:
            raise LabError("this lab has no desktops", "start one with: hafw-lab up --desktop")
        self._lab = lab
        self._desktops = [lab.machine(name).desktop for name in names]
        self._glib, self._gobject, self._spice, self._spice_gtk = load_libraries()
        self._sessions: dict[str, Any] = {}
        self._told: dict[str, str] = {}
        self._loop = self._glib.MainLoop()

    def run(self) -> int:
        self._look()
        self._glib.timeout_add(_LOOK_MS, self._look)
        self._glib.unix_signal_add(self._glib.PRIORITY_DEFAULT, 2, self._end)
        self._glib.unix_signal_add(self._glib.PRIORITY_DEFAULT, 15, self._end)
        self._loop.run()
        for session in self._sessions.values():
            session.disconnect()
        return 0

    def _end(self) -> bool:
        self._loop.quit()
        return False

    def _look(self) -> bool:
        """Join those that can be joined; called again and again."""
        if self._lab.ended:
            self._say("lab", "the lab has ended")
            return self._end()
        for desktop in self._desktops:
            if desktop.name not in self._sessions:
                self._join(desktop)
        return True

    def _join(self, desktop: Desktop) -> None:
        try:
            viewers = desktop.find_viewers()
            if viewers:
                self._say(desktop.name, f"a viewer is open ({viewers[0]}), which carries the clipboard")
                return
            ticket = desktop.make_ticket()
        except LabError as error:
            self._say(desktop.name, str(error))
            return
        session = self._spice.Session(
            unix_path=str(ticket.socket), password=ticket.password, enable_audio=False, enable_usbredir=False
        )
        # made before the connection, or it would miss the agent's first word
        self._spice_gtk.GtkSession.get(session).set_property("auto-clipboard", True)
        listen = self._gobject.Object.connect
        listen(session, "channel-new", self._channel_new, desktop.name)
        listen(session, "disconnected", self._disconnected, desktop.name)
        self._sessions[desktop.name] = session
        session.connect()

    def _channel_new(self, session: Any, channel: Any, name: str) -> None:
        if isinstance(channel, self._spice.MainChannel):
            self._gobject.Object.connect(channel, "notify::agent-connected", self._agent_changed, name)

    def _agent_changed(self, channel: Any, _: object, name: str) -> None:
        if channel.get_property("agent-connected"):
            self._say(name, "joined")
        else:
            self._say(name, "its session has no SPICE agent now")

    def _disconnected(self, _: object, name: str) -> None:
        self._sessions.pop(name, None)
        self._say(name, "left")

    def _say(self, name: str, text: str) -> None:
        if self._told.get(name) != text:
            self._told[name] = text
            say(f"{name}: {text}")


def load_libraries() -> tuple[Any, ...]:
    """GLib, GObject and SPICE's two; Gtk is ready. Raises LabError that names the missing packages."""
    try:
        gi = importlib.import_module("gi")
        for name, version in MODULES.items():
            gi.require_version(name, version)
        modules = [importlib.import_module(f"gi.repository.{name}") for name in MODULES]
    except (ImportError, ValueError) as error:
        install = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        raise LabError(f"the SPICE client's libraries are not complete ({error})", install) from error
    gtk, glib, *_ = modules
    if not gtk.init_check([])[0]:
        raise LabError(f"the X display {os.environ.get('DISPLAY')} cannot be opened", "unset DISPLAY")
    glib.log_set_handler("GSpice", glib.LogLevelFlags.LEVEL_WARNING, _library_said, None)
    warnings.filterwarnings("ignore", message="g_object_.*assertion 'G_IS_OBJECT")
    return tuple(modules[1:])


def _library_said(_domain: str, _level: int, message: str, _data: object) -> None:
    if "pipeline" not in message:
        say(str(message))


@contextmanager
def ensure_display() -> Iterator[None]:
    """This session's X display; without one, a server that shows nothing, until the end of the block."""
    if os.environ.get("DISPLAY"):
        os.environ["GDK_BACKEND"] = "x11"
        yield
        return
    say("there is no X display here: the machines are joined to each other only")
    with tempfile.TemporaryDirectory(prefix="hafw-lab-") as place:
        authority = Path(place, "authority")
        _write_authority(authority)
        with _start_screenless(authority) as display:
            os.environ |= {"DISPLAY": display, "XAUTHORITY": str(authority), "GDK_BACKEND": "x11"}
            yield


def _write_authority(path: Path) -> None:
    """Without a cookie every user of this machine could read what is copied. In Xau's format: a family that
    stands for any display, then address, display, method and cookie, each behind its length."""
    fields = (b"", b"", b"MIT-MAGIC-COOKIE-1", secrets.token_bytes(16))
    path.write_bytes(b"\xff\xff" + b"".join(struct.pack(">H", len(field)) + field for field in fields))


@contextmanager
def _start_screenless(authority: Path) -> Iterator[str]:
    """The name of the display. Raises LabError."""
    reader, writer = os.pipe()
    argv = ["Xvfb", "-displayfd", str(writer), "-auth", str(authority), "-nolisten", "tcp"]
    try:
        server = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *argv, "-screen", "0", "16x16x24"],
            pass_fds=(writer,),
            env=ENVIRONMENT,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        os.close(writer)
    with open(reader, encoding="ascii") as display, server:
        try:
            number = display.readline().strip()
            if not number:
                install = "apt-get install --no-install-recommends xvfb"
                raise LabError("an X server without a screen (Xvfb) could not be started", install)
            yield f":{number}"
        finally:
            server.kill()
