# SPDX-License-Identifier: GPL-2.0-or-later
"""The addresses of a machine, told by the machine itself over its ssh connection. Pure.

The script in the guest reports changes as the kernel tells them, and the whole list now and then, which
heals whatever was missed.
"""

import re
from ipaddress import ip_address

from hafw_lab.kernel.rtnetlink import Address

SCRIPT = """echo ready
ip -o monitor address &
trap 'kill $!' EXIT
while echo begin && ip -o address show | sed 's/^/= /' && echo end; do sleep 10; done
"""
_LINE = re.compile(r"(= |Deleted )?\d+: \S+ +inet6? ([0-9a-f.:]+)[/ ]")


class GuestAddresses:
    """`current` is what the lines so far say."""

    def __init__(self) -> None:
        self.current: set[Address] = set()
        self._listed: set[Address] = set()
        self._since: list[tuple[bool, Address]] = []

    def take(self, line: str) -> None:
        match line.strip():
            case "begin":
                self._listed, self._since = set(), []
            case "end":
                # What the kernel told meanwhile is newer than the list, or in it.
                self.current = self._listed
                for added, address in self._since:
                    self._change(added, address)
            case text:
                found = _LINE.match(text)
                if found:
                    self._found(found[1], ip_address(found[2]))

    def _found(self, mark: str | None, address: Address) -> None:
        if mark == "= ":
            self._listed.add(address)
            return
        added = mark is None
        self._since.append((added, address))
        self._change(added, address)

    def _change(self, added: bool, address: Address) -> None:
        if added:
            self.current.add(address)
        else:
            self.current.discard(address)
