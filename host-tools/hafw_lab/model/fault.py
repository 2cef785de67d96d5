# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be broken on purpose. Pure, standard library only."""

from dataclasses import dataclass
from enum import Enum

from hafw_lab.errors import LabError


class FaultKind(Enum):
    POWER = "power"
    LINK = "link"
    KEEPALIVED = "keepalived"
    """SIGKILL to all its processes: the virtual addresses stay."""
    KEEPALIVED_STOP = "keepalived-stop"
    CONNTRACKD = "conntrackd"
    AGENT = "agent"
    BUS = "bus"
    SHUTDOWN = "shutdown"
    """In order: the services end, then the power does."""
    RESET = "reset"
    """The reset button of a machine."""
    PAUSE = "pause"
    """A machine is paused, with everything in it, and resumes when it is healed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that breaks. Written `power`, `link:eth0`, `keepalived` and so on."""

    kind: FaultKind
    link: str | None = None

    def __str__(self) -> str:
        return self.kind.value if self.link is None else f"{self.kind.value}:{self.link}"

    @staticmethod
    def parse(text: str) -> "Fault":
        """Raises LabError with what can be written instead."""
        kind, colon, link = text.partition(":")
        if (
            kind not in {one.value for one in FaultKind}
            or bool(link) != (kind == "link")
            or (colon and not link)
        ):
            raise LabError(f"there is no fault {text!r}", f"choose one of {', '.join(KNOWN)}")
        return Fault(FaultKind(kind), link or None)


KNOWN = tuple("link:IF" if one is FaultKind.LINK else one.value for one in FaultKind)
"""How each is written."""
OF_MACHINES = (FaultKind.RESET.value, FaultKind.PAUSE.value)
POWER, PAUSE = Fault(FaultKind.POWER), Fault(FaultKind.PAUSE)
