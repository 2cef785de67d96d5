# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab with the real daemons: what its network and its nodes are, and what its faults do."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.paths import Paths
from hafw_lab.client.lab import POWER, AgentKind, Fault, Lab, LabOptions
from hafw_lab.errors import LabError, NodeDownError
from tests.checkout import ROOT

pytestmark = pytest.mark.netns

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/host-tools"}
SERVER = "192.168.0.3"
OPTIONS = LabOptions(agent=AgentKind.NONE)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One for all the tests that leave it as they found it."""
    with Lab.start(OPTIONS) as lab:
        yield lab


def reaches(lab: Lab, address: str = SERVER) -> bool:
    argv = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", address]
    return lab.node("client").run(argv, check=False).returncode == 0


# -- the network --


def test_the_server_is_reached_through_the_pair_only() -> None:
    with Lab.start(OPTIONS) as lab:
        assert reaches(lab)
        lab.fail("fw-2", POWER)
        assert reaches(lab)
        lab.fail("fw-1", POWER)
        assert not reaches(lab)
        assert lab.primary() is None


@pytest.mark.parametrize(
    ("nat", "server_route", "works"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_replies_find_their_way_by_nat_or_by_a_route(nat: bool, server_route: bool, works: bool) -> None:
    options = LabOptions(agent=AgentKind.NONE, nat=nat, server_route=server_route)
    with Lab.start(options) as lab:
        assert reaches(lab) is works


# -- a node --


def test_a_node_is_a_machine_of_its_own(lab: Lab) -> None:
    node = lab.node("fw-1")
    assert node.run(["hostname"]).stdout == "fw-1\n"
    assert node.run(["cat", "/proc/1/comm"]).stdout.startswith("python")
    assert node.run(["sysctl", "-n", "net.netfilter.nf_conntrack_tcp_loose"]).stdout == "0\n"
    assert node.run(["test", "-e", str(ROOT)], check=False).returncode == 1, (
        "nothing of the checkout but the agent"
    )
    assert node.run(["touch", "/usr/bin/x"], check=False).returncode == 1, (
        "the machine's programs are read-only"
    )
    owners = node.run(["stat", "-c", "%u %a", "/", "/usr", "/usr/libexec", "/usr/libexec/hafw"]).stdout
    assert owners == "0 755\n" * 4, "keepalived trusts no hook below anything else"
    assert node.run(["stat", "-c", "%u %a", "/usr/libexec/hafw/notify"]).stdout == "0 755\n"


def test_run_tells_what_went_wrong(lab: Lab) -> None:
    node = lab.node("client")
    assert node.run(["cat"], input="in").stdout == "in"
    with pytest.raises(LabError, match="client: sh -c echo why >&2; exit 3 ended with status 3: why"):
        node.run(["sh", "-c", "echo why >&2; exit 3"])
    with pytest.raises(LabError, match=r"did not end within 0\.2 s"):
        node.run(["sleep", "10"], timeout_s=0.2)
    with pytest.raises(LabError, match="there is no node 'fw-3'; the nodes are client, fw-1, fw-2, omarine"):
        lab.node("fw-3")


def test_files_go_in_and_out(lab: Lab) -> None:
    node = lab.node("client")
    node.write_text("/etc/motto", "no state left behind\n")
    assert node.run(["cat", "/etc/motto"]).stdout == node.read_text("/etc/motto") == "no state left behind\n"
    assert not Path("/etc/motto").exists()
    with pytest.raises(LabError, match="client: /etc/nothing: No such file"):
        node.read_text("/etc/nothing")


def test_a_program_dies_with_its_handle(lab: Lab) -> None:
    node = lab.node("client")
    with node.popen(["sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        # The end of the pipe: its last holder, the program inside, is gone.
        ready, _, _ = select.select([process.stdout], [], [], 5)
        process.kill()
        assert ready
        assert process.stdout.read() == b""


# -- faults --


BLOCK = """
from pathlib import Path
from hafw_lab.kernel.rtnetlink import LinkSwitch
from hafw_lab.process import run, run_ip
for name in "ab":
    run_ip(f"link add {name}0 type veth peer name {name}1\\nlink set {name}0 up\\nlink set {name}1 up\\n")
run_ip("link add br0 type bridge forward_delay 0\\nlink set a0 master br0\\nlink set b0 master br0\\n")
run_ip("link set br0 up\\n")
LinkSwitch().block(["a0", "b0"])
print(run(["bridge", "link", "show"]).count("state disabled"), Path("/sys/class/net/a1/carrier").read_text())
"""


def test_a_blocked_port_keeps_its_carrier() -> None:
    """Or a node would see the power cut coming, and say so to its peer."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = 'mount -t sysfs sysfs /sys && exec /usr/bin/python3 -c "$0"'
    argv = ["unshare", *user, "--net", "--mount", "sh", "-c", script, BLOCK]
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=20)
    assert (done.stdout.split(), done.stderr) == (["2", "1"], "")


BLOCK_ONE_THAT_IS_DOWN = (
    BLOCK.partition("LinkSwitch()")[0]
    + """
switch = LinkSwitch()
switch.set(["a0"], up=False)
switch.block(["a0", "b0", "gone"])
print(run(["bridge", "link", "show", "dev", "b0"]).count("state disabled"))
try:
    switch.set(["a0", "b0", "gone"], up=True)
except OSError as error:
    print(error.filename)
switch.set(["a0"], up=True)
print(run(["ip", "-brief", "link", "show", "a0"]).split()[1])
"""
)


def test_a_link_that_is_down_does_not_keep_the_others_from_being_blocked() -> None:
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    argv = ["unshare", *user, "--net", "/usr/bin/python3", "-c", BLOCK_ONE_THAT_IS_DOWN]
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=20)
    assert (done.stdout.split(), done.stderr) == (["1", "gone", "UP"], "")


@pytest.mark.parametrize(
    "faults",
    [
        ("link:eth2", "power"),
        ("power", "link:eth2"),
        ("link:eth0", "link:eth1", "link:eth2", "shutdown"),
        ("keepalived", "link:eth0", "bus", "conntrackd"),
        ("link:eth1", "keepalived-stop", "power"),
    ],
)
def test_faults_add_up_in_any_order_and_heal_undoes_them_all(faults: tuple[str, ...]) -> None:
    with Lab.start(OPTIONS) as lab:
        for fault in faults:
            lab.fail("fw-1", Fault.parse(fault))
        if {"power", "shutdown"} & set(faults):
            assert not lab.status().node("fw-1").alive
            lab.wait_primary("fw-2", 10)
        lab.heal("fw-1")
        first = lab.wait_settled(10)
        assert all(lab.status().node("fw-1").links.values())
        lab.fail(first, POWER)
        lab.wait_primary("fw-2" if first == "fw-1" else "fw-1", 10)
        assert reaches(lab)


COUNT = """
table inet seen {
    chain input {
        type filter hook input priority 0
        ip saddr 192.168.2.10 counter
    }
}
"""


def test_a_node_forwards_nothing_between_its_power_and_its_rules() -> None:
    """The client sends by the address of the one that boots, and nobody has translated what arrives."""
    with Lab.start(LabOptions()) as lab:
        client, server = lab.node("client"), lab.node("omarine")
        lab.fail("fw-1", POWER)
        lab.wait_primary("fw-2", 10)
        server.run(["nft", "-f", "-"], input=COUNT)
        client.run(["ip", "route", "replace", SERVER, "via", "192.168.2.1"])
        with client.popen(["ping", "-q", "-i", "0.002", SERVER], stdout=subprocess.DEVNULL) as ping:
            lab.heal("fw-1")
            lab.wait_settled(20)
            ping.terminate()
        assert "packets 0 bytes 0" in server.run(["nft", "list", "table", "inet", "seen"]).stdout
        client.run(["ip", "route", "replace", SERVER, "via", "192.168.2.100"])
        assert reaches(lab)


def test_a_reload_leaves_keepalived_the_time_to_live() -> None:
    """It sets its limit of real time to nothing and up again, which not every root may do."""
    with Lab.start(OPTIONS) as lab:
        node = lab.node("fw-1")
        node.signal_service("keepalived", signal.SIGHUP)
        node.run(["sh", "-c", "until grep -q 'Reload complete' /var/log/keepalived.log; do :; done"])
        vrrp = node.read_text(Paths().vrrp_pid).strip()
        limits = node.read_text(f"/proc/{vrrp}/limits").splitlines()
        (limit,) = (line.split()[3:5] for line in limits if line.startswith("Max realtime timeout"))
        assert "0" not in limit


def test_power_and_heal() -> None:
    with Lab.start(OPTIONS) as lab:
        node = lab.node("fw-1")
        sleeper = node.popen(["sleep", "1000"])
        state = "-p udp -s 1.2.3.4 -d 1.2.3.5 --sport 1 --dport 2 -t 600"
        node.run(["conntrack", "-I", *state.split()])
        assert reaches(lab, "192.168.2.1")
        before = time.monotonic_ns()
        moment = lab.fail("fw-1", POWER)
        assert before <= moment <= time.monotonic_ns()
        assert lab.wait_primary("fw-2", 5) == "fw-2"
        sleeper.wait(5)
        with pytest.raises(NodeDownError, match="fw-1 is switched off"):
            node.run(["true"])
        assert "Entering MASTER" in node.read_text("/var/log/keepalived.log"), "logs are on the disk"
        assert not lab.status().node("fw-1").alive
        assert not reaches(lab, "192.168.2.1"), "its kernel is kept, but cut off"
        lab.heal("fw-1")
        assert lab.wait_settled(5) == "fw-2", "no pre-emption"
        assert "1.2.3.4" not in node.run(["conntrack", "-L"]).stdout
        lab.fail("fw-2", POWER)
        lab.wait_primary("fw-1", 5)
        assert reaches(lab)


def test_a_shutdown_is_in_order() -> None:
    """It is not the power that goes first, as in the test above."""
    with Lab.start(OPTIONS) as lab:
        lab.fail("fw-1", Fault.parse("shutdown"))
        assert not lab.status().node("fw-1").alive
        assert lab.wait_primary("fw-2", 5) == "fw-2"
        assert "Stopped" in lab.node("fw-1").read_text("/var/log/keepalived.log")
        lab.heal("fw-1")
        assert lab.wait_settled(5) == "fw-2"


def test_link_and_heal() -> None:
    with Lab.start(OPTIONS) as lab:
        lab.fail("fw-1", Fault.parse("link:eth0"))
        assert lab.wait_primary("fw-2", 5) == "fw-2"
        carrier = ["cat", "/sys/class/net/eth0/carrier"]
        assert lab.node("fw-1").run(carrier).stdout == "0\n"
        assert lab.status().node("fw-1").links == {"eth0": False, "eth1": True, "eth2": True}
        lab.heal("fw-1")
        assert lab.node("fw-1").run(carrier).stdout == "1\n"
        with pytest.raises(LabError, match="fw-1 has no link 'eth7'; its links are eth0, eth1, eth2"):
            lab.fail("fw-1", Fault.parse("link:eth7"))


@pytest.mark.parametrize("fault", ["keepalived", "keepalived-stop", "conntrackd", "bus"])
def test_a_daemon_stays_down_until_it_is_healed(fault: str) -> None:
    service = fault.removesuffix("-stop")
    with Lab.start(OPTIONS) as lab:
        node = lab.node("fw-1")
        assert node.service_pid(service) is not None
        lab.fail("fw-1", Fault.parse(fault))
        node.stop_service(service)  # only waits: the signal is on its way
        assert node.service_pid(service) is None
        if fault == "keepalived-stop":
            lab.wait_primary("fw-2", 5)
        if fault == "keepalived":
            assert "192.168.0.100" in lab.status().node("fw-1").vips, "nobody was left to remove it"
        lab.heal("fw-1")
        assert node.service_pid(service) is not None
        lab.wait_settled(5)


def test_a_daemon_is_started_again_when_asked_for() -> None:
    with Lab.start(LabOptions(agent=AgentKind.NONE, restart=True)) as lab:
        node = lab.node("fw-1")
        first = node.service_pid("conntrackd")
        lab.fail("fw-1", Fault.parse("conntrackd"))
        node.run(["sh", "-c", "until conntrackd -s >/dev/null 2>&1; do :; done"])
        assert node.service_pid("conntrackd") not in (None, first)
