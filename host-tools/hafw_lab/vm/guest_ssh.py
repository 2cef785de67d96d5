# SPDX-License-Identifier: GPL-2.0-or-later
"""How the lab gets into a machine: ssh over a serial port, since a management network would be a way round
the firewalls. Pure.

Hard facts
* The guest runs `sshd -i` on the port, the other end is a UNIX socket that takes one client at a time. So
  one master connection is made by the supervisor, and everybody else's commands are sessions of it.
* With ProxyUseFdpass the proxy command hands ssh the connected socket and leaves; no process copies bytes.
* Who may open the socket is the machine's owner, so host keys would prove nothing and are not looked at.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from hafw_lab.programs import SSH

CONTROL_SOCKET, SSH_SOCKET = "ssh.ctl", "ssh.sock"
ENVIRONMENT = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root"
_LEASH = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--")

_CONNECT = (
    "import socket, sys; far = socket.socket(socket.AF_UNIX); far.connect(sys.argv[1]); "
    'socket.send_fds(socket.socket(fileno=1), [b"."], [far.fileno()])'
)
_OPTIONS = {
    "BatchMode": "yes",
    "ControlPersist": "no",
    "EscapeChar": "none",
    "GlobalKnownHostsFile": "/dev/null",
    "IdentitiesOnly": "yes",
    "LogLevel": "ERROR",
    "PreferredAuthentications": "publickey",
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
}


def plan_master(name: str, directory: Path, key: str, script: str) -> list[str]:
    """The connection that carries the others, for as long as `script` runs in the guest. It ends with the
    process that starts it."""
    connect = ["/usr/bin/python3", "-I", "-S", "-c", _CONNECT, str(directory / SSH_SOCKET)]
    options = {
        **_OPTIONS,
        "ConnectTimeout": "60",  # a guest that was busy with an earlier connection gets another try
        "ControlMaster": "yes",
        "ControlPath": str(directory / CONTROL_SOCKET),
        "ProxyCommand": shlex.join(connect).replace("%", "%%"),
        "ProxyUseFdpass": "yes",
    }
    return [
        *_LEASH,
        *_ssh(options),
        "-T",
        "-i",
        key,
        f"root@{name}",
        f"{ENVIRONMENT} exec sh -c {shlex.quote(script)}",
    ]


def plan_session(name: str, directory: Path, argv: Sequence[str], *, terminal: bool = False) -> list[str]:
    """`argv` in the guest, over the connection that is there; it fails at once when there is none."""
    options = {
        **_OPTIONS,
        "ControlMaster": "no",
        "ControlPath": str(directory / CONTROL_SOCKET),
        "ProxyCommand": "false",
    }
    command = f"{ENVIRONMENT} exec {shlex.join(argv)}"
    return [*_ssh(options), "-t" if terminal else "-T", f"root@{name}", command]


def _ssh(options: dict[str, str]) -> list[str]:
    return [
        SSH,
        "-F",
        "none",
        *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
    ]
