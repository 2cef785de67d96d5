# SPDX-License-Identifier: GPL-2.0-or-later
"""A SPICE client with a CD drive of its own making, as viewers have them: it hands the drive over, and takes
it back at the end of its input. `shared_cd.py SOCKET IMAGE`; the ticket is the first line of its input."""

import sys
from typing import Any

import gi

gi.require_version("SpiceClientGLib", "2.0")
from gi.repository import GLib, GObject, SpiceClientGLib  # noqa: E402 - the version is chosen before


def main(socket: str, image: str) -> None:
    session = SpiceClientGLib.Session(unix_path=socket, password=sys.stdin.readline().strip())
    manager = SpiceClientGLib.UsbDeviceManager.get(session)
    loop = GLib.MainLoop()
    listen = GObject.Object.connect  # Session.connect is another one

    def handed_over(_: Any, result: Any) -> None:
        manager.connect_device_finish(result)
        print("handed over", flush=True)

    def look() -> bool:
        """The drive is handed over as soon as one of the channels for that is open."""
        channels = session.get_channels()
        usb = [one for one in channels if isinstance(one, SpiceClientGLib.UsbredirChannel)]
        if not usb:
            return True
        for one in usb:
            one.connect()
        manager.create_shared_cd_device(image)
        GLib.timeout_add(100, hand_over)
        return False

    def hand_over() -> bool:
        for device in manager.get_devices():
            if manager.is_device_shared_cd(device) and can_redirect(device):
                manager.connect_device_async(device, None, handed_over)
                return False
        return True

    def can_redirect(device: Any) -> bool:
        try:
            return bool(manager.can_redirect_device(device))
        except GLib.Error:  # no channel is open yet
            return False

    def input_ended(*_: object) -> bool:
        loop.quit()
        return False

    GLib.timeout_add(100, look)
    GLib.io_add_watch(sys.stdin.fileno(), GLib.IOCondition.HUP, input_ended)
    listen(session, "disconnected", lambda *_: loop.quit())
    session.connect()
    loop.run()
    session.disconnect()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
