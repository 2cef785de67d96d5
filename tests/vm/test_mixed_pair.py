# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian 12 and a Debian 13 as a pair, and what happens to firewalls in years, on one boot of it.

The tests leave the pair whole, with both roles taken, and come in this order on purpose.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hafw_lab.client.lab import Fault, FaultKind, Lab
from hafw_lab.errors import LabError
from hafw_lab.traffic.session import Traffic
from tests.checkout import ROOT
from tests.vm.guests import (
    ALLOWED,
    FIREWALLS,
    PATIENCE_S,
    Strays,
    about_the_peer,
    hand_over,
    living_connections,
    peer_of,
    records,
    shell,
    start_strays,
    wait_acquainted,
    wait_all_alive,
    wait_until,
)
from tests.vm.story import check_boot, check_power_cut

pytestmark = pytest.mark.vm
NEWER = "9999.1"
CHANGE_S = 20.0
"""For a change of both nodes; machines get six times that (MACHINE_PATIENCE)."""
GONE_BACK_S = 60.0
TIME_HAS_COME = (
    'sed -i \'s/"deadline_s": [0-9.]*/"deadline_s": 0.0/\' /var/lib/hafw/pending'
    " && systemctl start hafw-rollback"
)
"""What waits for its confirmation is due, and what the timer starts is started. On a slow machine a window
that is short enough to wait for would be over before anything could be looked at."""
REBOOT = (
    "systemd-run --quiet --on-active=1 --timer-property=AccuracySec=100ms"
    " systemctl start --no-block --job-mode=replace-irreversibly reboot.target"
)
"""When the shell has ended, and not by `systemctl reboot`: that asks logind, and the one of Debian 13 has no
name on the bus any more once D-Bus was restarted."""


@pytest.fixture(scope="module")
def endless_strays(mixed: Lab) -> Iterator[Strays]:
    mixed.wait_settled(PATIENCE_S)
    with start_strays(mixed) as started:
        yield started


@pytest.fixture
def strays(endless_strays: Strays) -> Iterator[Strays]:
    """Nothing forbidden arrives: in no test, in no role, at no moment."""
    endless_strays.forget()  # what a test before has failed for
    yield endless_strays
    assert endless_strays.forbidden() == 0


@pytest.fixture(scope="module")
def endless_traffic(mixed: Lab) -> Iterator[Traffic]:
    primary = mixed.wait_settled(PATIENCE_S)
    with living_connections(mixed, peer_of(primary)) as living:
        yield living


@pytest.fixture
def traffic(endless_traffic: Traffic, strays: Strays) -> Traffic:
    """Living connections, the same ones in all tests, while `strays` come as well."""
    del strays
    wait_all_alive(endless_traffic)
    return endless_traffic


def main_pid(lab: Lab, name: str, unit: str = "hafw-agent") -> str:
    return shell(lab, name, f"systemctl show --property=MainPID --value {unit}")


def roles_taken(lab: Lab) -> dict[str, int]:
    """How often keepalived has entered a state, on each node."""
    return {
        name: shell(lab, name, "journalctl --boot -q -u keepalived").count("Entering ") for name in FIREWALLS
    }


def test_boot(mixed: Lab, strays: Strays) -> None:
    check_boot(mixed, "fw-1")
    wait_until("the primary forwards what is allowed", lambda: strays.arrived("fw-1", ALLOWED) > 0)
    assert strays.arrived("fw-2", ALLOWED) == 0, "the backup forwards"


@pytest.mark.parametrize("role", ["backup", "primary"])
@pytest.mark.parametrize(
    "unit", ["conntrackd", "dbus", "hafw-agent", "systemd-networkd", "nftables", "keepalived"]
)
def test_restart_of_a_service(mixed: Lab, traffic: Traffic, unit: str, role: str) -> None:
    primary = mixed.wait_primary(None, PATIENCE_S)
    backup = peer_of(primary)
    shell(mixed, primary if role == "primary" else backup, f"systemctl restart {unit}")
    changes = (unit, role) == ("keepalived", "primary")
    if changes:
        mixed.wait_primary(backup, PATIENCE_S)
    assert mixed.wait_settled(PATIENCE_S) == (backup if changes else primary), "the wrong one is primary"
    wait_all_alive(traffic)


@pytest.mark.parametrize("signal", ["KILL", "STOP"])
def test_the_agent_dies_or_hangs_on_the_primary(mixed: Lab, traffic: Traffic, signal: str) -> None:
    """Killed, systemd starts it again at once; stopped, the watchdog sees to it."""
    primary = mixed.wait_settled(PATIENCE_S)
    pid, taken = main_pid(mixed, primary), roles_taken(mixed)
    shell(mixed, primary, f"systemctl kill --signal={signal} hafw-agent")
    wait_until("there is another agent", lambda: main_pid(mixed, primary) not in ("0", pid))
    assert mixed.wait_settled(PATIENCE_S) == primary
    assert roles_taken(mixed) == taken
    wait_all_alive(traffic)


@pytest.mark.parametrize("role", ["backup", "primary"])
def test_a_killed_conntrackd_is_healed(mixed: Lab, traffic: Traffic, role: str) -> None:
    """As `hafw-lab fail` and `heal` do it: whatever it left behind, the next one starts."""
    primary = mixed.wait_settled(PATIENCE_S)
    name = primary if role == "primary" else peer_of(primary)
    pid = main_pid(mixed, name, "conntrackd")
    mixed.fail(name, Fault(FaultKind.CONNTRACKD))
    mixed.heal(name)
    wait_until("there is another", lambda: main_pid(mixed, name, "conntrackd") not in ("0", pid))
    assert mixed.wait_settled(PATIENCE_S) == primary
    wait_all_alive(traffic)


def test_a_dead_sync_link_is_no_dead_peer(mixed: Lab, traffic: Traffic) -> None:
    primary = mixed.wait_settled(PATIENCE_S)
    wait_acquainted(mixed)
    mixed.fail(primary, Fault(FaultKind.LINK, "eth2"))
    for name in FIREWALLS:
        wait_until(
            f"{name} says that it is the link",
            lambda name=name: "the sync link" in about_the_peer(mixed, name).get("peer-path", ""),  # type: ignore[misc]  # mypy does not see into defaults of lambdas
        )
    mixed.heal(primary)
    wait_acquainted(mixed)
    assert mixed.wait_settled(PATIENCE_S) == primary
    wait_all_alive(traffic)


@pytest.fixture(scope="module")
def newer_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("newer")
    subprocess.run([ROOT / "packaging" / "build-deb", "--version", NEWER, out], check=True, timeout=900)
    (package,) = out.glob(f"hafw-agent_{NEWER}_all.deb")
    return package


def test_upgrade_of_the_package_on_the_primary(mixed: Lab, traffic: Traffic, newer_package: Path) -> None:
    """No change of roles, no moment without rules, no connection less; the new agent knows what is so."""
    primary = mixed.wait_settled(PATIENCE_S)
    pid, taken = main_pid(mixed, primary), roles_taken(mixed)
    with (
        newer_package.open("rb") as file,
        mixed.node(primary).popen(["sh", "-c", "cat >/root/newer.deb"], stdin=file.fileno()) as copy,
    ):
        assert copy.wait(PATIENCE_S) == 0
    shell(mixed, primary, "DEBIAN_FRONTEND=noninteractive dpkg --install /root/newer.deb", timeout_s=120)
    assert shell(mixed, primary, "dpkg-query --show --showformat='${Version}' hafw-agent") == NEWER
    assert main_pid(mixed, primary) != pid, "the old agent still runs"
    assert mixed.wait_settled(PATIENCE_S) == primary
    assert roles_taken(mixed) == taken
    wait_all_alive(traffic)
    assert shell(mixed, primary, "systemctl is-active keepalived conntrackd").split() == ["active"] * 2


def test_a_full_disk(mixed: Lab, traffic: Traffic) -> None:
    """Both nodes have not one byte left; they take over all the same, and an agent can start again."""
    primary = mixed.wait_settled(PATIENCE_S)
    fill = "fallocate -l $(df --output=avail -B1 / | tail -n1) /filled; cat /dev/zero >>/filled || true"
    try:
        for name in FIREWALLS:
            shell(mixed, name, f"{fill}; ! touch /another 2>/dev/null || ! echo x >/another", timeout_s=120)
        # Not on fw-1: for PrivateDevices= the systemd of Debian 12 makes a directory in /tmp, on the disk.
        shell(mixed, "fw-2", "systemctl restart hafw-agent")
        mixed.wait_settled(PATIENCE_S)
        assert hand_over(mixed) == peer_of(primary)
        wait_all_alive(traffic)
    finally:
        for name in FIREWALLS:
            shell(mixed, name, "rm -f /filled /another")
    mixed.wait_settled(PATIENCE_S)


def test_a_read_only_var(mixed: Lab, traffic: Traffic) -> None:
    primary = mixed.wait_settled(PATIENCE_S)
    backup = peer_of(primary)
    shell(mixed, backup, "mount --bind /var /var && mount -o remount,bind,ro /var")
    try:
        shell(mixed, backup, "! touch /var/lib/hafw/x 2>/dev/null; systemctl restart hafw-agent")
        mixed.wait_settled(PATIENCE_S)
        assert hand_over(mixed) == backup
        wait_all_alive(traffic)
    finally:
        shell(mixed, backup, "umount --lazy /var; systemctl restart hafw-agent")
    mixed.wait_settled(PATIENCE_S)


def test_the_clock_is_set_by_a_day(mixed: Lab, traffic: Traffic) -> None:
    """Forward on the primary, back on the backup, then they change places."""
    primary = mixed.wait_settled(PATIENCE_S)
    taken = roles_taken(mixed)
    pids = {name: main_pid(mixed, name) for name in FIREWALLS}
    try:
        shell(mixed, primary, "date -s '+1 day'")
        shell(mixed, peer_of(primary), "date -s '-1 day'")
        assert mixed.wait_settled(PATIENCE_S) == primary
        wait_all_alive(traffic)
        assert roles_taken(mixed) == taken
        assert hand_over(mixed) == peer_of(primary)
        wait_all_alive(traffic)
    finally:
        shell(mixed, primary, "date -s '-1 day'")
        shell(mixed, peer_of(primary), "date -s '+1 day'")
    mixed.wait_settled(PATIENCE_S)
    wait_all_alive(traffic)
    assert {name: main_pid(mixed, name) for name in FIREWALLS} == pids, "an agent did not bear it"
    assert records(mixed, peer_of(primary), "transition")[-1]["to"] == "primary"


def write_other_policy(lab: Lab, name: str) -> None:
    """/root/b.yaml: the installed pair file with another rule."""
    shell(lab, name, "sed 's/- https$/- imaps/' /etc/hafw/hafw.yaml >/root/b.yaml")


def policy_in_force(lab: Lab, name: str) -> tuple[str, str]:
    """The digest of the rules in the kernel, and the installed pair file."""
    digest = shell(lab, name, "nft list chains | grep -o 'digest-[0-9a-f]*'")
    return digest, lab.node(name).read_text("/etc/hafw/hafw.yaml")


def test_what_nobody_confirms_goes_back_by_itself(mixed: Lab, traffic: Traffic) -> None:
    """Although the shell of the apply has ended and the agent is killed: systemd's timer needs neither."""
    primary = mixed.wait_settled(PATIENCE_S)
    before = policy_in_force(mixed, primary)
    write_other_policy(mixed, primary)
    applied = shell(
        mixed, primary, "hafw rules apply --this-node /root/b.yaml --confirm 20", timeout_s=PATIENCE_S
    )
    shell(mixed, primary, "systemctl kill --signal=KILL hafw-agent")

    def has_gone_back() -> bool:
        return any("was not confirmed" in one["message"] for one in records(mixed, primary, "rules"))

    wait_until(f"this goes back: {applied}", has_gone_back)
    wait_until(
        "no apply is waiting", lambda: not shell(mixed, primary, "ls /var/lib/hafw | grep pending || true")
    )
    # the timer puts the rules in force first, an agent that starts after it was due the file
    wait_until("the former policy is in force", lambda: policy_in_force(mixed, primary) == before)
    assert mixed.wait_settled(PATIENCE_S) == primary
    wait_all_alive(traffic)


def test_one_change_is_for_both_machines(mixed: Lab, traffic: Traffic) -> None:
    """Typed on one of them, done on the other in the sandbox of its hafw-rules@.service, where the timer of
    the rollback is set as well. When its time has come neither asks the other."""
    primary = mixed.wait_settled(PATIENCE_S)
    backup = peer_of(primary)
    wait_until(f"{backup} hears {primary}", lambda: not about_the_peer(mixed, backup))
    before = policies_in_force(mixed)
    change = "{ cat /etc/hafw/hafw.yaml; echo 'sets: {blocked: {dynamic: true}}'; } >/root/both.yaml"
    apply = "hafw rules apply /root/both.yaml --confirm 3600"
    try:
        applied = shell(mixed, backup, f"{change}; {apply}", timeout_s=CHANGE_S)
        assert f"here and on {primary}" in applied
        changed = policies_in_force(mixed)
        assert changed[primary] == changed[backup] != before[backup]
        nodes = json.loads(shell(mixed, primary, "hafw status --json || true"))["nodes"]
        assert len({(one["generation"], one["rules"]) for one in nodes.values()}) == 1, nodes
        shell(mixed, primary, "hafw set add blocked 192.0.2.1", timeout_s=CHANGE_S)
        for name in FIREWALLS:
            assert "192.0.2.1" in shell(mixed, name, "nft list sets"), f"not on {name}"
    finally:
        for name in FIREWALLS:
            shell(mixed, name, f"{TIME_HAS_COME} || true")
    wait_until(f"both go back: {applied}", lambda: policies_in_force(mixed) == before, GONE_BACK_S)
    failed = [shell(mixed, name, "systemctl --failed --quiet --plain --no-legend") for name in FIREWALLS]
    assert failed == ["", ""]
    wait_all_alive(traffic)


def policies_in_force(lab: Lab) -> dict[str, tuple[str, str]]:
    return {name: policy_in_force(lab, name) for name in FIREWALLS}


def test_power_cut_in_the_middle_of_an_apply(mixed: Lab, traffic: Traffic, strays: Strays) -> None:
    """The primary puts another policy in force and takes it back, again and again, when its power goes.
    Whichever file it was writing: nobody has confirmed the other policy, so it is not in force then."""
    once = "hafw rules apply --this-node /root/b.yaml --confirm 3600; hafw rules rollback --this-node"
    apply = f"while :; do {once}; done"
    victim = mixed.wait_settled(PATIENCE_S)
    before = policy_in_force(mixed, victim)
    assert strays.arrived(victim, ALLOWED) > 0
    writing: list[subprocess.Popen[bytes]] = []

    def start_writing(name: str) -> None:
        write_other_policy(mixed, name)
        writing.append(mixed.node(name).popen(["sh", "-c", apply], stdout=subprocess.DEVNULL))
        wait_until(
            "an apply waits for its confirmation",
            lambda: "pending" in shell(mixed, name, "ls /var/lib/hafw"),
        )

    try:
        check_power_cut(mixed, traffic, before_cut=start_writing)
    finally:
        for process in writing:
            process.kill()
            process.wait()
    assert peer_of(victim) == mixed.wait_settled(PATIENCE_S)
    assert policy_in_force(mixed, victim) == before


def test_reboot_of_each_node(mixed: Lab, traffic: Traffic, strays: Strays) -> None:
    """From the first stop of a service to the last start nothing passes that the policy does not allow:
    `strays` come all the time, to the node that goes and comes as well."""
    for _ in FIREWALLS:
        primary = mixed.wait_settled(PATIENCE_S)
        reboot(mixed, primary, strays)
        wait_all_alive(traffic)


def reboot(lab: Lab, primary: str, strays: Strays) -> None:
    other = peer_of(primary)
    boot = shell(lab, primary, "cat /proc/sys/kernel/random/boot_id")
    allowed = strays.arrived(other, ALLOWED)
    shell(lab, primary, REBOOT)
    lab.wait_primary(other, PATIENCE_S)

    def has_rebooted() -> bool:
        try:
            return shell(lab, primary, "cat /proc/sys/kernel/random/boot_id") != boot
        except LabError:
            return False  # it is down

    wait_until(f"{primary} has rebooted", has_rebooted)
    assert lab.wait_settled(PATIENCE_S) == other
    wait_until(f"{other} forwards what is allowed", lambda: strays.arrived(other, ALLOWED) > allowed)
    assert shell(lab, primary, "systemctl --failed --quiet --plain --no-legend") == ""


def test_the_agent_was_confined_and_missed_nothing(mixed: Lab) -> None:
    """AppArmor has refused it nothing in the tests before; what it does not need is refused, and
    reported."""
    refused = "journalctl --quiet --no-pager --output=cat --grep='apparmor=\"DENIED\".*hafw-' || true"
    write = 'cd /; ! aa-exec --profile=hafw-agent -- /usr/bin/python3 -P -c \'open("/root/x", "w")\' 2>&1'
    for name in FIREWALLS:
        assert shell(mixed, name, refused, timeout_s=PATIENCE_S) == ""
        assert "Permission denied" in shell(mixed, name, write, timeout_s=PATIENCE_S)
        wait_until(
            "the journal reports it",
            lambda name=name: "/root/x" in shell(mixed, name, refused, timeout_s=PATIENCE_S),  # type: ignore[misc]  # mypy does not see into defaults of lambdas
        )
