# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are on an installed firewall. The lab gives its nodes the same places."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    pair_file: Path = Path("/etc/hafw/hafw.yaml")
    pair_key: Path = Path("/etc/hafw/pair.pem")
    """By which the nodes know each other, the same on both."""
    hook: Path = Path("/usr/libexec/hafw/notify")
    run_dir: Path = Path("/run/hafw")
    state_dir: Path = Path("/var/lib/hafw")
    """The generations of the pair file, and what a rollback needs after a power cut."""
    log_file: Path = Path("/var/log/hafw/agent.jsonl")
    """Where records go when there is no journald."""
    journal_socket: Path = Path("/run/systemd/journal/socket")
    system_bus: Path = Path("/run/dbus/system_bus_socket")
    keepalived_config: Path = Path("/etc/keepalived/keepalived.conf")
    keepalived_pid: Path = Path("/run/keepalived.pid")
    vrrp_pid: Path = Path("/run/vrrp.pid")
    conntrackd: Path = Path("/usr/sbin/conntrackd")
    conntrackd_config: Path = Path("/etc/conntrackd/conntrackd.conf")
    conntrackd_socket: Path = Path("/var/run/conntrackd.ctl")
    conntrackd_log: Path = Path("/var/log/conntrackd.log")
    """Only here conntrackd says how many states a commit brought into the kernel."""
    conntrackd_lock: Path = Path("/var/lock/conntrackd.lock")
    network_dir: Path = Path("/etc/systemd/network")
    sysctl_file: Path = Path("/etc/sysctl.d/60-hafw.conf")
    nftables_drop_in: Path = Path("/etc/systemd/system/nftables.service.d/hafw.conf")
    modules_file: Path = Path("/etc/modules-load.d/hafw.conf")

    @property
    def maintenance(self) -> Path:
        """There while this node is in maintenance."""
        return self.state_dir / "maintenance"

    @property
    def drills(self) -> Path:
        """The reports of `hafw drill`."""
        return self.state_dir / "drills"

    @property
    def notify_socket(self) -> Path:
        """Datagrams of the hook arrive here."""
        return self.run_dir / "notify.sock"

    @property
    def control_socket(self) -> Path:
        """`hafw status` asks here."""
        return self.run_dir / "control.sock"

    @property
    def channel_socket(self) -> Path:
        """`hafw channel`, which speaks with the peer, listens for the agent here."""
        return self.run_dir / "channel.sock"

    @property
    def rules_socket(self) -> Path:
        """`hafw rules serve`, which changes rules for the other node, is started by a connection here."""
        return self.run_dir / "rules.sock"

    @property
    def lock(self) -> Path:
        """Held by the process that carries out plans: the resident agent, or a one-shot run of the hook."""
        return self.run_dir / "agent.lock"

    @property
    def rules_lock(self) -> Path:
        """Held by the one command that changes the pair file."""
        return self.run_dir / "rules.lock"

    @property
    def loaded_rules(self) -> Path:
        """What one process of hafw has put in the kernel, for the next one."""
        return self.run_dir / "rules.json"

    @property
    def commit_owed(self) -> Path:
        """There while the gate is open though no commit was answered, for the next agent."""
        return self.run_dir / "commit-owed"

    @property
    def readiness(self) -> Path:
        """keepalived's track_file: 0 when the states are in, negative while they are not."""
        return self.run_dir / "ready"
