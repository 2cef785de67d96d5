# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `hafw`, as a process: what it prints, its exit status, and never a traceback."""

import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.cli.main import ROLES, find_host, main
from agent.cli.status_text import exit_status, to_text
from agent.config.loader import parse
from agent.core.actions import Timer
from agent.core.events import TimerFired
from agent.core.machine import TRANSITIONS
from agent.core.moves import EventKind, Make
from agent.core.plan import Settings
from agent.core.roles import Role
from agent.core.state import Phase
from agent.model import schema
from agent.model.pair import SyncMode
from tests.checkout import ROOT
from tests.unit.agent.cli.hafw_run import LIMIT_S, PAIR, hafw
from tests.unit.agent.core.world import World
from tests.unit.agent.small_pair import SMALL

# an empty /run and /var/log, so that no agent of this machine answers
EMPTY = "mount -t tmpfs none /run && mount -t tmpfs none /var/log && exec"

needs_root = pytest.mark.root(reason="needs a mount namespace of root's")


EACH_VERB = [
    ("check", PAIR),
    ("check", "/nonexistent/\x1bhafw.yaml"),
    *(
        ("render", what, PAIR, "--node", "fw-1")
        for what in ("keepalived", "conntrackd", "modules", "networkd", "nftables", "sysctl")
    ),
    ("render", "keepalived", PAIR, "--node", "fw-3"),
    ("plan", "backup", "primary", "--file", PAIR),
    ("plan", "primary", "fault", "--file", PAIR, "--json"),
    ("plan", "king", "queen"),
    ("history", "-n", "x"),
    ("--help",),
    ("--version",),
    ("rules", "show", "--file", PAIR),
    (),
    (b"\xff\xfe",),
]


@pytest.mark.parametrize("arguments", EACH_VERB, ids=lambda arguments: repr(arguments)[:40])
def test_a_start_of_its_own_makes_no_difference(arguments: tuple[str | bytes | Path, ...]) -> None:
    """Each verb brings all the modules that it needs."""
    started, forked = hafw(*arguments, start=True), hafw(*arguments)
    assert (started.returncode, started.stdout, started.stderr) == (
        forked.returncode,
        forked.stdout,
        forked.stderr,
    )


def test_a_status_loads_nothing_of_the_agent() -> None:
    """On a busy machine the user waits for every module."""
    program = (
        "import sys\nfrom agent.__main__ import main\nmain(['status'])\n"
        "heavy = {'asyncio', 'yaml', 'agent.engine.loop', 'agent.engine.status', 'dbus_next', 'nftables'}\n"
        "sys.exit(f'loaded: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    argv = ["/usr/bin/python3", "-P", "-c", program]
    done = subprocess.run(argv, env={"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr.decode()


def test_check_of_a_good_file() -> None:
    done = hafw("check", PAIR)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"{PAIR} is good: pair G1, nodes fw-1 and fw-2, direct mode\n"


def test_check_warns_of_what_never_takes_effect(tmp_path: Path) -> None:
    file = tmp_path / "pair.yaml"
    file.write_text(f"{SMALL}policy:\n  - {{from: client, to: self, drop: [ping]}}\n")
    done = hafw("check", str(file))
    assert done.returncode == 0
    good, warning = done.stdout.decode().splitlines()
    assert good.startswith(f"{file} is good")
    assert warning.startswith("warning: policy[0]: does nothing to ping")
    assert warning.endswith("is always accepted (line 11)")


def test_check_warns_of_management_that_believes_any_source(tmp_path: Path) -> None:
    file = tmp_path / "pair.yaml"
    text = SMALL.replace("zone: client,", "zone: client, no_source_check: two uplinks,")
    file.write_text(f"{text}management: {{from: [client], services: [ssh, dns]}}\n")
    done = hafw("check", str(file))
    assert done.returncode == 0
    warning = done.stdout.decode().splitlines()[1]
    assert warning.startswith("warning: interfaces.eth1.no_source_check: management by dns")


def test_check_says_everything_that_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(PAIR.read_text().replace("vrid: 62", "vrid: 620").replace("mode: direct", "mode: magic"))
    done = hafw("check", bad)
    assert (done.returncode, done.stdout) == (2, b"")
    lines = done.stderr.decode().splitlines()
    assert lines[0] == f"hafw: {bad} cannot be used:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["interfaces.eth0.vrid", "sync.mode"]


FILES: dict[str, bytes] = {
    "empty": b"",
    "no YAML": b"{[",
    "no text": b"\xff\xfe\x00",
    "NUL": b"version: 1\x00",
    "a list": b"- 1\n",
    "deep": b"[" * 20_000,
    "a bomb": b"a: &a [x, x]\n"
    + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 120)),
    "long": b"# " + b"x" * 5_000_000,
    "an object": b"!!python/object/apply:os.system ['touch /tmp/never']\n",
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize(
    "command", [("check",), ("render", "keepalived"), ("plan", "backup", "primary", "--file")]
)
def test_files_that_are_no_pair_files(tmp_path: Path, command: tuple[str, ...], what: str) -> None:
    path = tmp_path / "pair.yaml"
    path.write_bytes(FILES[what])
    done = hafw(*command, path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(f"hafw: {path} cannot be used:\n".encode())


@pytest.mark.parametrize("path", ["/nonexistent/hafw.yaml", "/", "/dev/null", "/dev/zero", "-", "x" * 300])
def test_places_where_no_pair_file_is(path: str) -> None:
    done = hafw("check", f"./{path}" if path == "-" else path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"cannot be used" in done.stderr


def test_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\n.yaml"
    shutil.copy(os.fsencode(PAIR), path)
    assert hafw("check", path).returncode == 0
    assert (
        hafw("check", path, env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}).returncode
        == 0
    )
    assert hafw("check", path + b"\xfe").returncode == 2


def test_help_shows_examples() -> None:
    done = hafw("--help")
    assert done.returncode == 0
    assert b"hafw check hafw.yaml" in done.stdout


@pytest.mark.parametrize(
    ("what", "word"),
    [("keepalived", b"vrrp_instance"), ("conntrackd", b"Mode FTFW"), ("sysctl", b"net/ipv4/ip_forward")],
)
def test_render(what: str, word: bytes) -> None:
    one, two = (hafw("render", what, PAIR, "--node", node) for node in ("fw-1", "fw-2"))
    for done in (one, two):
        assert (done.returncode, done.stderr) == (0, b"")
        assert word in done.stdout
    assert one.stdout != two.stdout


@pytest.mark.parametrize("node", ["fw-3", "", "../fw-1", "fw-1\n", "FW-1"])
def test_a_node_that_is_none(node: str) -> None:
    done = hafw("render", "keepalived", PAIR, "--node", node)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"is not a node of pair G1 (fw-1 and fw-2 are); name the node with --node" in done.stderr
    done = hafw("plan", "backup", "primary", "--file", PAIR, "--node", node)
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_terminal_obeys_no_files_name(tmp_path: Path) -> None:
    name = tmp_path / "\x1b[31mred\x9b2J"
    assert b"\\x1b[31mred\\x9b2J" in hafw("check", name).stderr
    name.write_bytes(PAIR.read_bytes())
    done = hafw("check", name)
    assert done.returncode == 0
    assert b"\\x1b[31mred\\x9b2J" in done.stdout


@pytest.mark.parametrize("after", ["primary", "master", "backup", "fault", "stop", "stopped"])
@pytest.mark.parametrize("before", ["backup", "primary", "fault", "stopped"])
def test_plan(before: str, after: str) -> None:
    text = hafw("plan", before, after, "--file", PAIR)
    assert text.returncode == 0
    assert text.stdout.startswith(f"{before} -> {after}, direct mode\n".encode())
    plan = json.loads(hafw("plan", before, after, "--file", PAIR, "--json").stdout)
    assert set(plan) == {"at_once", "when_settled"}
    described = [action["text"] for part in plan.values() for action in part]
    steps = text.stdout.decode().splitlines()[1:]
    assert [line.partition(". ")[2] for line in steps if ". " in line] == described
    first = [action["text"] for action in plan["at_once"]][:3]
    if ROLES[after] is ROLES[before]:
        assert described == []
    elif ROLES[after] is Role.PRIMARY:
        assert first[0].startswith("give announced connections (FTP and the like) the translation")
        assert first[1].startswith("open the gate")
    else:
        assert first[0].startswith("close the gate")


def printed_plan(capfd: pytest.CaptureFixture[str], before: str, after: str, file: Path = PAIR) -> list[str]:
    capfd.readouterr()
    assert main(["plan", before, after, "--file", str(file)]) == 0
    head, *steps = capfd.readouterr().out.splitlines()
    assert head.startswith(f"{before} -> {after}, ")
    return steps


@pytest.mark.parametrize("mode", SyncMode, ids=lambda mode: mode.value)
def test_a_plan_is_what_the_machine_does(
    mode: SyncMode, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pair.yaml"
    file.write_text(PAIR.read_text().replace("  mode: direct", f"  mode: {mode.value}"))
    settings = Settings.of(parse(file.read_text()), 30.0)
    assert settings.mode is mode
    for before, after in itertools.product(ROLES, repeat=2):
        world = World(settings)
        world.start()
        world.run_dry()
        world.see(ROLES[before])
        world.run_dry()
        world.timers.clear()
        world.see(ROLES[after])
        plan = list(world.plan)
        world.work()
        if Timer.SETTLE in world.timers:
            world.handle(TimerFired(world.tick(1.0), Timer.SETTLE))
            plan += world.plan
        steps = [f"{number:3}. {action.describe()}" for number, action in enumerate(plan, 1)]
        nothing = ["nothing is done: the role stays the same"]
        assert printed_plan(capfd, before, after, file) == (steps or nothing), (before, after)


def test_another_line_of_the_table_is_another_plan(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        (("backup", "primary"), (Phase.FOLLOWING, EventKind.PROMOTED), (Phase.HOLDING, Make.HOLD)),
        (("backup", "primary"), (Phase.SERVING, EventKind.SETTLED), (Phase.SERVING, Make.REFRESH)),
        (("primary", "backup"), (Phase.SERVING, EventKind.DEMOTED), (Phase.START, Make.START)),
        (("fault", "backup"), (Phase.FOLLOWING, EventKind.SETTLED), (Phase.FOLLOWING, Make.NOT_READY)),
        (("backup", "primary"), (Phase.PREPARING, EventKind.OPENED), (Phase.PREPARING, Make.OPEN)),  # no end
    ]
    for roles, line, target in lines:
        before = printed_plan(capfd, *roles)
        with monkeypatch.context() as patch:
            patch.setitem(TRANSITIONS, line, target)
            assert printed_plan(capfd, *roles) != before, line


@needs_root
def test_status_without_an_agent_is_unknown_to_a_monitor() -> None:
    done = hafw("status", prefix=EMPTY)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(b"hafw: the agent at /run/hafw/control.sock does not answer")
    done = hafw("status", "--json", prefix=EMPTY)
    assert done.returncode == 3
    answer = json.loads(done.stdout)
    assert answer["error"].startswith("the agent at ")
    assert answer["schema"] == schema.STATUS, "not that of an agent's answer"
    assert done.stderr == b""


@needs_root
def test_what_status_advises_can_be_done() -> None:
    """The unit is skipped without a pair file, and only root may ask."""
    no_pair = "mount -t tmpfs none /etc && mount -t tmpfs none /var/lib && " + EMPTY
    done = hafw("status", prefix=no_pair)
    assert done.returncode == 3
    assert b"write the pair file first" in done.stderr
    kept = no_pair.replace("exec", "mkdir -p /var/lib/hafw/generations/1.json && exec")
    assert b"systemctl restart hafw-agent" in hafw("status", prefix=kept).stderr


@needs_root
def test_an_ordinary_user_sees_who_may_read_the_history() -> None:
    drop = "exec setpriv --reuid=65534 --regid=65534 --clear-groups"
    if subprocess.run([*drop.split()[1:], "test", "-r", PAIR]).returncode != 0:
        pytest.skip("an ordinary user cannot read this checkout")
    files = EMPTY.replace("exec", f"mkdir -m 700 /var/log/hafw && {drop}")
    journal = EMPTY.replace(
        "exec", f"mkdir -p /run/systemd/journal && touch /run/systemd/journal/socket && {drop}"
    )
    for prefix in (files, journal):
        done = hafw("history", prefix=prefix)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"run as root" in done.stderr


@needs_root
def test_an_ordinary_user_sees_who_may_read_the_generations() -> None:
    drop = "exec setpriv --reuid=65534 --regid=65534 --clear-groups"
    if subprocess.run([*drop.split()[1:], "test", "-r", PAIR]).returncode != 0:
        pytest.skip("an ordinary user cannot read this checkout")
    kept = "mount -t tmpfs none /var/lib && " + EMPTY.replace(
        "exec", f"mkdir -p /var/lib/hafw && mkdir -m 700 /var/lib/hafw/generations && {drop}"
    )
    for arguments in ([], ["1"], ["--json"]):
        done = hafw("rules", "generations", *arguments, prefix=kept)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"Permission denied; run as root" in done.stderr


@needs_root
def test_history_of_nothing_and_of_garbage() -> None:
    done = hafw("history", prefix=EMPTY)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert hafw("history", "--json", prefix=EMPTY).stdout == b""
    record = {"t": "now", "event": "alarm", "message": "\x1b[2Jä", "transition": "abc", "duration_ms": 1.25}
    line = json.dumps(record)
    garbage = f"mkdir /var/log/hafw && printf '%s\\n' garbage '{line}' > /var/log/hafw/agent.jsonl && exec"
    prefix = EMPTY.replace("exec", garbage)
    done = hafw("history", "-n", "5", prefix=prefix)
    assert done.returncode == 0
    assert "! ?[2Jä" in done.stdout.decode()
    assert json.loads(hafw("history", "--json", prefix=prefix).stdout) == record
    # a terminal that cannot show everything
    assert hafw("history", prefix=prefix, env={"PYTHONIOENCODING": "ascii"}).returncode == 0


@needs_root
@pytest.mark.parametrize("command", ["agent", "settle"])
def test_a_pair_file_or_a_place_that_is_missing(command: str) -> None:
    done = hafw(command, prefix="mount -t tmpfs none /etc && " + EMPTY)
    assert done.returncode == 2
    assert b"/etc/hafw/hafw.yaml cannot be used" in done.stderr
    unwritable = EMPTY.replace("none /run", "-o ro none /run")
    done = hafw(command, "--file", PAIR, "--node", "fw-1", prefix=unwritable)
    assert done.returncode == 1
    assert done.stderr.startswith(b"hafw: cannot make /run/hafw: ")


@needs_root
@pytest.mark.parametrize("command", ["agent", "settle"])
def test_an_ordinary_user_sees_that_root_is_needed(command: str) -> None:
    drop = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    if subprocess.run([*drop.split(), "test", "-r", PAIR]).returncode != 0:
        pytest.skip("an ordinary user cannot read this checkout")
    prefix = EMPTY.replace("exec", f"mkdir /run/hafw && exec {drop}")
    done = hafw(command, "--file", PAIR, "--node", "fw-1", prefix=prefix)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"run as root" in done.stderr


@needs_root
def test_two_agents_on_one_node() -> None:
    held = (
        "mkdir /run/hafw && exec 9>>/run/hafw/agent.lock && echo 4711 >&9 && flock 9 && HAFW_WAIT=0 && exec"
    )
    program = (
        "import sys; from agent.cli import main; from agent.engine import agent; agent.LOCK_WAIT_S = 0.1"
    )
    program += "; sys.exit(main.main(sys.argv[1:]))"
    argv = [
        "unshare",
        "-mn",
        "/bin/sh",
        "-c",
        EMPTY.replace("exec", held) + ' "$@"',
        "sh",
        "/usr/bin/python3",
        "-P",
    ]
    argv += ["-c", program, "agent", "--file", str(PAIR), "--node", "fw-1"]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 1
    assert (
        done.stderr
        == "hafw: another hafw (process 4711) is running on this node; only one can run at a time\n"
    )


@pytest.mark.parametrize(
    ("host", "nodes", "found"),
    [
        ("fw-1", ("fw-1", "fw-2"), "fw-1"),
        ("fw-1.example.net", ("fw-1", "fw-2"), "fw-1"),
        ("fw-1.example.net", ("fw-1.example.net", "fw-2.example.net"), "fw-1.example.net"),
        ("fw-1", ("fw-1.example.net", "fw-2.example.net"), "fw-1.example.net"),
        ("fw.site-a", ("fw.site-a", "fw.site-b"), "fw.site-a"),
        ("fw.site-b", ("fw.site-a", "fw.site-b"), "fw.site-b"),
        ("fw", ("fw.site-a", "fw.site-b"), "fw"),
        ("fw.site-c", ("fw.site-a", "fw.site-b"), "fw.site-c"),
        ("fw-1.example.org", ("fw-1.example.net", "fw-2.example.net"), "fw-1.example.org"),
        ("other", ("fw-1", "fw-2"), "other"),
    ],
)
def test_the_node_that_a_host_is(host: str, nodes: tuple[str, str], found: str) -> None:
    text = PAIR.read_text().replace("fw-1", "FIRST").replace("fw-2", nodes[1]).replace("FIRST", nodes[0])
    assert find_host(parse(text), host) == found


def test_a_full_disk_behind_the_output() -> None:
    with Path("/dev/full").open("wb") as full:
        done = hafw("render", "keepalived", PAIR, "--node", "fw-1", stdout=full.fileno())
    assert done.returncode == 1
    assert done.stderr == b"hafw: cannot write the answer: No space left on device\n"


VALUES = {
    "schema": 1, "pair": "G1", "node": "fw-1", "peer": "fw-2", "role": "backup", "role_seconds": 5.0,
    "phase": "following", "gate": "closed", "problems": {},
    "keepalived": {"alive": True, "addresses": [], "orphaned": [], "bus": "heard", "bus_states": ["BACKUP"]},
    "rules": {
        "wanted": "backup", "loaded": "backup", "hash": "abc", "intact": True, "drift": None, "counters": {},
    },
    "states": {"mode": "direct", "kernel": 3, "error": "conntrackd is gone"},
    "last_transition": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0),
        ({"role": "primary", "gate": "open"}, 0),
        ({"role": "primary"}, 2),
        ({"role": "fault"}, 1),
        ({"role": "stopped"}, 1),
        ({"problems": {"bus": "it is gone"}}, 1),
        ({"problems": {"configuration": "it is bad"}}, 2),
        ({"rules": {"wanted": "backup", "error": "nft is gone"}}, 2),
        ({"rules": {**VALUES["rules"], "intact": False, "drift": "a rule is missing"}}, 2),  # type: ignore[dict-item]
    ],
)
def test_exit_status_of_status(changes: dict[str, object], expected: int) -> None:
    values = {**VALUES, **changes}
    assert exit_status(values) == expected
    assert "fw-1 of pair G1" in to_text(values)


NODE = {
    "role": "backup", "role_s": 5.0, "gate": "closed", "problems": ["sync-link"], "keepalived": ["BACKUP"],
    "ready": True, "states": {"all": 7, "tcp": 5}, "pair_file": "8a89607e4dd8", "rules": "", "generation": 3,
    "maintenance": "", "versions": {"kernel": "6.1", "nft": "1.0.6"}, "clock_s": 1_800_000_000.5,
    "heard": ["eth2", "eth0"], "heard_seconds_ago": 0.3,
}  # fmt: skip


def test_status_shows_both_nodes_side_by_side() -> None:
    other = {**NODE, "role": "primary", "gate": "open", "generation": None, "clock_s": 1e15}
    text = to_text({**VALUES, "nodes": {"fw-1": NODE, "fw-2": other}})
    rows = {line[2:13].strip(): re.split(" {2,}", line[14:].strip()) for line in text.splitlines()[1:]}
    assert rows["pair"] == ["fw-1 (this node)", "fw-2 (0.3 s ago)"]
    assert rows["role"] == ["backup for 5 s", "primary for 5 s"]
    assert rows["gate"] == ["closed", "open"]
    assert rows["states"] == ["all 7, tcp 5"] * 2
    assert rows["generation"] == ["3", "unknown"]
    assert rows["clock"] == ["2027-01-15 08:00:00 UTC", "unknown"]
    assert rows["versions"] == ["kernel 6.1, nft 1.0.6"] * 2
    assert rows["rules"] == ["unknown"] * 2
    assert rows["heard by"] == ["eth2, eth0"] * 2


def test_status_without_a_word_of_the_other_node() -> None:
    text = to_text({**VALUES, "nodes": {"fw-1": NODE, "fw-2": None}})
    assert "nothing was heard from the agent of fw-2 yet" in text


@pytest.mark.parametrize("text", ["yesterday", "", "9" * 400 + "d", "2026-13-01"])
def test_a_history_since_no_time(text: str) -> None:
    done = hafw("history", f"--since={text}")
    assert done.returncode == 2
    assert b"invalid time '" in done.stderr
    assert b"; write 2h, 30min, 7d or 2026-01-31 13:00" in done.stderr


def test_a_pipe_that_breaks_inside_of_the_agent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of the answer: without a word and with status 1, as if its reader were gone, an agent ended."""

    def break_it(_arguments: object, _paths: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("agent.cli.main.run_agent", break_it)
    with pytest.raises(BrokenPipeError):
        main(["agent"])
