# SPDX-License-Identifier: GPL-2.0-or-later
"""What remote-viewer reads to open a screen: a file with the address, the ticket and the wishes. Pure.

Hard facts
* With only tls-port given, the viewer speaks TLS on every channel; it then checks the server's certificate
  with `ca` and its subject with `host-subject`, and no longer its host name.
* A device that is plugged in goes to whichever viewer has the focus, unless automatic sharing is off.
"""

from pathlib import Path

from hafw_lab.client.desktop import Ticket
from hafw_lab.vm.spice_certificates import subject_of


def compose_local(node: str, ticket: Ticket, socket: Path) -> str:
    """`socket` is where the viewer's own machine has the ticket's socket."""
    return _compose(node, ticket, {"unix-path": str(socket)})


def compose_remote(node: str, ticket: Ticket, host: str) -> str:
    """For the network; `host` is this machine's name or address there."""
    assert ticket.remote is not None
    return _compose(
        node,
        ticket,
        {
            "host": host,
            "tls-port": str(ticket.remote.port),
            "ca": ticket.remote.authority.strip().replace("\n", "\\n"),
            "host-subject": subject_of(node),
        },
    )


def _compose(node: str, ticket: Ticket, place: dict[str, str]) -> str:
    fields = {
        "type": "spice",
        **place,
        "password": ticket.password,
        "title": f"{node} (hafw-lab)",
        "enable-usbredir": "1",
        "enable-usb-autoshare": "0",
    }
    return "[virt-viewer]\n" + "".join(f"{name}={value}\n" for name, value in fields.items())
