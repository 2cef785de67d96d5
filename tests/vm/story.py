# SPDX-License-Identifier: GPL-2.0-or-later
"""The power cut of a primary, with everything that has to be right about it: the same for every pair."""

from collections.abc import Callable

from hafw_lab.client.lab import Lab
from hafw_lab.model.fault import POWER
from hafw_lab.traffic.session import Traffic
from tests.vm.guests import (
    PATIENCE_S,
    peer_of,
    records,
    shell,
    wait_acquainted,
    wait_all_alive,
)


def check_boot(lab: Lab, first: str) -> None:
    """The pair as it is when both have booted."""
    assert lab.wait_settled(PATIENCE_S) == first, "the first one that was started is not primary"
    for name in lab.firewalls:
        assert shell(lab, name, "systemctl is-system-running --wait || true") == "running", name
        units = "systemd-networkd nftables conntrackd keepalived hafw-agent hafw-channel"
        assert shell(lab, name, f"systemctl is-active {units}").split() == ["active"] * 6
        for unit in ("hafw-agent", "hafw-channel"):
            main_pid = f"$(systemctl show --property=MainPID --value {unit})"
            assert shell(lab, name, f"cat /proc/{main_pid}/attr/current") == f"{unit} (enforce)"
        check_nothing_in_reach(lab, name)
        # nobody comes in by the network: no sshd listens there
        assert shell(lab, name, "ss -Hltn 'sport = :22'") == ""
        assert shell(lab, name, "cat /proc/sys/net/ipv4/conf/eth1/rp_filter") == "1"
    wait_acquainted(lab)


def check_nothing_in_reach(lab: Lab, name: str) -> None:
    """Of the process that speaks with the peer."""
    main_pid = shell(lab, name, "systemctl show --property=MainPID --value hafw-channel")
    for place in ("/etc/hafw", "/var/lib/hafw", "/var/log"):
        assert shell(lab, name, f"ls -A /proc/{main_pid}/root{place}") == ""
    assert shell(lab, name, f"ps -o user= -p {main_pid}") == "_hafw"
    assert shell(lab, name, f"grep CapEff /proc/{main_pid}/status").split()[1].strip("0") == ""


def check_power_cut(lab: Lab, traffic: Traffic, *, before_cut: Callable[[str], None]) -> None:
    """Cut the primary's power under living connections; it comes back as backup and gets the states again.
    `before_cut` is called with the primary."""
    victim = lab.wait_settled(PATIENCE_S)
    survivor = peer_of(victim)
    wait_all_alive(traffic)
    before_cut(victim)
    # a cut loses what the guest has not written to its disk yet, which is up to a minute old
    shell(lab, victim, "journalctl --sync")
    lab.fail(victim, POWER)
    lab.wait_primary(survivor, PATIENCE_S)
    wait_all_alive(traffic)
    check_record_of_takeover(lab, survivor)
    lab.heal(victim)
    assert lab.wait_settled(PATIENCE_S) == survivor, "the one that came back took over"
    wait_all_alive(traffic)
    boots = shell(lab, victim, "journalctl --quiet --no-pager --output=cat --field=_BOOT_ID | sort -u")
    assert len(boots.split()) >= 2, "the journal of the boot before the cut is gone"
    history = shell(lab, victim, "hafw history --lines 100000")
    assert history.count("hafw agent for") >= 2, history
    assert "compare the states with the primary's" in history


def check_record_of_takeover(lab: Lab, name: str) -> None:
    """The journal of the new primary tells the whole story, each step with its duration."""
    last = records(lab, name, "transition")[-1]
    assert last["to"] == "primary"
    assert last["result"] == "done"
    assert float(last["duration_ms"]) > 0
    steps = [one for one in records(lab, name, "step") if one.get("transition") == last["transition"]]
    assert any("open the gate" in one["message"] for one in steps), steps
    assert all(float(one["duration_ms"]) > 0 for one in steps), steps
    explained = shell(lab, name, "journalctl --unit=hafw-agent --boot --catalog --no-pager")
    assert "Subject: This node's role went from backup to primary" in explained
    assert "Documentation: man:hafw-agent(8)" in explained
