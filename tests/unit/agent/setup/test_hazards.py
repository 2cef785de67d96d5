# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw setup` on a node of a pair at work: no way to two primaries is printed, what goes is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import loader
from agent.errors import HafwError
from agent.model.pair import Pair
from agent.render import conntrackd, keepalived
from agent.setup.blocks import NotUnderstoodError, parse_blocks
from agent.setup.foreign import unfit_for_agent, what_would_go
from agent.setup.hazards import Hazards, advice_for_both, refuse_hazards
from agent.setup.wire import wire_differences
from tests.checkout import GOLDEN
from tests.unit.agent.setup.setup_run import PAIR, PATHS, files_in, install, setup, write
from tests.unit.agent.setup.setup_run import PAIR_FILE as FILE

KEEPALIVED = "etc/keepalived/keepalived.conf"
CONNTRACKD = "etc/conntrackd/conntrackd.conf"
NEW = keepalived.render(PAIR, "fw-1", PATHS)
NEW_CONNTRACKD = conntrackd.render(PAIR, "fw-1", PATHS)
OF_OTHERS = """
virtual_server 10.10.10.2 1358 {
    real_server 192.168.200.2 1358 {
    }
}
vrrp_instance VI_office
{
    interface eth9
    virtual_router_id 7
    virtual_ipaddress { 10.9.9.9/24
    }
}
"""
AGED = (  # as it stands beside conntrackd's own example, for the interfaces of our pair
    """! Configuration File for keepalived
vrrp_sync_group G1 {   # must be before vrrp_instance declaration
  group {
    VI_1
  }
  notify_master "/etc/conntrackd/primary-backup.sh primary"
  notify_backup "/etc/conntrackd/primary-backup.sh backup"
}
vrrp_instance VI_1 {
    interface eth1
    state MASTER
    virtual_router_id 61
    priority 80
    advert_int 3
    authentication {
      auth_type PASS
      auth_pass papas_con_tomate
    }
    virtual_ipaddress {
        192.168.2.100/24
    }
}
vrrp_instance VI_2 {
    interface eth0
    virtual_router_id 62
    virtual_ipaddress {
        192.168.0.100
    }
    unicast_peer {
        192.168.0.2
    }
}
"""
    + OF_OTHERS
)
AGED_CONNTRACKD = """
Sync {
    Mode NOTRACK { }
    Multicast {
        IPv4_address 225.0.0.50
        Group 3780
        Interface eth2
    }
}
General {
    HashSize 8192
    PollSecs 15
    Filter From Userspace {
        Protocol Accept {
            TCP
        }
    }
}
"""


def refused(root: Path, *arguments: str) -> str:
    """What is said by a run that writes nothing."""
    before = files_in(root)
    done = setup(root, "--file", FILE, "--node", "fw-1", "--yes", *arguments)
    assert done.returncode == 1
    assert files_in(root) == before
    assert "systemctl" not in done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_no_procedure_that_makes_two_primaries(tmp_path: Path) -> None:
    write(tmp_path, KEEPALIVED, AGED)
    replacing = ("--replace", "keepalived.conf")
    said = refused(tmp_path, *replacing)
    for difference in (
        "virtual router 61 on eth1 (IPv4): VRRP version: 2 in the existing file, 3 in the new one",
        "virtual router 61 on eth1 (IPv4): authentication: PASS in the existing file, none in",
        "virtual router 61 on eth1 (IPv4): advert_int: 3 s in the existing file",
        "virtual router 62 on eth0 (IPv4): sent to: 192.168.0.2 in the existing file, 224.0.0.18",
        "both be primary",
        "--both-together",
    ):
        assert difference in said
    shown = setup(tmp_path, "--file", FILE, "--node", "fw-1", "--dry-run", *replacing)
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "VRRP version: 2 in the existing file" in shown.stdout
    assert "--drop-others" in refused(tmp_path, *replacing, "--both-together")
    done = install(tmp_path, "fw-1", *replacing, "--both-together", "--drop-others")
    assert "backup first" not in done.stdout
    assert (tmp_path / KEEPALIVED).read_text() == NEW


def test_what_goes_is_named(tmp_path: Path) -> None:
    write(tmp_path, KEEPALIVED, NEW.replace("# hafw", "# by hand\n# hafw", 1) + OF_OTHERS)
    said = refused(tmp_path, "--replace", "keepalived.conf")
    assert "virtual_server 10.10.10.2 1358 (line" in said
    assert "vrrp_instance VI_office (line" in said
    assert "both be primary" not in said
    values = json.loads(
        install(tmp_path, "fw-1", "--json", "--replace", "keepalived.conf", "--drop-others").stdout
    )
    assert "virtual_server" in values["notes"][0]


def test_a_change_of_the_pair_file_is_no_less_of_a_change(tmp_path: Path) -> None:
    """keepalived with one address more does not understand one with one less."""
    install(tmp_path)
    more = FILE.read_text().replace("192.168.2.100/24", "[192.168.2.100/24, 192.168.2.101/24]")
    assert more != FILE.read_text()
    write(tmp_path, "etc/hafw/hafw.yaml", more)
    done = setup(tmp_path, "--node", "fw-1", "--yes")
    assert done.returncode == 1
    assert "192.168.2.100 in the existing file, 192.168.2.100, 192.168.2.101 in the new one" in done.stderr


def test_a_file_of_hafw_with_another_wait_is_as_ever(tmp_path: Path) -> None:
    install(tmp_path)
    text = (tmp_path / KEEPALIVED).read_text().replace("advert_int 0.1", "advert_int 0.3")
    write(tmp_path, KEEPALIVED, text)
    assert install(tmp_path).returncode == 0


def test_a_node_that_speaks_nothing_yet_is_no_danger(tmp_path: Path) -> None:
    write(tmp_path, KEEPALIVED, "global_defs {\n router_id x\n}\n")
    write(tmp_path, CONNTRACKD, "General {\n HashSize 8192\n}\nStats {\n LogFile on\n}\n")
    install(tmp_path, "fw-1", "--replace", "keepalived.conf", "--replace", "conntrackd.conf")


@pytest.mark.parametrize(
    "line",
    [
        "include /etc/keepalived/more.conf",
        "includer more.conf",
        "$VIP=10.0.0.1",
        "@high priority 200",
        'notify "half',
        "}",
        "vrrp_instance x {",
        "vrrp_instance x {\nvirtual_ipaddress {\n${VIP}\n}\n}",
        "vrrp_instance x {\nvirtual_ipaddress {\n10.0.0.300\n}\n}",
        "{ " * 1000,
    ],
)
def test_what_is_not_understood_is_not_called_safe(tmp_path: Path, line: str) -> None:
    write(tmp_path, KEEPALIVED, f"{NEW.replace('# hafw', '# by hand', 1)}\n{line}\n")
    assert "cannot be parsed: line" in refused(tmp_path, "--replace", "keepalived.conf")
    kept = install(tmp_path).stdout
    assert "cannot be parsed: line" in kept


def test_replication_that_the_peer_would_not_hear(tmp_path: Path) -> None:
    write(tmp_path, CONNTRACKD, AGED_CONNTRACKD)
    said = refused(tmp_path, "--replace", "conntrackd.conf")
    assert "replication mode: NOTRACK in the existing file, FTFW in the new one" in said
    assert (
        "replicated over: Multicast 225.0.0.50 port 3780 on eth2 in the existing file,"
        " UDP 192.168.1.2 port 3780 on eth2 in the new one"
    ) in said
    install(tmp_path, "fw-1", "--replace", "conntrackd.conf", "--both-together")


def test_the_port_of_the_pair_file_is_one_of_both(tmp_path: Path) -> None:
    other = replace(PAIR, sync=replace(PAIR.sync, port=3781))
    assert wire_differences("conntrackd.conf", conntrackd.render(other, "fw-1", PATHS), NEW_CONNTRACKD)
    privileged = conntrackd.render(PAIR, "fw-1", PATHS, privileged=False)
    assert wire_differences("conntrackd.conf", privileged, NEW_CONNTRACKD) == ()


def test_what_a_keepalived_conf_that_stays_does_against_the_agent(tmp_path: Path) -> None:
    aged = f"{AGED}global_defs {{\n vrrp_notify_fifo_script /usr/local/sbin/other\n}}\n"
    write(tmp_path, KEEPALIVED, aged)
    said = install(tmp_path).stdout
    for line in (
        "remove vrrp_notify_fifo_script /usr/local/sbin/other",
        "remove notify_master /etc/conntrackd/primary-backup.sh primary (line 6) from vrrp_sync_group G1",
        "remove notify_backup",
        "write state BACKUP in vrrp_instance VI_1",
        "put vrrp_instance VI_2 (line 23) into the group of the pair",
    ):
        assert line in said, line
    # what is no part of the pair is nobody's business
    assert "put vrrp_instance VI_office" not in said
    assert (tmp_path / KEEPALIVED).read_text() == aged


def test_what_a_conntrackd_conf_that_stays_does_against_the_agent(tmp_path: Path) -> None:
    write(tmp_path, CONNTRACKD, AGED_CONNTRACKD)
    said = install(tmp_path).stdout
    for line in (
        "write Mode FTFW instead of Mode NOTRACK (line 3)",
        "put the UDP block in the place of Multicast (line 4)",
        "write HashSize 65536 instead of 8192",
        "remove PollSecs 15 (line 12)",
        "the Filter keeps UDP, SCTP, ICMP, IPv6-ICMP from the peer",
        "IPv4_Destination_Address 192.168.1.2",  # among the lines that it needs
    ):
        assert line in said, line


def test_files_that_do_are_not_complained_about(tmp_path: Path) -> None:
    hook = str(PATHS.hook)
    for name, text in (("keepalived.conf", NEW), ("conntrackd.conf", NEW_CONNTRACKD)):
        assert unfit_for_agent(name, text, text, hook) == ()
        assert wire_differences(name, text, text) == ()
    assert what_would_go(NEW, NEW) == ()
    assert unfit_for_agent("conntrackd.conf", "", NEW_CONNTRACKD, hook)


def test_every_kind_of_pair_speaks_with_itself(pairs: list[Pair]) -> None:
    for pair in pairs:
        first, second = (keepalived.render(pair, node.name, PATHS) for node in pair.nodes)
        assert wire_differences("keepalived.conf", first, second) == ()


@pytest.fixture
def pairs() -> list[Pair]:
    cases = sorted((GOLDEN / "render").glob("*/hafw.yaml"))
    assert cases
    return [loader.load(case) for case in cases]


def test_words_lines_and_braces() -> None:
    text = 'a "b # c" d # e\nf\n{\n g { h 1 2\n}\n}\n'
    (first, second) = parse_blocks(text, "#").body
    assert (first.words, first.line) == (("a", "b # c", "d"), 1)
    (inner,) = second.body
    assert (second.words, inner.words, inner.body[0].words) == (("f",), ("g",), ("h", "1", "2"))
    assert parse_blocks("a!b\n", "#!").body[0].words == ("a",)
    assert parse_blocks("a!b\n", "#").body[0].words == ("a!b",)
    with pytest.raises(NotUnderstoodError, match="too large"):
        parse_blocks("a\n" * 1_000_000, "#")


def test_the_way_to_change_both_stops_both_first() -> None:
    commands = (
        ("systemctl", "restart", "conntrackd.service"),
        ("systemctl", "restart", "keepalived.service"),
    )
    said = advice_for_both(Hazards(vrrp=("x",)), commands)
    assert (
        said.index("stop keepalived.service")
        < said.index("stopped on both")
        < said.index("restart conntrackd")
    )
    said = advice_for_both(Hazards(replication=("x",)), commands)
    assert "on both" in said
    assert "stop keepalived" not in said


@pytest.mark.parametrize("hazards", [Hazards(vrrp=("x",)), Hazards(replication=("x",))])
def test_no_restart_of_one_alone(hazards: Hazards) -> None:
    refuse_hazards(hazards, both_together=True, drop_others=False, restart=False)
    with pytest.raises(HafwError, match="changed together, and --restart is for one alone"):
        refuse_hazards(hazards, both_together=True, drop_others=True, restart=True)
