# SPDX-License-Identifier: GPL-2.0-or-later
"""The running of a machine without anything to boot: qemu, its descriptors, its user, its end."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from hafw_lab import lab_directory
from hafw_lab.client import registry
from hafw_lab.doctor import examine
from tests.checkout import ROOT
from tests.netns.tiny_machine import WORD

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        os.geteuid() != 0 and not os.access("/dev/net/tun", os.W_OK),
        reason="/dev/net/tun is closed to ordinary users here",
    ),
]
NOBODY = 65534
PATIENCE_S = 60
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}:{ROOT / 'host-tools'}",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class Tiny:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def hear(self) -> dict[str, Any]:
        """The next thing that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it ended early"
        found: dict[str, Any] = json.loads(line)
        return found

    def resume(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Tiny]:
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    program = ["/usr/bin/python3", "-P", "-m", "tests.netns.tiny_machine", str(tmp_path)]
    argv = ["unshare", *user, "--net", *program]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, env=ENVIRONMENT
    ) as process:
        try:
            yield Tiny(process)
        finally:
            process.kill()


def wait_end(pid: int) -> None:
    """Until a process that is nobody's child here is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ended = poll.poll(PATIENCE_S * 1000)
    os.close(descriptor)
    assert ended, "qemu outlives its supervisor"


def test_a_machine_lives_and_dies(tiny: Tiny) -> None:
    started = tiny.hear()
    user = os.stat(f"/proc/{started['ran']}").st_uid
    assert user == (NOBODY if os.geteuid() == 0 else os.geteuid())
    shown = tiny.hear()
    assert "tiny.eth0" in shown["ports"]
    assert "master br0 state forwarding" in shown["ports"]
    assert bytes.fromhex(shown["initrd"]) == b"abc\0seed", "each archive begins at a multiple of four bytes"
    assert tiny.hear() == {"down": ["eth0"], "paused": True, "alive": True}
    tiny.resume()
    assert tiny.hear() == {"kept": True}
    assert "state disabled" in tiny.hear()["blocked"], "it falls silent before it ends"
    end = tiny.hear()
    assert "tiny does not come up: its qemu ended" in end["error"]
    assert WORD in end["error"], "the last lines of the console say where it was"
    assert end["phases"][:3] == ["disk", "qemu", "kernel"]
    assert not end["alive"]
    assert tiny.hear() == {"overlay": True}, "a cut of the power takes nothing from the disk"
    warm = tiny.hear()
    assert warm["phases"][:3] == ["disk", "qemu", "snapshot loaded"]
    assert (warm["alive"], warm["console"]) == (True, ""), (
        "it resumes where it was, and does not begin again"
    )
    assert "its qemu ended" in tiny.hear()["end"]
    assert tiny.process.wait(PATIENCE_S) == 0
    assert not Path(started["directory"]).exists()


def test_nothing_outlives_a_killed_supervisor(tiny: Tiny) -> None:
    started = tiny.hear()
    for _ in range(2):
        tiny.hear()
    assert Path(started["directory"]).is_dir()
    tiny.process.kill()
    wait_end(started["ran"])
    lab_directory.clear_crashed()
    assert not Path(started["directory"]).exists()


def test_ctrl_c_in_the_middle_of_a_boot_leaves_nothing(tmp_path: Path) -> None:
    """Also of the machines that wait for a processor, and would be next when those before them end."""
    name, processors = f"tiny-{os.getpid()}", os.cpu_count() or 1
    lab = [name, str(tmp_path), str(processors + 1)]
    program = ["/usr/bin/python3", "-P", "-m", "tests.netns.tiny_lab", *lab]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        started = islice((line for line in process.stdout if "kernel" in line), processors)
        assert len(list(started)) == processors
        (supervisor,) = find_children_of(process.pid)
        machines = find_children_of(supervisor)
        places = {Path(f"/proc/{pid}/cwd").resolve().parents[1] for pid in machines}
        assert len(places) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) != 0
    for pid in (supervisor, *machines):
        wait_end(pid)
    assert not places.pop().exists()
    assert not (registry.find_directory() / f"{name}.sock").exists()


def run_lab(*argv: str) -> subprocess.CompletedProcess[str]:
    """Through a pipe, which a program reads; nobody types anything."""
    program = ["/usr/bin/python3", "-P", "-m", "hafw_lab", *argv]
    return subprocess.run(
        program,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE_S,
    )


def test_a_lab_that_boots_is_looked_into_and_can_be_ended(tmp_path: Path) -> None:
    """A machine that does not come up is the one whose console is wanted. What changes a lab is refused."""
    name = f"boots-{os.getpid()}"
    program = ["/usr/bin/python3", "-P", "-m", "tests.netns.tiny_lab", name, str(tmp_path), "1"]
    said: list[str] = []
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert any("kernel" in line for line in process.stdout)
        named = ("--name", name)
        while WORD not in (logs := run_lab("logs", "tiny-0", "console", *named)).stdout:
            assert (logs.returncode, logs.stderr) == (0, "")
        assert WORD in run_lab("console", "tiny-0", *named).stdout, "what it had said before one looked"
        status = run_lab("status", *named)
        assert (status.returncode, status.stderr) == (3, "")
        assert "it is starting: tiny-0: kernel" in status.stdout
        assert "tiny-0     not reachable (booting?), none on" in status.stdout
        found = json.loads(run_lab("status", "--json", *named).stdout)
        assert (found["up"], found["primary"]) == (False, None)
        assert "kernel" in found["starting"]
        refused = run_lab("fail", "tiny-0", *named)
        assert f"hafw-lab: lab '{name}' is starting: tiny-0: kernel" in refused.stderr
        assert f"hafw-lab status --name {name} shows the progress" in refused.stderr
        assert refused.returncode == 1
        assert [one.text for one in examine._labs() if name in one.text] == [f"lab '{name}' is starting"]
        (supervisor,) = find_children_of(process.pid)
        registry.down(name, said.append)
        assert process.wait(PATIENCE_S) != 0
    wait_end(supervisor)
    assert said[0] == f"lab '{name}' is still starting; ending that"
    assert name not in registry.find_names()


def test_of_a_machine_that_is_not_begun_each_verb_says_so_in_a_sentence(tmp_path: Path) -> None:
    """It waits for a processor, which those before it keep busy."""
    name, processors = f"waits-{os.getpid()}", os.cpu_count() or 1
    lab = [name, str(tmp_path), str(processors + 1)]
    program = ["/usr/bin/python3", "-P", "-m", "tests.netns.tiny_lab", *lab]
    last, named = f"tiny-{processors}", ("--name", name)
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        kernels = islice((line for line in process.stdout if "kernel" in line), processors)
        assert len(list(kernels)) == processors
        for verb, *words in (
            ["view", "--print", last],
            ["screenshot", last],
            ["console", last],
            ["shell", last],
            ["logs", last],
            ["logs", last, "console"],
            ["exec", last, "--", "true"],
        ):
            done = run_lab(verb, *named, *words)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith(f"hafw-lab: {last} is not made yet: lab '{name}' is starting: ")
            assert done.stderr.endswith(f"hafw-lab status --name {name} shows the progress\n")
            assert done.stderr.count("\n") == 1
        assert "hafw-lab: tiny-0 has no screen; " in run_lab("view", *named, "--print", "tiny-0").stderr
        assert f"{last:10} not on yet" in run_lab("status", *named).stdout
        registry.down(name, lambda _: None)
        assert process.wait(PATIENCE_S) != 0


def test_who_starts_a_lab_hears_that_somebody_has_ended_it(tmp_path: Path) -> None:
    name = f"boots-{os.getpid()}"
    program = ["/usr/bin/python3", "-P", "-m", "tests.netns.tiny_lab", name, str(tmp_path), "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert any("kernel" in line for line in process.stdout)
        registry.attach(name).down()
        assert "the lab was ended while it was starting" in process.communicate(timeout=PATIENCE_S)[1]
    assert name not in registry.find_names()


def test_root_of_a_user_namespace_does_not_share_roots_directory() -> None:
    drop = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    drop = drop if os.geteuid() == 0 else []
    if subprocess.run([*drop, "test", "-r", ROOT / "README.md"]).returncode != 0:
        pytest.skip("an ordinary user cannot read this checkout")
    if subprocess.run([*drop, "unshare", "-Ur", "true"]).returncode != 0:
        pytest.skip("this kernel does not let an ordinary user make namespaces")
    ask = "from hafw_lab.lab_directory import find_room; print(find_room())"
    argv = [*drop, "unshare", "-Ur", "/usr/bin/python3", "-P", "-c", ask]
    shown = subprocess.run(argv, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True, cwd="/")
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    assert shown.stdout.strip() == f"/var/tmp/hafw-lab-{user}"


def find_children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
