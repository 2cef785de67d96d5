# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw rules`: check, diff, apply, confirm, rollback, with the real nft and real processes, and kill -9 of
each of them at every step."""

import json
import signal
import sys
from pathlib import Path

import pytest

from agent.config import loader
from tests.netns.agent.rollout.two_policies import PAIR_FILE, A, B, assert_in_force, is_pending
from tests.netns.machine import Machine, start_agent, tell_agent
from tests.netns.pair_checks import rules_digest, until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif("os.geteuid() != 0", reason="has /etc, /run and /var of its own, which root may"),
]

RULES_A, RULES_B = (rules_digest(loader.parse(text)) for text in (A, B))
ROLLED_BACK_S = 60


def waiting(machine: Machine) -> str:
    """The apply that nobody has confirmed yet."""
    return str(json.loads(machine.read("/var/lib/hafw/pending"))["identity"])


def let_time_run_out(machine: Machine, identity: str) -> None:
    """What the timer calls; how it comes to that is shown by a test that waits for it."""
    machine.rules("rollback", "--unconfirmed", identity)


def test_a_check_changes_nothing(machine: Machine) -> None:
    assert f"the kernel takes its rules ({RULES_B})" in machine.rules("check", "/run/b.yaml")
    assert_in_force(machine, A)
    machine.write("/run/bad.yaml", B.replace("smtp", "no-such"))
    assert "no-such" in machine.rules("check", "/run/bad.yaml", status=2)


def test_an_apply_is_in_force_and_reported(machine: Machine) -> None:
    assert machine.rules("diff", "/run/b.yaml") == (
        "from client (eth1) to server (eth0):\n  + tcp port 25: accept (client to server: smtp)\n"
    )
    assert machine.rules("diff") == "nothing would change\n"
    applied = machine.rules_json("apply", "/run/b.yaml")
    assert (applied["generation"], applied["before"], applied["rules"]) == (2, 1, RULES_B)
    assert_in_force(machine, B)
    changes = machine.rules_json("diff", "/run/b.yaml")
    assert (changes["in_force"], changes["changes"]) == (RULES_B, [])
    known = machine.rules_json("generations")
    assert [(one["number"], one["rules"], one["mark"]) for one in known] == [
        (1, RULES_A, None),
        (2, RULES_B, "in force"),
    ]
    assert machine.rules("generations", "2") == B
    assert "was in force already" in machine.rules("apply", "/run/b.yaml")
    assert "generation 2" in machine.records()[-1]["message"]


CHANGED_BETWEEN = """
import sys
from pathlib import Path
opened = 0
def change(event, arguments):
    global opened
    if event == "open" and str(arguments[0]) == "/run/b.yaml":
        opened += 1
        if opened == 2:
            Path("/run/c.yaml").replace("/run/b.yaml")
sys.addaudithook(change)
from agent.cli.main import main
sys.exit(main(["rules", "apply", "--this-node", "/run/b.yaml"]))
"""


def test_what_was_checked_is_what_is_kept_and_loaded(machine: Machine) -> None:
    """A change of the file between two readings of it changes nothing: there is one."""
    machine.write("/run/c.yaml", A.replace("allow: [", "allow: [telnet, "))
    machine.must(sys.executable, "-P", "-c", CHANGED_BETWEEN)
    assert_in_force(machine, B)
    assert machine.rules("generations", "2") == B
    assert machine.rules_json("generations")[1]["rules"] == RULES_B


def test_what_an_apply_would_refuse_is_said_before(machine: Machine) -> None:
    """Another helper is another conntrackd.conf."""
    for old, new in (("ftp, ", ""), ("ssh, ", "ssh, tftp, ")):
        assert old in A
        machine.write("/run/b.yaml", A.replace(old, new))
        for verb, status in (("check", 1), ("diff", 0), ("apply", 1)):
            said = machine.rules(verb, "/run/b.yaml", status=status)
            assert "needs another conntrackd.conf" in said, verb
            assert "install it by `hafw setup` on both nodes" in said, verb
        assert_in_force(machine, A)
    assert machine.rules_json("diff", PAIR_FILE)["refusal"] is None


SLOW = """
import sys, time
import nftables
real = nftables.Nftables.cmd
def slow(self, text):
    if '"add"' in text:
        time.sleep(1.5)
    return real(self, text)
nftables.Nftables.cmd = slow
from agent.cli.main import main
sys.exit(main(["rules", "apply", "--this-node", "/run/b.yaml", "--confirm", "2", "--json"]))
"""


def test_the_time_to_confirm_begins_when_the_rules_are_in_force(machine: Machine) -> None:
    """Loading them takes longer than that here, and the timer finds an apply that is not due yet."""
    applied = json.loads(machine.must(sys.executable, "-P", "-c", SLOW))
    assert 1.0 < applied["confirm_within_s"] <= 2.0
    assert_in_force(machine, B)
    until(lambda: not is_pending(machine), ROLLED_BACK_S, "nothing rolls back")
    assert_in_force(machine, A)


FLUSHED = """
import subprocess, sys
from agent.rollout import apply
real = apply.make_live
def flushed(*arguments):
    done = real(*arguments)
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    return done
apply.make_live = flushed
from agent.cli.main import main
sys.exit(main(["rules", "apply", "--this-node", "/run/b.yaml"]))
"""


def test_a_flush_by_another_program_is_no_failure_of_the_apply(machine: Machine) -> None:
    """What is in force is loaded again by the agent; the command had only to count connections."""
    said = machine.must(sys.executable, "-P", "-c", FLUSHED)
    assert "generation 2 is in force" in said
    assert machine.read(PAIR_FILE) == B


def test_a_pipe_is_refused_and_changes_nothing(machine: Machine) -> None:
    done = machine.run(
        "sh", "-c", f"cat /run/b.yaml | {sys.executable} -P -m agent rules apply --this-node /dev/stdin"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "is a pipe; name a regular file" in done.stderr
    assert_in_force(machine, A)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("priority: 150", "priority: 151", "needs another keepalived.conf"),
        ("vrid: 61", "vrid: 77", "needs another keepalived.conf"),
        ("smtp", "no-such", "no-such"),
    ],
)
def test_a_file_that_cannot_be_used_leaves_everything(
    machine: Machine, old: str, new: str, says: str
) -> None:
    assert old in B
    machine.write("/run/b.yaml", B.replace(old, new))
    assert says in machine.rules(
        "apply", "/run/b.yaml", "--confirm", "5", status=2 if new == "no-such" else 1
    )
    assert_in_force(machine, A)
    assert not is_pending(machine)
    assert len(machine.rules_json("generations")) == 1


def test_the_way_back(machine: Machine) -> None:
    machine.rules("apply", "/run/b.yaml")
    machine.rules("rollback")
    assert_in_force(machine, A)
    machine.rules("rollback", "2")
    assert_in_force(machine, B)
    assert "there is no generation 9" in machine.rules("rollback", "9", status=1)
    why = [one["why"] for one in machine.rules_json("generations")]
    assert why == ["apply", "apply", "rollback to generation 1", "rollback to generation 2"]


def test_what_is_confirmed_stays(machine: Machine) -> None:
    machine.rules("apply", "/run/b.yaml", "--confirm", "3600")
    identity = waiting(machine)
    assert "is waiting for confirmation" in machine.rules("apply", PAIR_FILE, status=1)
    machine.rules("confirm")
    assert "no apply is waiting" in machine.rules("confirm", status=1)
    let_time_run_out(machine, identity)
    assert_in_force(machine, B)
    assert len(machine.rules_json("generations")) == 2


def test_what_nobody_confirms_goes_back_by_itself(machine: Machine) -> None:
    machine.rules("apply", "/run/b.yaml", "--confirm", "1")
    until(lambda: not is_pending(machine), ROLLED_BACK_S, "nothing rolls back")
    assert_in_force(machine, A)
    assert "not confirmed" in machine.rules_json("generations")[-1]["why"]


def test_a_rollback_by_command_ends_the_waiting(machine: Machine) -> None:
    machine.rules("apply", "/run/b.yaml", "--confirm", "3600")
    machine.rules("rollback")
    assert not is_pending(machine)
    assert_in_force(machine, A)


KILLED = """
import os, signal, sys
left = {left}
def cut(real, counts=lambda *_: True):
    def call(*arguments, **options):
        global left
        if counts(*arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        done = real(*arguments, **options)
        if counts(*arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return done
    return call
import nftables
from agent.adapters import process
os.replace = cut(os.replace, lambda *_: {replaced})
nftables.Nftables.cmd = cut(nftables.Nftables.cmd, lambda self, text: {counted})
process.start_detached = cut(process.start_detached)
from agent.cli.main import main
sys.exit(main({arguments!r}))
"""


def killed(machine: Machine, left: int, *arguments: str) -> int:
    """The exit status of a hafw that is killed before or after the step where `left` comes to 0."""
    program = KILLED.format(
        left=left, arguments=list(arguments), counted='"add" in text', replaced="lambda *_: True"
    )
    return machine.run(sys.executable, "-P", "-c", program).returncode


def test_kill_9_at_every_step_of_an_apply(machine: Machine) -> None:
    """Old or new after each of them, and in the end the old ones: nobody confirms."""
    for left in range(1, 40):
        status = killed(machine, left, "rules", "apply", "--this-node", "/run/b.yaml", "--confirm", "1")
        assert status in (0, 128 + signal.SIGKILL, -signal.SIGKILL), status
        assert machine.read(PAIR_FILE) in (A, B)
        assert machine.digest() in (RULES_A, RULES_B)
        until(lambda: not is_pending(machine), ROLLED_BACK_S, f"nothing rolls back after step {left}")
        assert_in_force(machine, A)
        if status == 0:
            assert left > 10, "there are more steps than this"
            return
    pytest.fail("the apply has not come to its end")


INTERRUPTED = """
import os, sys
def interrupt(event, arguments):
    if event == {event!r} and {place!r} in map(str, arguments):
        os.kill(os.getpid(), {number})
sys.addaudithook(interrupt)
from agent.cli.main import main
sys.exit(main({arguments!r}))
"""


def interrupted(event: str, place: str, number: signal.Signals, *arguments: str) -> str:
    """A `hafw rules ...` that gets a signal when it does this to a file."""
    wanted = ["rules", *arguments, "--this-node"]
    return INTERRUPTED.format(event=event, place=place, number=number.value, arguments=wanted)


@pytest.mark.parametrize("place", ["/var/lib/hafw/installing", PAIR_FILE, "/run/hafw/rules.json"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_was_begun_is_finished_and_reported(
    machine: Machine, place: str, number: signal.Signals
) -> None:
    for arguments, text, told in (
        (["apply", "/run/b.yaml"], B, "generation 2 is in force (rules "),
        (["rollback"], A, "rollback to generation 1\ngeneration 3 is in force (rules "),
    ):
        program = interrupted("os.rename", place, number, *arguments)
        done = machine.run(sys.executable, "-P", "-c", program)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(told)
        assert_in_force(machine, text)


def test_an_interrupt_before_the_first_step_leaves_everything(machine: Machine) -> None:
    before = machine.rules("generations")
    program = interrupted("open", "/run/b.yaml", signal.SIGINT, "apply", "/run/b.yaml")
    assert machine.run(sys.executable, "-P", "-c", program).returncode == 130
    assert machine.rules("generations") == before
    assert_in_force(machine, A)


def test_only_what_is_in_force_is_confirmed(machine: Machine) -> None:
    """A kill has come between the note that it waits and its being put in place."""
    kept = -1
    for left in range(1, 40):
        killed(machine, left, "rules", "apply", "--this-node", "/run/b.yaml", "--confirm", "600")
        if is_pending(machine):
            kept = left
            break
    assert kept > 0
    assert machine.digest() == RULES_A
    said = machine.rules("confirm", status=1)
    assert "generation 2 waits for confirmation, but is not in force: generation 1 is" in said
    assert is_pending(machine)
    machine.rules("rollback")
    assert not is_pending(machine)
    assert_in_force(machine, A)


def test_a_boot_rolls_back_at_once(machine: Machine) -> None:
    machine.rules("apply", "/run/b.yaml", "--confirm", "3600")
    pending = machine.read("/var/lib/hafw/pending")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    machine.write("/var/lib/hafw/pending", pending.replace(boot, "of-the-boot-before"))
    with start_agent(machine):
        until(lambda: machine.digest() == RULES_A, 30, "the agent does not roll back")
        assert_in_force(machine, A)
        assert not is_pending(machine)
        assert any("was not confirmed" in one["message"] for one in machine.records())


def test_the_agent_takes_it_and_says_so(machine: Machine) -> None:
    with start_agent(machine):
        applied = machine.rules_json("apply", "/run/b.yaml", "--confirm", "3600")
        assert applied["by_agent"]
        assert_in_force(machine, B)
        let_time_run_out(machine, waiting(machine))
        assert not is_pending(machine)
        assert_in_force(machine, A)
        messages = [one["message"] for one in machine.records() if one["event"] == "rules"]
    assert [message.split(" ")[0] for message in messages][-3:] == ["started:", "reloaded:", "reloaded:"]
    assert "not confirmed" in messages[-1]


def test_a_bad_file_keeps_the_rules_over_a_sighup(machine: Machine) -> None:
    with start_agent(machine):
        before = len(machine.records())
        machine.write(PAIR_FILE, B.replace("smtp", "no-such"))
        tell_agent(machine, signal.SIGHUP)
        until(
            lambda: any("keeping the pair file" in one["message"] for one in machine.records()[before:]),
            20,
            "the agent says nothing of the bad file",
        )
        assert machine.digest() == RULES_A
        machine.write(PAIR_FILE, B)
        tell_agent(machine, signal.SIGHUP)
        until(lambda: machine.digest() == RULES_B, 20, "the good file is not taken")


@pytest.mark.parametrize("left", [1, 2])
def test_kill_9_of_the_agent_in_the_middle_of_its_load(machine: Machine, left: int) -> None:
    """Before its transaction, and after it. The command finds it gone and does the same without it."""
    # a load at the start is whole: the one that flushes the chain of a way is that of the apply
    counted = """'"flush":{"chain"' in text and '"from/eth1/to/eth0"' in text"""
    program = KILLED.format(left=left, arguments=["agent"], counted=counted, replaced=False)
    with start_agent(machine, ("-c", program)) as running:
        applied = machine.rules_json("apply", "/run/b.yaml", "--confirm", "3600")
        assert not applied["by_agent"]
        assert running.wait(10) != 0
        assert_in_force(machine, B)
        let_time_run_out(machine, waiting(machine))
        assert not is_pending(machine)
        assert_in_force(machine, A)
