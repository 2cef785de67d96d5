# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of qemu's command line that makes a machine with a desktop. Pure.

Hard facts
* qemu itself opens no SPICE port: without port and socket it waits for clients that are handed to it
  (add_client), which the lab does (spice.py). So nothing listens but what the lab has opened.
* spice-server reads its certificate only when it has a TLS port to open; with unix=on that port is a socket
  in the machine's own directory, which is not used. A path that is too long for a socket would be cut
  silently, so it is a relative one.
* A password in the command line could be read by everybody.
* ram_size without _mb is a number of bytes.
* Every text console and the screen of X are the same device, so one picture shows what is there.
"""

from hafw_lab.plan.values import Machine

PASSWORD_FILE, SOCKET_BY_HAND = "spice.password", "spice.sock"
"""For a person who starts a machine by hand; in the directory that is qemu's own."""
CERTIFICATES = "tls"
SCREEN = "video0"
VIDEOS = ("qxl", "virtio")
REDIRECTIONS = ("redir1", "redir2", "redir3")
"""The USB devices that a viewer can hand over, by the names that QMP has for them."""
PLUGS = ("plug1", "plug2")
"""Two more, for `hafw-lab usb`: sockets in qemu's own directory that speak usbredir, viewer or not."""
_SIZE = "xres=1280,yres=800"
_TABLET, _USB = "usb-tablet,bus=xhci.0", "qemu-xhci,id=xhci,p2=8,p3=8"


def plan_screen(machine: Machine, password: int | None) -> tuple[str, ...]:
    """Nothing for a machine without a desktop. `password` is a descriptor; without one it is for a
    person."""
    if not machine.video:
        return ()
    options = ["password-secret=spice", "disable-agent-file-xfer=on"]
    options += ["image-compression=off", "streaming-video=off"]
    if password is None:
        options += ["unix=on", f"addr={SOCKET_BY_HAND}"]
    elif machine.remote:
        options += ["unix=on", "addr=tls.sock", "tls-port=1", f"x509-dir={CERTIFICATES}"]
    source = PASSWORD_FILE if password is None else f"/proc/self/fd/{password}"
    return (
        *("-object", f"secret,id=spice,file={source}", "-spice", ",".join(options)),
        *("-device", _video(machine.video)),
        *("-chardev", "spicevmc,id=vdagent,name=vdagent"),
        *("-device", "virtserialport,bus=vser.0,nr=3,chardev=vdagent,name=com.redhat.spice.0"),
        *("-device", _USB, "-device", _TABLET),
        *(word for name in REDIRECTIONS for word in _redirection(name, "spicevmc", "name=usbredir")),
        *(
            word
            for name in PLUGS
            for word in _redirection(name, "socket", f"path={plug_socket(name)},server=on,wait=off")
        ),
    )


def _video(kind: str) -> str:
    if kind == "virtio":
        return f"virtio-vga,id={SCREEN},max_outputs=1,{_SIZE}"
    return f"qxl-vga,id={SCREEN},ram_size_mb=64,vram_size_mb=64,vgamem_mb=32,max_outputs=1,{_SIZE}"


def plug_socket(name: str) -> str:
    """Where a USB device can be handed to the plug, in qemu's own directory."""
    return f"{name}.sock"


def _redirection(name: str, kind: str, options: str) -> tuple[str, ...]:
    channel = f"usb-{name}"
    return (
        *("-chardev", f"{kind},id={channel},{options}"),
        *("-device", f"usb-redir,chardev={channel},id={name},bus=xhci.0"),
    )


def write_by_hand(machine: Machine | None) -> str:
    """Lines of the script with which a person starts the machine alone."""
    if machine is None or not machine.video:
        return ""
    return (
        f"# Its screen: remote-viewer spice+unix://$PWD/{SOCKET_BY_HAND}\n"
        f"# The password is in {PASSWORD_FILE}.\n"
        f"(umask 077 && head -c 15 /dev/urandom | base64 | tr -d '\\n' >{PASSWORD_FILE})\n"
    )
