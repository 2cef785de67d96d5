# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual machines, as far as nothing has to boot: command lines, addresses, clocks, services, options."""

import base64
import shlex
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import pytest

from agent.model.records import Record, RecordKind, from_journal, to_journal
from hafw_lab import process, programs
from hafw_lab.arguments.advert import choose_advert_ms
from hafw_lab.arguments.machines import choose_machines
from hafw_lab.client.clock import Clock, compute_clock
from hafw_lab.client.connection import Client
from hafw_lab.client.machine_node import MachineNode
from hafw_lab.compose import machines as machine_plan
from hafw_lab.compose.lab import plan_lab
from hafw_lab.compose.machines import check_machines
from hafw_lab.doctor import examine
from hafw_lab.errors import LabError
from hafw_lab.image import store
from hafw_lab.kernel.taps import plan_taps, require_taps
from hafw_lab.measure.timeline import Moment, at_home
from hafw_lab.model.options import AgentKind, LabOptions
from hafw_lab.model.topology import DEFAULT
from hafw_lab.plan.values import Cable, LabPlan, Machine, NodePlan
from hafw_lab.verbs import export
from hafw_lab.vm import guest_services
from hafw_lab.vm.command_line import Accelerator, Wires, plan_qemu, write_by_hand
from hafw_lab.vm.guest_addresses import GuestAddresses
from hafw_lab.vm.guest_ssh import plan_master, plan_session

MACHINE = Machine(
    release="trixie",
    kernel="/images/vmlinuz",
    initrd="/images/initrd",
    disk="/images/of, mine/disk.raw",
    disk_format="raw",
    image_key="abc",
    ssh_key="/images/key",
    seed=base64.b64encode(b"seed").decode(),
    append="panic=10",
)
CABLES = (
    Cable("eth0", "52:54:00:00:00:01", "fw-1.eth0", "52:54:00:00:01:01", "br0"),
    Cable("eth1", "52:54:00:00:00:02", "fw-1.eth1", "52:54:00:00:01:02", "br1"),
)
NODE = NodePlan("fw-1", firewall=True, cables=CABLES, machine=MACHINE)
WIRES = Wires(base=7, taps=(8, 9), qmp=10, console=11, agent=12, ssh=13)

GOLDEN = """\
/usr/bin/qemu-system-x86_64
-name guest=fw-1,debug-threads=on
-nodefaults
-no-user-config
-machine q35,usb=off,vmport=off,smm=off,hpet=off
-accel tcg,thread=multi,tb-size=256
-cpu max
-smp 1
-m 512
-display none
-vga none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-kernel ../vmlinuz
-initrd ../initrd
-append root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet panic=10
-add-fd fd=7,set=1
-blockdev driver=raw,node-name=base,read-only=on,file.driver=file,file.locking=off,file.filename=/dev/fdset/1
-blockdev driver=qcow2,node-name=disk,backing=base,discard=unmap,cache.direct=off,cache.no-flush=on,\
file.driver=file,file.filename=disk.qcow2
-device virtio-blk-pci,drive=disk,serial=disk
-chardev socket,id=qmp,fd=10,server=on,wait=off
-mon chardev=qmp,mode=control
-chardev socket,id=con,fd=11,server=on,wait=off,logfile=console.log,logappend=on
-serial chardev:con
-object rng-random,id=rng,filename=/dev/urandom
-device virtio-rng-pci,rng=rng
-device virtio-serial-pci,id=vser,max_ports=8
-chardev socket,id=qga,fd=12,server=on,wait=off
-device virtserialport,bus=vser.0,nr=1,chardev=qga,id=qga0,name=org.qemu.guest_agent.0
-chardev socket,id=ssh,fd=13,server=on,wait=off
-device virtserialport,bus=vser.0,nr=2,chardev=ssh,id=ssh0,name=org.hafw.ssh.0
-netdev tap,id=net0,fd=8
-device virtio-net-pci,id=nic-eth0,netdev=net0,mac=52:54:00:00:00:01,romfile=
-netdev tap,id=net1,fd=9
-device virtio-net-pci,id=nic-eth1,netdev=net1,mac=52:54:00:00:00:02,romfile="""


def test_the_command_line_of_qemu() -> None:
    argv = plan_qemu(NODE, Accelerator.TCG, WIRES, halted=False)
    assert " ".join(argv).replace(" -", "\n-") == GOLDEN
    assert plan_qemu(NODE, Accelerator.TCG, WIRES, halted=True) == [*argv, "-S"]
    assert plan_qemu(NODE, Accelerator.KVM, WIRES, halted=False)[7:11] == ["-accel", "kvm", "-cpu", "host"]


def test_the_command_line_for_people_has_no_descriptors() -> None:
    text = write_by_hand(NODE, Accelerator.TCG, "/var/tmp/a lab/own")
    head, command = text.split("\nexec ")
    assert head.endswith("\ncd '/var/tmp/a lab/own' || exit 1")
    argv = shlex.split(command.replace("\\\n", ""))
    assert argv == plan_qemu(NODE, Accelerator.TCG, None, halted=False)
    assert not [word for word in argv if "fd=" in word or "fdset" in word]
    assert any("file.filename=/images/of,, mine/disk.raw" in word for word in argv), "commas are doubled"


def test_taps_are_plugged_into_the_bridges() -> None:
    assert plan_taps(CABLES[:1]) == (
        "link set fw-1.eth0 address 52:54:00:00:01:01\nlink set fw-1.eth0 master br0 up\n"
    )


def test_a_plan_with_machines_travels_as_json() -> None:
    plan = plan_lab("lab", DEFAULT, LabOptions(), privileged=True)
    mixed = replace(plan, nodes=(NODE, *plan.nodes[1:]))
    assert LabPlan.from_json(mixed.to_json()).nodes[0].machine == MACHINE
    assert LabPlan.from_json(mixed.to_json()).nodes[1].machine is None


# -- ssh --


def test_a_session_uses_the_connection_that_is_there_and_makes_none() -> None:
    argv = plan_session("fw-1", Path("/lab/fw-1"), ["sh", "-c", "echo 'a b' $HOME"])
    assert "ControlPath=/lab/fw-1/ssh.ctl" in argv
    assert "ControlMaster=no" in argv
    assert "ProxyCommand=false" in argv
    assert shlex.split(argv[-1])[-4:] == ["exec", "sh", "-c", "echo 'a b' $HOME"]
    assert "-t" in plan_session("fw-1", Path("/lab"), ["bash"], terminal=True)


def test_the_masters_proxy_command_is_one_line_that_a_shell_takes_apart_again() -> None:
    argv = plan_master("fw-1", Path("/lab/100%/fw-1"), "/key", "echo ready\n")
    proxy = next(word for word in argv if word.startswith("ProxyCommand=")).partition("=")[2]
    assert "\n" not in proxy
    assert shlex.split(proxy.replace("%%", "%"))[-1] == "/lab/100%/fw-1/ssh.sock"
    assert argv[:3] == ["/usr/bin/setpriv", "--pdeathsig", "KILL"]


# -- addresses --


def told(*lines: str) -> set[str]:
    addresses = GuestAddresses()
    for line in lines:
        addresses.take(line)
    return {str(address) for address in addresses.current}


ADDED = "2: eth0    inet 192.168.0.100/24 scope global secondary eth0\\       valid_lft forever"
DELETED = "Deleted 2: eth0    inet 192.168.0.100/24 scope global secondary eth0\\       valid_lft forever"


def test_addresses_come_and_go() -> None:
    assert told("ready", "begin", "= 1: lo    inet 127.0.0.1/8 scope host lo", "end") == {"127.0.0.1"}
    assert told(ADDED) == {"192.168.0.100"}
    assert told(ADDED, DELETED) == set()
    assert told("3: eth1    inet6 fd00::64/64 scope global") == {"fd00::64"}


def test_a_list_heals_what_was_missed_and_loses_nothing_that_is_newer() -> None:
    assert told(ADDED, "begin", "end") == set(), "its end was missed"
    assert told("begin", ADDED, "end") == {"192.168.0.100"}, "it came after the list was read"
    assert told("begin", f"= {ADDED}", DELETED, "end") == set(), "it went after the list was read"


def test_lines_that_say_nothing_of_addresses_are_skipped() -> None:
    assert told("garbage", "2: eth0: <UP> mtu 1500", "") == set()
    assert ip_address("192.168.0.100") not in GuestAddresses().current


# -- clock --


def test_the_quickest_round_trip_sets_the_clock() -> None:
    clock = compute_clock([(1000, 5, 9000), (2000, 50, 2100), (3000, 70, 9999)])
    assert clock == Clock(offset_ns=2000, error_ns=50)
    assert clock.at_home(50) == 2050
    assert list(at_home([Moment(1, "fw-1", "x")], clock)) == [Moment(2001, "fw-1", "x")]
    assert clock.records([{"mono_ns": 1, "a": 2}, {"a": 3}]) == ({"mono_ns": 2001, "a": 2}, {"a": 3})


def test_records_come_out_of_the_journal_as_they_went_in() -> None:
    record = Record(
        RecordKind.TRANSITION, "in force", 12345, transition="a", to_role="primary", duration_ms=1.5
    )
    entry: dict[str, object] = {**to_journal(record), "MESSAGE": record.message}
    found = from_journal(entry)
    assert (found["mono_ns"], found["to"], found["duration_ms"]) == (12345, "primary", 1.5)


# -- services --


STATUS = """12
MainPID=88
ActiveState=active
ExecMainStatus=0
ExecMainExitTimestampMonotonic=0

MainPID=0
ActiveState=failed
ExecMainStatus=9
ExecMainExitTimestampMonotonic=5551212

MainPID=99
ActiveState=activating
ExecMainStatus=0
ExecMainExitTimestampMonotonic=0
"""


def test_the_status_of_services() -> None:
    assert guest_services.parse_status(STATUS, ("agent", "keepalived", "conntrackd")) == {
        "services": {
            "agent": {"pid": 88, "exit": None},
            "keepalived": {"pid": None, "exit": 9},
            "conntrackd": {"pid": None, "exit": None},
        },
        "conntrack": 12,
    }
    assert guest_services.parse_status("-1\n", ()) == {"services": {}, "conntrack": None}


def test_orders_become_systemctl() -> None:
    plan = guest_services.plan_order
    assert plan("start", {"service": "agent"}) == "systemctl start hafw-agent.service"
    assert plan("stop", {"service": "bus", "signal": 15}) == "systemctl stop dbus.service"
    fields = {"service": "keepalived", "signal": 9, "every": True}
    assert plan("signal", fields) == "systemctl kill --signal=SIGKILL --kill-who=all keepalived.service"
    with pytest.raises(LabError, match="there is no service 'cron' here"):
        plan("start", {"service": "cron"})


def test_taps_are_looked_for_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot be opened: No such file or directory; modprobe tun"):
        require_taps(str(tmp_path / "tun"))
    (tmp_path / "tun").touch()
    require_taps(str(tmp_path / "tun"))


def test_what_a_machine_needs_is_looked_for_before_its_image_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise LabError("no taps here")

    monkeypatch.setattr(programs, "require_programs", lambda *_: None)
    monkeypatch.setattr(machine_plan, "require_taps", refuse)
    monkeypatch.setattr(store, "require_image", lambda *_, **__: pytest.fail("this takes minutes"))
    options = LabOptions(machines={"client": "trixie"})
    plan = plan_lab("lab", DEFAULT, options, privileged=True)
    with pytest.raises(LabError, match="no taps here"):
        machine_plan.add_machines(plan, DEFAULT, options, lambda _: None, key="")


def test_machines_that_run_elsewhere_need_nothing_to_run_on_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Reached(Exception):
        pass

    def find_image(*_: object, **__: object) -> None:
        raise Reached

    monkeypatch.setitem(process.ENVIRONMENT, "PATH", str(tmp_path))  # no qemu, no ssh
    monkeypatch.setattr(machine_plan, "require_taps", lambda: pytest.fail("nothing is plugged in here"))
    monkeypatch.setattr(store, "require_image", find_image)
    options = LabOptions(machines={"client": "trixie"})
    plan = plan_lab("export", DEFAULT, options, privileged=True)
    with pytest.raises(LabError, match=r"exports need are not here: qemu-img; apt-get .*qemu-utils"):
        machine_plan.add_machines(plan, DEFAULT, options, lambda _: None, key="", elsewhere=True)
    (tmp_path / "qemu-img").touch(mode=0o755)
    with pytest.raises(Reached):
        machine_plan.add_machines(plan, DEFAULT, options, lambda _: None, key="", elsewhere=True)


def test_programs_of_machines_are_looked_for_before_an_image_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(process.ENVIRONMENT, "PATH", str(tmp_path))
    monkeypatch.setattr(store, "require_image", lambda *_, **__: pytest.fail("this takes minutes"))
    options = LabOptions(machines={"client": "trixie"})
    plan = plan_lab("lab", DEFAULT, options, privileged=True)
    with pytest.raises(LabError, match=r"machines need .*: .*qemu-img.*; apt-get .*qemu-utils"):
        machine_plan.add_machines(plan, DEFAULT, options, lambda _: None, key="")


@pytest.mark.parametrize(
    ("options", "lacking", "said"),
    [
        (LabOptions(machines={"fw-1": "trixie"}), "keepalived", "firewalls made of namespaces need"),
        (LabOptions(machines={"fw-1": "trixie"}, remote="::1"), "openssl", "screens on the network need"),
    ],
)
def test_so_are_those_of_the_rest_of_a_lab_with_machines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: LabOptions, lacking: str, said: str
) -> None:
    for name in ("qemu-img", *programs.OF_NAMESPACES, *programs.OF_REMOTE_SCREENS):
        if name != lacking:
            (tmp_path / name).touch(mode=0o755)
    monkeypatch.setitem(process.ENVIRONMENT, "PATH", str(tmp_path))
    monkeypatch.setattr(store, "require_image", lambda *_, **__: pytest.fail("this takes minutes"))
    plan = plan_lab("lab", DEFAULT, options, privileged=True)
    with pytest.raises(LabError, match=f"{said} are not here: {lacking}; apt-get install"):
        machine_plan.add_machines(plan, DEFAULT, options, lambda _: None, key="")


def test_programs_of_an_image_are_looked_for_before_anything_is_built_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HAFW_CACHE", str(tmp_path))
    monkeypatch.setitem(process.ENVIRONMENT, "PATH", str(tmp_path))
    monkeypatch.setattr(store, "find_package", lambda _: pytest.fail("this takes a minute"))
    with pytest.raises(LabError, match=r"images need .*: mmdebstrap, mke2fs.*; apt-get install"):
        store.require_image("trixie", lambda _: None)


def test_doctor_says_of_machines_what_up_would_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also to root, who can lack the device as well."""
    monkeypatch.setattr(examine, "require_taps", lambda: require_taps(str(tmp_path / "tun")))
    monkeypatch.setattr(examine, "_accelerator", lambda: examine.Finding(examine.Level.OK, "KVM"))
    for one in (*programs.OF_MACHINES, *programs.of_images()):
        (tmp_path / Path(one).name).touch(mode=0o755)
    monkeypatch.setitem(process.ENVIRONMENT, "PATH", str(tmp_path))
    (found,) = (one for one in examine._machines() if one.level is examine.Level.NOTE)
    with pytest.raises(LabError) as refused:
        require_taps(str(tmp_path / "tun"))
    assert (found.text, found.hint) == (f"no virtual machines: {refused.value.message}", "modprobe tun")
    (tmp_path / "qemu-img").unlink()
    (found,) = examine._machines()
    assert found.text == "no virtual machines: qemu-img not found"


class Answers:
    """A lab's supervisor, as far as a machine's node asks it."""

    def __init__(self, **facts: bool) -> None:
        self.facts = {"alive": True, "paused": False, "ready": True, **facts}

    def ask(self, _op: str, **_fields: object) -> dict[str, bool]:
        return self.facts


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"alive": False}, "fw-1 is switched off"),
        ({"paused": True}, "fw-1 is paused; let it continue with: hafw-lab heal fw-1"),
        ({"ready": False}, "fw-1 cannot be reached; is it booting"),
    ],
)
def test_a_machine_that_cannot_be_reached_says_so(facts: dict[str, bool], said: str) -> None:
    with pytest.raises(LabError, match=said):
        MachineNode(cast("Client", Answers(**facts)), "fw-1", Path("/lab")).require_reachable()
    MachineNode(cast("Client", Answers()), "fw-1", Path("/lab")).require_reachable()


@pytest.mark.parametrize(
    ("wanted", "obstacle", "chosen", "notes"),
    [
        (None, None, True, 0),
        (None, "/dev/kvm is not there", False, 1),
        (True, "/dev/kvm is not there", True, 0),
        (False, None, False, 0),
    ],
)
def test_an_export_has_kvm_where_this_machine_has(
    wanted: bool | None, obstacle: str | None, chosen: bool, notes: int
) -> None:
    said: list[str] = []
    assert export.choose_kvm(wanted, obstacle, said.append) is chosen
    assert len(said) == notes


def test_an_export_keeps_the_holes_of_a_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
        file.write(b"x")
    (tmp_path / "vmlinuz").touch()
    machine = replace(MACHINE, disk=str(disk), kernel=str(tmp_path / "vmlinuz"))
    (tmp_path / "out").mkdir()
    export._copy_base(replace(NODE, machine=machine), tmp_path / "out")
    copied = (tmp_path / "out" / "base").stat()
    assert (copied.st_size, copied.st_blocks * 512 < 8 << 20) == (64 << 20, True)


# -- options --

NAMES = ("client", "fw-1", "fw-2")


@pytest.mark.parametrize(
    ("wanted", "release", "found"),
    [
        (None, None, {}),
        ("all", None, {"client": "trixie", "fw-1": "trixie", "fw-2": "trixie"}),
        ("fw-1", "bookworm", {"fw-1": "bookworm"}),
        ("fw-1,fw-2", "fw-1=bookworm,fw-2=trixie", {"fw-1": "bookworm", "fw-2": "trixie"}),
        ("all", "fw-1=bookworm", {"client": "trixie", "fw-1": "bookworm", "fw-2": "trixie"}),
        ("all", "fw-1=trixie,bookworm", {"client": "bookworm", "fw-1": "trixie", "fw-2": "bookworm"}),
    ],
)
def test_which_machines_are_wanted(wanted: str | None, release: str | None, found: dict[str, str]) -> None:
    assert choose_machines(wanted, release, NAMES) == found


@pytest.mark.parametrize(
    ("wanted", "release", "problem"),
    [
        (None, "trixie", "--release is for virtual machines"),
        ("fw-9", None, "there is no node 'fw-9' for --vm"),
        ("all", "sid", "'sid' is not one of bookworm, trixie"),
        ("all", "fw-9=trixie", "--release: there is no node 'fw-9'"),
    ],
)
def test_machines_that_cannot_be(wanted: str | None, release: str | None, problem: str) -> None:
    with pytest.raises(LabError, match=problem):
        choose_machines(wanted, release, NAMES)


@pytest.mark.parametrize(
    ("wanted", "machines", "obstacle", "chosen", "notes"),
    [
        (None, ("fw-1", "fw-2"), "/dev/kvm is not there", 500, 1),
        (100, ("fw-1", "fw-2"), "/dev/kvm is not there", 100, 0),
        (None, ("fw-1", "fw-2"), None, 100, 0),
        (None, ("client",), "/dev/kvm is not there", 100, 0),
        (None, (), "/dev/kvm is not there", 100, 0),
    ],
)
def test_firewalls_without_kvm_speak_less_often(
    wanted: int | None, machines: tuple[str, ...], obstacle: str | None, chosen: int, notes: int
) -> None:
    said: list[str] = []
    assert choose_advert_ms(wanted, machines, DEFAULT, obstacle, said.append) == chosen
    assert len(said) == notes


def test_the_stock_script_runs_in_namespaces_only() -> None:
    with pytest.raises(LabError, match="fw-1: a firewall that is a machine runs hafw, not stock"):
        check_machines(DEFAULT, LabOptions(agent=AgentKind.STOCK, machines={"fw-1": "trixie"}))
    check_machines(DEFAULT, LabOptions(agent=AgentKind.STOCK, machines={"client": "trixie"}))
