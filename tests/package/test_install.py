# SPDX-License-Identifier: GPL-2.0-or-later
"""Install, upgrade, remove, purge, and the way from Debian 12 to 13: what is there, what is left behind."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import __version__
from agent.config import loader
from agent.paths import Paths
from hafw_lab.image.debian import Release
from tests.checkout import ROOT
from tests.netns.agent.rules.tables_of_others import THEIRS
from tests.package.conftest import OLDER
from tests.package.debian_root import DebianRoot

MakeRoot = Callable[[Release], DebianRoot]
PATHS = Paths()
PAIR = loader.load(ROOT / "examples" / "pair.yaml")
TESTS = ROOT / "packaging" / "debian" / "tests"
# the rules and settings of the network, in the namespace that a script runs in
LOOK = "{ nft list ruleset; sysctl net.ipv4.ip_forward net.ipv4.conf net.ipv6.conf; }"
TWO_LINKS = "ip link add eth0 type veth peer name a; ip link add eth1 type veth peer name b"
EXAMPLES = "/usr/share/doc/hafw-agent/examples"
# dpkg's scripts find these before the real ones: what a systemd that runs would be told is in the log
CALLS = "/var/log/service-calls"
RECORDERS = {
    "deb-systemd-invoke": f'#!/bin/sh\necho "$*" >>{CALLS}\n',
    "systemctl": '#!/bin/sh\ncase $* in *daemon-reload*) ;; *) exec /usr/bin/systemctl "$@" ;; esac\n',
}
REPACK = (
    "export HAFW_CACHE=/tmp/cache PYTHONPATH=/usr/share/hafw-host-tools:/usr/share/hafw-agent; "
    "python3 -P -B -c 'from hafw_lab.image.store import find_package; find_package(print)'"
)
USERS = "/etc/passwd"
MAINTAINED_BY_OTHERS = (
    *(str(PATHS.keepalived_config), str(PATHS.conntrackd_config)),
    *(USERS, "/etc/shadow", "/etc/group", "/etc/gshadow"),
)


def install(root: DebianRoot, built: Path) -> None:
    """Also looks whether anything on the network is another after than before."""
    where = root.path / "tmp" / "debs"
    where.mkdir()
    for deb in built.glob("*.deb"):
        shutil.copy(deb, where)
    steps = f"{LOOK} >/tmp/before; dpkg --install /tmp/debs/*.deb; {LOOK} >/tmp/after"
    root.run(f"{steps}; cmp /tmp/before /tmp/after")
    shutil.rmtree(where)


def record_service_calls(root: DebianRoot) -> None:
    """As if systemd ran here."""
    (root.path / "run/systemd/system").mkdir(parents=True)
    for name, text in RECORDERS.items():
        root.write(f"/usr/local/sbin/{name}", text, 0o755)


def take_calls(root: DebianRoot) -> list[list[str]]:
    """The verb and the units of each call since the last time."""
    calls = root.read(CALLS).splitlines() if root.exists(CALLS) else []
    root.write(CALLS, "")
    return [call.split() for call in calls]


def use(root: DebianRoot) -> None:
    """What `hafw setup` and the agent leave behind in a firewall's life."""
    root.write(str(PATHS.pair_file), (ROOT / "examples" / "pair.yaml").read_text())
    setup = "hafw setup --node fw-1 --yes"
    root.run(f"{setup} --replace keepalived.conf --replace conntrackd.conf")
    root.write(str(PATHS.sysctl_file), "# by hand\n")
    root.run(setup)  # puts the one by hand beside it
    for path in ("/var/lib/hafw/state", "/var/log/hafw/agent.jsonl", "/run/hafw/ready"):
        root.write(path, "{}\n")


def of_the_firewall(root: DebianRoot) -> dict[str, str]:
    """All files but those that belong to keepalived and conntrackd, and the lists of users."""
    found = root.files()
    return {path: what for path, what in found.items() if not path.startswith(MAINTAINED_BY_OTHERS)}


def beside_rules(command: str) -> str:
    """`command` where the rules of others and a table of ours are loaded: it must let all of them be."""
    load = "nft -f /tmp/theirs.nft; nft add table inet hafw"
    return f"{load}; {LOOK} >/tmp/before; {command}; {LOOK} >/tmp/after; cmp /tmp/before /tmp/after"


def run_autopkgtest(root: DebianRoot, name: str) -> str:
    root.write(f"/tmp/{name}", (TESTS / name).read_text(), 0o755)
    return root.run(f"/tmp/{name}")


def check_repacked(root: DebianRoot, built: Path, directory: Path) -> None:
    """What an installed hafw-lab puts into its machines is the package that was installed."""
    root.run(REPACK)
    (original,) = built.glob("hafw-agent_*.deb")
    repacked = root.path / "tmp/cache/deb/hafw-agent_installed.deb"
    assert unpack(repacked, directory / "repacked") == unpack(original, directory / "original")


def unpack(deb: Path, directory: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The files of a package, and the lines of what it has for dpkg, in some order."""
    subprocess.run(["dpkg-deb", "--raw-extract", deb, directory], check=True, timeout=60)
    found = DebianRoot(directory).files()
    files = {path: what for path, what in found.items() if not path.startswith("/DEBIAN")}
    return files, {path.name: sorted(path.read_text().splitlines()) for path in directory.glob("DEBIAN/*")}


@pytest.mark.parametrize("release", Release)
def test_the_life_of_the_packages(
    release: Release, make_root: MakeRoot, built: Path, built_older: Path, tmp_path: Path
) -> None:
    root = make_root(release)
    record_service_calls(root)
    before = of_the_firewall(root)
    users = root.read(USERS)

    install(root, built_older)
    assert root.run("hafw --version; hafw-lab --version").split() == ["hafw", OLDER, "hafw-lab", OLDER]
    assert root.exists("/etc/systemd/system/multi-user.target.wants/hafw-agent.service")
    assert ["start", "hafw-agent.service"] in take_calls(root)

    run_autopkgtest(root, "superficial")
    root.run(f"{TWO_LINKS}; keepalived --config-test --use-file {EXAMPLES}/keepalived-hook-in.conf")
    use(root)
    key = root.read(str(PATHS.pair_key))
    install(root, built)
    assert root.read(str(PATHS.pair_key)) == key, "the other node has it"
    assert "connections survived" in run_autopkgtest(root, "failover")
    assert root.run("hafw --version").split() == ["hafw", __version__]
    check_repacked(root, built, tmp_path)
    calls = take_calls(root)
    assert ["restart", "hafw-agent.service"] in calls
    # the sockets, with notices of the hook in them, the boot policy and the daemons of others continue
    # undisturbed
    assert all(verb == "start" or units == ["hafw-agent.service"] for verb, *units in calls), calls
    assert ["start", "hafw-boot.service"] not in calls
    assert not any("hafw-channel.service" in call for call in calls), "it comes and goes with the agent"

    root.write("/tmp/theirs.nft", "".join(THEIRS.values()))
    said = root.run(beside_rules("dpkg --remove hafw-host-tools hafw-agent"))
    take_out = "nft 'delete table inet hafw; delete table inet hafw-gate'"
    assert take_out in said, "the rules stay, and the administrator must know"
    assert all(unit.startswith("hafw-") for _, *units in take_calls(root) for unit in units)
    assert root.exists(str(PATHS.pair_file)), "removing is not purging"

    said = root.run(beside_rules("dpkg --purge hafw-host-tools hafw-agent"))
    # the network of the next boot stays, and how to be rid of it is said
    assert "/etc/systemd/network/60-hafw-* stay" in said
    left = of_the_firewall(root)
    stay = {path for path in left if path.startswith(f"{PATHS.network_dir}/60-hafw-")}
    assert len(stay) == len(PAIR.interfaces)
    assert {path: what for path, what in left.items() if path not in stay} == before
    # a user stays, as Debian wants it: something on this host may have its number
    (user,) = set(root.read(USERS).splitlines()) - set(users.splitlines())
    assert re.fullmatch(r"_hafw:[x!*]*:\d+:\d+:hafw channel:/:/usr/sbin/nologin", user)


def test_debian_12_becomes_debian_13(make_root: MakeRoot, built: Path) -> None:
    root = make_root(Release.BOOKWORM)
    clean = root.files()
    install(root, built)
    sources = "/etc/apt/sources.list"
    root.write(sources, root.read(sources).replace(Release.BOOKWORM.value, Release.TRIXIE.value))
    options = "-y -o DPkg::Options::=--force-unsafe-io -o DPkg::Options::=--force-confnew"
    root.run(f"apt-get update; apt-get {options} dist-upgrade", network=True)
    assert root.read("/etc/debian_version").startswith("13.")
    run_autopkgtest(root, "superficial")
    root.run("dpkg --purge hafw-host-tools hafw-agent")
    ours = [path for path in root.files().keys() - clean.keys() if "hafw" in path]
    assert not ours, "byte-code of the old Python, for example"
