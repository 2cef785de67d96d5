# SPDX-License-Identifier: GPL-2.0-or-later
"""What systemd itself says of our units, and the catalog of our records."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from agent.core.conditions import CONDITIONS, Condition
from agent.model.records import MESSAGE_IDS
from agent.paths import Paths

LARGE_POLICY_MIB = 430
"""The agent and its copy together, at their peak."""
MAX_EXPOSURE = 20
"""Tenths: 2.0."""


@pytest.fixture
def units(root: Path) -> Path:
    return root / "systemd"


def run(*argv: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def exposure(unit: Path) -> "subprocess.CompletedProcess[str]":
    return run(
        "systemd-analyze", "security", "--offline=yes", f"--threshold={MAX_EXPOSURE}", "--no-pager", unit
    )


@pytest.mark.parametrize("unit", ["hafw-agent.service", "hafw-channel.service", "hafw-rules@.service"])
def test_a_service_is_not_exposed_more_than_it_has_to_be(units: Path, unit: str) -> None:
    done = exposure(units / unit)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_line_less_would_be_seen(units: Path, tmp_path: Path) -> None:
    text = (units / "hafw-agent.service").read_text()
    worse = tmp_path / "hafw-agent.service"
    worse.write_text(
        text.replace("SystemCallFilter=@system-service\n", "").replace("ProtectSystem=strict\n", "")
    )
    assert exposure(worse).returncode != 0


PROGRAMS = (
    *("usr/sbin/hafw", "usr/sbin/nft", "usr/libexec/hafw/conntrackd-unlock"),
    *("bin/kill", "bin/sh", "bin/true"),
)


@pytest.fixture
def image(units: Path, tmp_path: Path) -> Path:
    """A root directory with our units, those of others that they name, and the programs that they start."""
    unit_dir = tmp_path / "usr/lib/systemd/system"
    unit_dir.mkdir(parents=True)
    for path in units.glob("hafw-*.*"):
        (unit_dir / path.name).write_text(path.read_text())
    for name in ("nftables", "conntrackd", "keepalived"):
        (unit_dir / f"{name}.service").write_text("[Service]\nExecStart=/bin/true\n")
    for drop_ins in units.glob("*.service.d"):
        (unit_dir / drop_ins.name).mkdir()
        (unit_dir / drop_ins.name / "hafw.conf").write_text((drop_ins / "hafw.conf").read_text())
    for name in os.listdir("/lib/systemd/system"):
        if name.endswith((".target", ".slice", ".socket")) and not (unit_dir / name).exists():
            (unit_dir / name).write_bytes(Path("/lib/systemd/system", name).read_bytes())
    for program in PROGRAMS:
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).touch(0o755)
    return tmp_path


OURS = (
    *("hafw-agent.service", "hafw-agent.socket", "hafw-boot.service"),
    *("hafw-channel.service", "hafw-channel.socket"),
    *("hafw-rules@.service", "hafw-rules.socket"),
    *("conntrackd.service", "keepalived.service"),
)


def verify(image: Path) -> str:
    """What systemd-analyze finds wrong with our units."""
    done = run("systemd-analyze", "verify", "--man=no", f"--root={image}", *OURS)
    named = re.compile("hafw|keepalived|conntrackd")
    ours = [line for line in (done.stdout + done.stderr).splitlines() if named.search(line)]
    return "\n".join(ours) or ("" if done.returncode == 0 else done.stderr)


def test_the_units_are_right(image: Path) -> None:
    assert verify(image) == ""


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("hafw-agent.service", "RestartSecs=1"),
        ("hafw-agent.service", "ExecStartPre=/usr/sbin/not-there"),
        ("hafw-agent.socket", "ListenDatagramm=/run/x"),
        ("conntrackd.service.d/hafw.conf", "WatchdogSecs=120s"),
    ],
)
def test_a_wrong_line_would_be_seen(image: Path, unit: str, line: str) -> None:
    path = image / "usr/lib/systemd/system" / unit
    section = "[Socket]\n" if unit.endswith(".socket") else "[Service]\n"
    path.write_text(path.read_text().replace(section, f"{section}{line}\n"))
    assert verify(image) != ""


def test_units_and_code_mean_the_same_places(units: Path) -> None:
    paths = Paths()
    socket, service = (units / name for name in ("hafw-agent.socket", "hafw-agent.service"))
    assert f"ListenDatagram={paths.notify_socket}\n" in socket.read_text()
    assert f"d {paths.run_dir} 0755 root root" in (units / "tmpfiles.d/hafw.conf").read_text()
    assert f"ReadWritePaths=-{paths.state_dir} -{paths.pair_file.parent}\n" in service.read_text()
    assert f"d {paths.state_dir} 0700 root root" in (units / "tmpfiles.d/hafw.conf").read_text()
    channel = units / "hafw-channel.socket"
    assert f"ListenSequentialPacket={paths.channel_socket}\n" in channel.read_text()
    for path in (socket, service, units / "hafw-boot.service", channel):
        # the agent starts with the last good generation of a pair file that has gone
        conditions = re.findall("^Condition(.*)$", path.read_text(), re.MULTILINE)
        generations = paths.state_dir / "generations"
        assert conditions == [f"PathExists=|{paths.pair_file}", f"DirectoryNotEmpty=|{generations}"], path


def test_the_agent_has_a_wall_that_no_large_policy_reaches(units: Path) -> None:
    (most,) = re.findall(
        r"^MemoryMax=(\d+)([MG])$", (units / "hafw-agent.service").read_text(), re.MULTILINE
    )
    assert int(most[0]) * {"M": 1, "G": 1024}[most[1]] >= 2 * LARGE_POLICY_MIB


def catalog_entries(units: Path) -> dict[str, str]:
    _, *parts = re.split(r"^-- ([0-9a-f]{32})$", (units / "hafw.catalog").read_text(), flags=re.MULTILINE)
    assert len(parts[::2]) == len(set(parts[::2])), "an entry is there twice: journalctl shows one of them"
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_catalog_has_every_kind_of_record_and_no_other(units: Path) -> None:
    assert sorted(catalog_entries(units)) == sorted(MESSAGE_IDS.values())


def test_the_catalog_says_what_to_do_about_every_condition(units: Path) -> None:
    text = (units / "hafw.catalog").read_text()
    missing = [one.value for one in Condition if not re.search(rf"^{one.value} ", text, re.MULTILINE)]
    assert missing == []


def test_the_manual_has_every_condition_with_its_exit_status(root: Path) -> None:
    manual = (root / "packaging" / "debian" / "man" / "hafw-agent.8").read_text()
    told = re.findall(r"^\.It Cm ([a-z-]+) Pq ([0-9])$", manual, re.MULTILINE)
    assert told == [(one.value, str(line.severity.value)) for one, line in CONDITIONS.items()]


def test_journalctl_reads_the_catalog(units: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "usr/lib/systemd/catalog"
    catalog.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    (catalog / "hafw.catalog").write_text((units / "hafw.catalog").read_text())
    done = run("journalctl", f"--root={tmp_path}", "--update-catalog")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    listed = run("journalctl", f"--root={tmp_path}", "--list-catalog", "--no-pager")
    assert listed.returncode == 0, listed.stderr
    found = dict(re.findall(r"^([0-9a-f]{32}) (hafw: .+)$", listed.stdout, re.MULTILINE))
    assert sorted(found) == sorted(MESSAGE_IDS.values())
    dumped = run("journalctl", f"--root={tmp_path}", "--dump-catalog", "--no-pager").stdout
    for identity, text in catalog_entries(units).items():
        assert text.strip().splitlines()[-1] in dumped, identity
