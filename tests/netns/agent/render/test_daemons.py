# SPDX-License-Identifier: GPL-2.0-or-later
"""The rendered files, given to the real keepalived, conntrackd and kernel in a namespace like a firewall."""

import base64
import contextlib
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.config.loader import load
from agent.model.pair import Interface, Pair, SyncMode
from agent.paths import Paths
from agent.render import conntrackd, keepalived, networkd, sysctl
from tests.checkout import GOLDEN

pytestmark = pytest.mark.netns

FOLDER = GOLDEN / "render"
CASES = sorted(case.name for case in FOLDER.iterdir())
TIMEOUT_S = 20
NOBODY = 65534

# the daemons' own paths stay as they are; what they write goes into memory that dies with the namespace
SET_UP = (
    "mount -t tmpfs none /run && mount -t tmpfs none /var/log && mkdir -p /run/lock /run/hafw"
    " && ip link set lo up && echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"
)
# keepalived 2.3.3 of Debian 13 would leave a file in the machine's /etc/iproute2
KEEP_ETC = " && mount --bind /etc /etc && mount -o remount,bind,ro /etc"
BOTH = ("BACKUP", "MASTER")
# has a path whose every directory belongs to root, also inside a user namespace
HOOK = Path("/run/hafw/hook")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A shell in namespaces of its own; it runs one command at a time and dies with the test."""

    shell: subprocess.Popen[str]

    def run(self, command: str) -> tuple[int, str]:
        """Exit status and everything that was written."""
        assert self.shell.stdin
        assert self.shell.stdout
        self.shell.stdin.write(f"{command}\nprintf '\\nEND %s\\n' $?\n")
        self.shell.stdin.flush()
        lines: list[str] = []
        while not (line := self.shell.stdout.readline()).startswith("END "):
            assert line, f"the shell ended in {command!r}: {''.join(lines)}"
            lines.append(line)
        return int(line.split()[1]), "".join(lines).strip()

    def must(self, command: str) -> str:
        status, output = self.run(f"timeout {TIMEOUT_S} {command}")
        assert status == 0, f"{command}: {output}"
        return output


@contextlib.contextmanager
def start_namespace(*, rootless: bool) -> Iterator[Namespace]:
    prefix: tuple[str, ...] = ()
    if rootless and os.getuid() == 0:
        prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    flags = "-rnmpf" if rootless or os.getuid() else "-nmpf"
    argv = (*prefix, "unshare", flags, "--kill-child", "--mount-proc", "sh")
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        cwd="/",
    ) as shell:
        try:
            namespace = Namespace(shell)
            status, output = namespace.run(SET_UP if "r" in flags else SET_UP + KEEP_ETC)
            if status and (rootless or os.getuid()):
                pytest.skip(f"this machine gives an ordinary user no namespace: {output}")
            assert status == 0, output
            yield namespace
        finally:
            shell.kill()


def add_interfaces(namespace: Namespace, pair: Pair, node: str) -> None:
    for number, interface in enumerate(pair.every_interface):
        namespace.must(f"ip link add {interface.name} type veth peer name peer{number}")
        for address in interface.own(node):
            namespace.must(
                f"ip address add {address} dev {interface.name} {'nodad' if address.version == 6 else ''}"
            )
        namespace.must(f"ip link set {interface.name} up")
        namespace.must(f"ip link set peer{number} up")


def write(namespace: Namespace, path: Path, text: str) -> None:
    namespace.run(f"cat > {path} <<'END_OF_FILE'\n{text}END_OF_FILE")


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return load(FOLDER / request.param / "hafw.yaml")


@pytest.fixture(params=[False, True], ids=["as-is", "rootless"])
def namespace(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    with start_namespace(rootless=request.param) as namespace:
        yield namespace


def checked_keepalived(namespace: Namespace, pair: Pair, text: str) -> tuple[int, str]:
    write(namespace, HOOK, "#!/bin/sh\n")
    namespace.must(f"chmod 755 {HOOK}")
    write(namespace, Path("/run/keepalived.conf"), text)
    return namespace.run(f"timeout {TIMEOUT_S} keepalived --config-test --use-file /run/keepalived.conf")


def test_keepalived_accepts_its_file(pair: Pair, namespace: Namespace) -> None:
    for node in pair.nodes:
        text = keepalived.render(pair, node.name, Paths(hook=HOOK))
        if node is pair.nodes[0]:
            add_interfaces(namespace, pair, node.name)
        assert checked_keepalived(namespace, pair, text) == (0, "")
        broken = text.replace("virtual_router_id", "virtual_router_it")
        assert checked_keepalived(namespace, pair, broken)[0] != 0, "the check itself does not work"


@pytest.mark.skipif(
    os.getuid() != 0, reason="script security wants / to be root's, which it is for root only"
)
def test_keepalived_runs_alone_and_tells_the_hook() -> None:
    """The hook's argv, the readiness file of a new node, and no death in the middle of becoming primary."""
    pair = load(FOLDER / "dual-stack" / "hafw.yaml")
    instances = ("VI_eth0_4", "VI_eth0_6", "VI_eth1_4", "VI_eth1_6")
    with start_namespace(rootless=False) as namespace:
        add_interfaces(namespace, pair, "fw-2")
        write(namespace, HOOK, '#!/bin/sh\necho "$*" > /run/told\n')
        namespace.must(f"chmod 755 {HOOK}")
        namespace.must("mkfifo /run/told")
        namespace.run("exec 3<>/run/told")
        write(namespace, Path("/run/keepalived.conf"), keepalived.render(pair, "fw-2", Paths(hook=HOOK)))
        namespace.run("keepalived -n -l -D -f /run/keepalived.conf >/run/said 2>&1 &")
        # 140, and 11 less because nobody has said that the states are in
        started = {f"INSTANCE {name} {state} 129" for name in instances for state in BOTH}
        wait_for_notices(namespace, started | {"GROUP G2 MASTER 0"})
        assert namespace.must("cat /run/hafw/ready") == "-11"
        namespace.must("ip -6 address show dev eth0 to fe80::200:5eff:fe00:23e")
        said = namespace.must("cat /run/said")
        for trouble in ("died", "Unsafe", "Unknown", "ignoring", "should be link local"):
            assert trouble not in said, said
        namespace.must(f"kill $(cat {Paths().keepalived_pid})")
        wait_for_notices(
            namespace, {*(f"INSTANCE {name} STOP 129" for name in instances), "GROUP G2 STOP 0"}
        )


def wait_for_notices(namespace: Namespace, wanted: set[str]) -> None:
    """Reads what the hook was told until every one of `wanted` has come, in whatever order."""
    while wanted:
        wanted.discard(namespace.must("sh -c 'read -r line <&3; echo \"$line\"'"))


def test_kernel_knows_every_setting(pair: Pair) -> None:
    node = pair.nodes[0].name
    with start_namespace(rootless=False) as namespace:
        add_interfaces(namespace, pair, node)
        write(namespace, Path("/run/60-hafw.conf"), sysctl.render(pair, node, Paths()))
        namespace.must("sysctl --quiet --load=/run/60-hafw.conf")
        for setting in sysctl.settings(pair):
            assert namespace.must(f"cat /proc/sys/{setting.key}") == setting.value, setting.key


@contextlib.contextmanager
def start_conntrackd(namespace: Namespace, pair: Pair, *, privileged: bool) -> Iterator[None]:
    """Runs the daemon until the block ends; it has said that it is ready."""
    node = pair.nodes[0].name
    add_interfaces(namespace, pair, node)
    config = Path("/run/conntrackd.conf")
    write(namespace, config, conntrackd.render(pair, node, Paths(), privileged=privileged))
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices,
    ):
        ready = Path(directory) / "ready"
        notices.bind(str(ready))
        # the daemon may run as nobody
        Path(directory).chmod(0o755)
        ready.chmod(0o777)
        notices.settimeout(TIMEOUT_S)
        namespace.run(f"NOTIFY_SOCKET={ready} conntrackd -C {config} >/run/said 2>&1 &")
        try:
            while b"READY=1" not in notices.recv(4096):
                pass
        except TimeoutError:
            pytest.fail(namespace.run("cat /run/said")[1])
        yield
        namespace.must(f"conntrackd -C {config} -k")


@pytest.mark.parametrize("mode", SyncMode)
def test_conntrackd_replicates_what_is_forwarded(namespace: Namespace, mode: SyncMode) -> None:
    """Also what is source-NATed to a virtual address, which Address Ignore names; not what ends here."""
    base = load(FOLDER / "dual-stack" / "hafw.yaml")
    pair = replace(base, sync=replace(base.sync, mode=mode))
    privileged = namespace.must("cat /proc/self/uid_map").split() == ["0", "0", "4294967295"]
    with start_conntrackd(namespace, pair, privileged=privileged):
        tcp = "conntrack -I -p tcp --timeout 1000 --state ESTABLISHED -u SEEN_REPLY,ASSURED --dport 22"
        udp = "conntrack -I -p udp --timeout 1000 --dport 53"
        for state in (
            f"{tcp} --sport 1001 -s 192.168.2.10 -d 192.168.0.10 --src-nat 192.168.0.100",
            f"{tcp} --sport 1002 -s fd00:0:0:c::10 -d fd00:0:0:a::10 --src-nat fd00:0:0:a::100",
            f"{udp} --sport 1003 -s 192.168.2.10 -d 192.168.0.10",
            f"{udp} --sport 1004 -s fd00:0:0:c::10 -d fd00:0:0:a::10",
            f"{tcp} --sport 2001 -s 192.168.2.10 -d 192.168.2.100",
            f"{tcp} --sport 2002 -s 192.168.2.10 -d 192.168.2.2",
            f"{udp} --sport 2003 -s 192.168.0.1 -d 192.168.0.10",
            f"{tcp} --sport 2004 -s fd00:0:0:c::10 -d fd00:0:0:c::100",
            f"{udp} --sport 2005 -s 127.0.0.1 -d 127.0.0.2",
        ):
            namespace.must(state)
        # reads the kernel's table and comes back when that is done: nothing to wait for
        namespace.must("conntrackd -C /run/conntrackd.conf -R")
        cache = namespace.must("conntrackd -C /run/conntrackd.conf -i")
        for port in (1001, 1002, 1003, 1004):
            assert f"sport={port} " in cache
        for port in (2001, 2002, 2003, 2004, 2005):
            assert f"sport={port} " not in cache
        log = namespace.must("cat /var/log/conntrackd.log")
        assert "ERROR" not in log
        # a user namespace has no real-time priorities to give
        assert ("warning" in log) == (not privileged), log
        assert ("disabling external cache" in log) == (mode is SyncMode.DIRECT)


needs_networkd = pytest.mark.skipif(os.getuid() != 0, reason="systemd-networkd becomes another user")
# networkd looks at a link only when udev has: its database is all that it asks for
NETWORKD_SET_UP = (
    "mount -t sysfs none /sys && mount -t tmpfs none /etc/systemd/network"
    " && mkdir -p /run/udev/data /run/systemd/netif/links && touch /run/udev/control"
    " && chown -R systemd-network:systemd-network /run/systemd/netif"
)
UDEV_HAS_SEEN_ALL = "for file in /sys/class/net/*/ifindex; do echo I:1 >/run/udev/data/n$(cat $file); done"
PUBLIC_KEY = base64.b64encode(bytes(31) + b"\t").decode()
ONLINE = "/lib/systemd/systemd-networkd-wait-online --timeout=20"
VIPS = ("192.168.0.100/24", "fd00:0:0:a::100/128", "fe80::200:5eff:fe00:23e/64")


@contextlib.contextmanager
def start_networkd(*without: str) -> Iterator[Namespace]:
    """A node of the dual-stack pair with a cable in eth0 only, `without` some settings of the file."""
    pair = load(FOLDER / "dual-stack" / "hafw.yaml")
    with start_namespace(rootless=False) as namespace:
        namespace.must(f"sh -c '{NETWORKD_SET_UP}'")
        for number, interface in enumerate(pair.interfaces):
            namespace.must(f"ip link add {interface.name} type veth peer name peer{number}")
        namespace.must("ip link set peer0 up")
        namespace.run(UDEV_HAS_SEEN_ALL)
        for name, text in networkd.files(pair, "fw-1"):
            lines = [line for line in text.splitlines() if line.partition("=")[0] not in without]
            write(namespace, Paths().network_dir / name, "\n".join(lines) + "\n")
        run_networkd(namespace)
        yield namespace
        namespace.run("kill $networkd")


def run_networkd(namespace: Namespace) -> None:
    namespace.run("/lib/systemd/systemd-networkd >>/run/said 2>&1 & networkd=$!")


def addresses_of(namespace: Namespace, interface: str) -> set[str]:
    shown = namespace.must(f"ip -o address show dev {interface}")
    return {line.split()[3] for line in shown.splitlines()}


def test_networkd_understands_every_line(pair: Pair) -> None:
    if os.getuid():
        pytest.skip("systemd-networkd becomes another user")
    with start_namespace(rootless=False) as namespace:
        namespace.must(f"sh -c '{NETWORKD_SET_UP}'")
        keys = dict.fromkeys((one.inside.name for one in pair.tunnels), PUBLIC_KEY)
        tunnels = networkd.tunnel_files(pair, pair.nodes[0].name, Paths(), keys)
        for name, text in (*networkd.files(pair, pair.nodes[0].name), *tunnels):
            write(namespace, Paths().network_dir / name, text)
        write(
            namespace, Paths().network_dir / "99-broken.network", "[Match]\nName=none\n[Network]\nKept=yes\n"
        )
        namespace.must("mkfifo /run/said")
        # from 257 on it says where it is only to whoever wants to know everything
        debug = "SYSTEMD_LOG_LEVEL=debug"
        namespace.run(f"{debug} /lib/systemd/systemd-networkd >/run/said 2>&1 & networkd=$!")
        # the files are read before the interfaces are looked for
        said = namespace.must("sed /Enumeration/q /run/said")
        namespace.run("kill $networkd")
    complaints = re.findall(r"\S*\.(?:network|netdev):\d+: .*", said)
    assert any("99-broken.network:4" in one for one in complaints), "the check itself does not work"
    assert not [one for one in complaints if "60-hafw-" in one]


@needs_networkd
def test_nothing_waits_at_boot_for_a_cable() -> None:
    """Debian's keepalived starts after network-online.target, which otherwise takes two minutes."""
    with start_networkd() as namespace:
        namespace.must(ONLINE)
        namespace.must("ip link set peer0 down")
        namespace.must(f"{ONLINE} --interface=eth0:no-carrier:no-carrier")
        namespace.must(ONLINE)


@needs_networkd
@pytest.mark.parametrize("without", [(), ("KeepConfiguration",)])
def test_virtual_addresses_outlive_a_restart_of_networkd(without: tuple[str, ...]) -> None:
    with start_networkd(*without) as namespace:
        namespace.must(ONLINE)
        own = addresses_of(namespace, "eth0")
        assert {"192.168.0.1/24", "fd00:0:0:a::1/64"} <= own
        for vip in VIPS:
            # as keepalived adds them
            namespace.must(f"ip address add {vip} dev eth0 {'nodad preferred_lft 0' if ':' in vip else ''}")
        namespace.run("kill $networkd; wait $networkd; rm -f /run/systemd/netif/links/*")
        run_networkd(namespace)
        namespace.must(ONLINE)
        if without:
            assert not set(VIPS[:2]) & addresses_of(namespace, "eth0"), "the check itself does not work"
        else:
            assert addresses_of(namespace, "eth0") == own | set(VIPS)


@needs_networkd
@pytest.mark.parametrize("without", [(), ("IgnoreCarrierLoss", "ConfigureWithoutCarrier")])
def test_a_cable_that_is_pulled_takes_no_address_away(without: tuple[str, ...]) -> None:
    with start_networkd(*without) as namespace:
        namespace.must(f"{ONLINE} --interface=eth0")
        own = addresses_of(namespace, "eth0")
        namespace.must("ip link set peer0 down")
        namespace.must(f"{ONLINE} --interface=eth0:no-carrier:no-carrier")
        if without:
            assert "192.168.0.1/24" not in addresses_of(namespace, "eth0"), "the check itself does not work"
        else:
            assert addresses_of(namespace, "eth0") == own


@needs_networkd
@pytest.mark.parametrize("first", ["up", "down"])
def test_of_two_tunnels_the_one_without_a_cable_is_down_and_keeps_its_address(first: str) -> None:
    """conntrackd leaves it then, and can still bind to it. Other links stand for the tunnels here: networkd
    knows no difference, and not every kernel has WireGuard."""
    pair = load(FOLDER / "encrypted" / "hafw.yaml")
    (wire, inside), (_, other) = ((one.wire, one.inside) for one in pair.tunnels)
    cable = f"ip link set peer{[one.name for one in pair.every_interface].index(wire.name)}"
    with start_namespace(rootless=False) as namespace:
        namespace.must(f"sh -c '{NETWORKD_SET_UP}'")
        for number, interface in enumerate(pair.every_interface):
            namespace.must(f"ip link add {interface.name} type veth peer name peer{number}")
            namespace.must(f"ip link set peer{number} up")
        namespace.must(f"{cable} {first}")
        for setting in sysctl.settings(pair):
            if f"/{inside.name}/" in setting.key:
                namespace.must(f"sh -c 'echo {setting.value} >/proc/sys/{setting.key}'")
        namespace.run(UDEV_HAS_SEEN_ALL)
        for name, text in networkd.files(pair, "fw-1"):
            write(namespace, Paths().network_dir / name, text)
        run_networkd(namespace)
        namespace.must(ONLINE)
        for state in ("down", "up", "down", "up"):
            namespace.must(f"{cable} {state}")
            wanted = f"{'!' if state == 'down' else ''} {is_up(inside)}"
            namespace.must(f"timeout 20 sh -c 'until {wanted}; do sleep 0.1; done'")
            assert str(inside.own("fw-1")[0]) in addresses_of(namespace, inside.name)
            namespace.must(is_up(other))
        own = wire.own("fw-1")[0]
        namespace.must(
            f"timeout 20 sh -c 'until ip address show dev {wire.name} | grep {own}; do sleep 0.1; done'"
        )


def is_up(interface: Interface) -> str:
    """With its carrier, if it has one."""
    return f'sh -c "ip -o link show up dev {interface.name} | grep -q ."'
