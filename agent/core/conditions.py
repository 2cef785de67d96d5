# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of conditions: the problems that may last for a while. Pure.

Every condition is about something that is looked at again and again, its observation. A look that finds it
begins the condition; the next look of the same kind that does not find it ends it, and nothing else does:
that conntrackd answers a question does not end what a refused flush began. The one exception says so
(`of_role`): what was about a role of this node is over with that role.

CONTRIBUTING.md lists what goes with a new one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum


class Condition(Enum):
    KEEPALIVED = "keepalived"
    ORPHANED_ADDRESS = "orphaned-address"
    CONTRADICTION = "contradiction"
    ADDRESSES = "addresses"
    """This primary has some of the pair's virtual addresses, and not all."""
    INSTANCES = "instances"
    """keepalived is there, and not every instance of the pair answers."""
    INSTANCES_FORGOTTEN = "instances-forgotten"
    """The same on a primary that has all addresses: keepalived has only lost its objects on the bus."""
    KEEPALIVED_STOPPED = "keepalived-stopped"
    """Its process is there, and a signal keeps it from running."""
    KEEPALIVED_MAIN = "keepalived-main"
    """Its main process, or a child of it that does not speak VRRP, is kept from running."""
    PID_FILE = "pid-file"
    """keepalived was found by other means, because its pid file does not name it."""
    BUS = "bus"
    CONNTRACKD = "conntrackd"
    """No process listens on its socket, or it cannot be asked."""
    CONNTRACKD_SILENT = "conntrackd-silent"
    """It is there, and a question was not answered in its time."""
    CONNTRACKD_UNCLEAR = "conntrackd-unclear"
    """Its answers are invalid."""
    STATES = "states"
    """States that were there for a takeover did not come into the kernel, or not in time."""
    FLUSH = "flush"
    """conntrackd does not empty its caches, which hold states of a past role."""
    REPLICATION = "replication"
    LOST_EVENTS = "lost-events"
    """conntrackd had not heard of some of its own kernel's states."""
    RULES = "rules"
    CONFIGURATION = "configuration"
    INSTALLED_FILES = "installed-files"
    """keepalived.conf, or another installed file, is not what the pair file wants."""
    SYNC_LINK = "sync-link"
    SPARE_LINK = "spare-link"
    """One of two sync links is down."""
    PEER_SILENT = "peer-silent"
    """Nothing comes from the peer's conntrackd, although the link is up."""
    TWO_PRIMARIES = "two-primaries"
    NO_PRIMARY = "no-primary"
    PEER = "peer"
    """The agent of the other node is heard by no path."""
    PEER_PATH = "peer-path"
    """It is heard, but not by every path."""
    PEER_KEY = "peer-key"
    """There is no key for talking to the other node, or it cannot be used."""
    SPLIT_BRAIN = "split-brain"
    """Both nodes say that they are primary."""
    NEITHER_PRIMARY = "neither-primary"
    """Both nodes say that they are not primary."""
    STATES_DIFFER = "states-differ"
    PAIR_FILES_DIFFER = "pair-files-differ"
    RULES_DIFFER = "rules-differ"
    VERSIONS_DIFFER = "versions-differ"
    CLOCKS_DIFFER = "clocks-differ"
    FAULT = "fault"
    """keepalived cannot take part, for the sake of a link or a check."""
    DEAF = "deaf"
    """keepalived does not listen on a link of the pair, and does not know."""
    MISSING_INTERFACE = "missing-interface"
    UNZONED_INTERFACE = "unzoned-interface"
    TABLE_FILLING = "table-filling"
    TABLE_FULL = "table-full"
    FOREIGN_DROPS = "foreign-drops"
    """A table of another program drops what ours let through."""
    STRANGER = "stranger"
    """A third host sends what only the other node may send; the rules drop it."""
    BLIND = "blind"
    """The agent cannot look at something; what that shows is not known."""
    READINESS = "readiness"
    """Another program wrote the file by which keepalived elects the primary, or it cannot be written."""
    STALL = "stall"
    """The agent itself stalled: it was stopped, or did not get the processor."""


class Observation(Enum):
    """The kinds of looks."""

    PROCESS = "whether a keepalived is alive"
    ADDRESSES = "the virtual addresses in the kernel"
    INSTANCES = "what keepalived's instances answer on the system bus"
    BUS = "keepalived on the system bus"
    QUESTION = "a question to conntrackd: whether it is answered"
    LOSSES = "conntrackd's counters of what it could not do, at a poll and over a catch-up"
    COMMIT = "conntrackd -c: what came into the kernel"
    FLUSH = "conntrackd -f: whether it was done"
    COUNT = "the kernel's states counted against conntrackd's"
    RULES = "the rules in the kernel, as loaded and read back"
    RELOAD = "the pair file, at the start and at a reload"
    FILES = "the installed files, and the pair file"
    LINKS = "the interfaces, their links and addresses, and the role"
    GROUPS = "who listens for VRRP on the links of the pair"
    HEARING = "what conntrackd has received from the peer"
    ANSWERS = "who answers for the virtual addresses on the links, and who advertises them"
    ROOM = "the kernel's conntrack table: how full it is"
    CHAINS = "the chains of other programs"
    STRANGERS = "who the rules have lately dropped for speaking as the other node"
    LOOKING = "whether a look succeeds"
    READINESS = "the readiness file, at a poll"
    PATHS = "by which paths the agent of the other node is heard"
    KEY = "the key for talking to the other node"
    PEER = "what the agent of the other node says of itself, compared with this node"
    PULSE = "whether the agent's own timer comes in time"


class Severity(IntEnum):
    """The exit status of `hafw status`."""

    WARNING = 1
    CRITICAL = 2
    """Packets are lost now, or no node would forward after the next failover."""


@dataclass(frozen=True, slots=True)
class Line:
    """`of_role`: ends also when this node gets another role."""

    observation: Observation
    severity: Severity = Severity.WARNING
    of_role: bool = False


C, By, S = Condition, Observation, Severity

CONDITIONS: dict[Condition, Line] = {
    C.KEEPALIVED: Line(By.PROCESS),
    C.ORPHANED_ADDRESS: Line(By.ADDRESSES, S.CRITICAL),
    C.CONTRADICTION: Line(By.ADDRESSES, S.CRITICAL),
    C.ADDRESSES: Line(By.ADDRESSES, S.CRITICAL),
    C.INSTANCES: Line(By.INSTANCES, S.CRITICAL),
    C.INSTANCES_FORGOTTEN: Line(By.INSTANCES),
    C.KEEPALIVED_STOPPED: Line(By.PROCESS, S.CRITICAL),
    C.KEEPALIVED_MAIN: Line(By.PROCESS),
    C.PID_FILE: Line(By.PROCESS),
    C.BUS: Line(By.BUS),
    C.CONNTRACKD: Line(By.QUESTION),
    C.CONNTRACKD_SILENT: Line(By.QUESTION),
    C.CONNTRACKD_UNCLEAR: Line(By.QUESTION),
    C.STATES: Line(By.COMMIT, of_role=True),
    C.FLUSH: Line(By.FLUSH, of_role=True),
    C.REPLICATION: Line(By.LOSSES, of_role=True),
    C.LOST_EVENTS: Line(By.COUNT, of_role=True),
    C.RULES: Line(By.RULES, S.CRITICAL),
    C.CONFIGURATION: Line(By.RELOAD, S.CRITICAL),
    C.INSTALLED_FILES: Line(By.FILES),
    C.SYNC_LINK: Line(By.LINKS),
    C.SPARE_LINK: Line(By.LINKS),
    C.PEER_SILENT: Line(By.HEARING),
    C.TWO_PRIMARIES: Line(By.ANSWERS, S.CRITICAL),
    C.NO_PRIMARY: Line(By.ANSWERS, S.CRITICAL),
    C.PEER: Line(By.PATHS),
    C.PEER_PATH: Line(By.PATHS),
    C.PEER_KEY: Line(By.KEY),
    C.SPLIT_BRAIN: Line(By.PEER, S.CRITICAL),
    C.NEITHER_PRIMARY: Line(By.PEER, S.CRITICAL),
    C.STATES_DIFFER: Line(By.PEER),
    C.PAIR_FILES_DIFFER: Line(By.PEER),
    C.RULES_DIFFER: Line(By.PEER),
    C.VERSIONS_DIFFER: Line(By.PEER),
    C.CLOCKS_DIFFER: Line(By.PEER),
    C.FAULT: Line(By.LINKS),
    C.DEAF: Line(By.GROUPS, S.CRITICAL),
    C.MISSING_INTERFACE: Line(By.LINKS),
    C.UNZONED_INTERFACE: Line(By.LINKS),
    C.TABLE_FILLING: Line(By.ROOM),
    C.TABLE_FULL: Line(By.ROOM, S.CRITICAL),
    C.FOREIGN_DROPS: Line(By.CHAINS),
    C.STRANGER: Line(By.STRANGERS),
    C.BLIND: Line(By.LOOKING),
    C.READINESS: Line(By.READINESS),
    C.STALL: Line(By.PULSE),
}


Finding = tuple[Condition, bool, str]
"""What an observation says of a condition: whether it is ok, and the words for it."""

STATES_IN_DOUBT = (C.SYNC_LINK, C.PEER_SILENT, C.CONNTRACKD, C.CONNTRACKD_SILENT, C.REPLICATION)
"""While one of these is open, the newest states of the peer may not be here."""


def doubt(problems: Mapping[Condition, str]) -> str | None:
    """Why a node that becomes primary may be without states; None when nothing speaks for that."""
    reasons = [problems[condition] for condition in STATES_IN_DOUBT if condition in problems]
    return "; ".join(reasons) or None


def severity_of(name: str) -> Severity:
    """Of a condition by its name; one that is not known here (of another version) is a warning."""
    try:
        return CONDITIONS[Condition(name)].severity
    except ValueError:
        return Severity.WARNING
