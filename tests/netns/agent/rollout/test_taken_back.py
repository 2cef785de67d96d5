# SPDX-License-Identifier: GPL-2.0-or-later
"""An apply or rollback that fails has not been: what was put in place is taken back, or said to be left."""

import sys

import pytest

from tests.netns.agent.rollout.two_policies import PAIR_FILE, A, assert_in_force, is_pending
from tests.netns.machine import Machine

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif("os.geteuid() != 0", reason="has /etc, /run and /var of its own, which root may"),
]


def make_read_only(machine: Machine, path: str) -> None:
    machine.must("mount", "--bind", path, path)
    machine.must("mount", "-o", "remount,bind,ro", path)


@pytest.mark.parametrize("arguments", [("apply", "/run/b.yaml", "--confirm", "600"), ("rollback", "1")])
def test_what_cannot_be_put_in_place_has_not_been(machine: Machine, arguments: tuple[str, ...]) -> None:
    """The directory of the pair file is read-only, so that no file can be put back either."""
    if arguments[0] == "rollback":
        machine.rules("apply", "/run/b.yaml")
        machine.write("/run/b.yaml", A)
    there, before = machine.read(PAIR_FILE), machine.rules("generations")
    make_read_only(machine, "/etc/hafw")
    said = machine.rules(*arguments, status=1)
    assert "cannot use /etc/hafw/hafw.yaml: Read-only file system; its file system is read-only" in said
    assert "taken back" not in said
    machine.must("umount", "/etc/hafw")
    assert machine.rules("generations") == before
    assert "no apply is waiting" in machine.rules("confirm", status=1)
    assert_in_force(machine, there)
    assert machine.rules_json("apply", "/run/b.yaml")["generation"] > 1


FAILING = """
import errno, os, sys
from agent.errors import HafwError
from agent.rollout import apply
real, asked = apply.make_live, []
def fail_once(on_disk, new=None):
    asked.append(new)
    if len(asked) == 1:
        raise {error}
    return real(on_disk, new)
apply.make_live = fail_once
from agent.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
AWAY = FAILING.format(error='HafwError("the agent is away")')
NO_FILES_LEFT = FAILING.format(error="OSError(errno.EMFILE, os.strerror(errno.EMFILE))")


@pytest.mark.parametrize("arguments", [("apply", "/run/b.yaml"), ("rollback", "1")])
def test_what_fails_where_no_pair_file_was_is_taken_back(
    machine: Machine, arguments: tuple[str, ...]
) -> None:
    """The file has been removed by hand; what comes back is the generation that is in force."""
    if arguments[0] == "rollback":
        machine.rules("apply", "/run/b.yaml")
    there = machine.read(PAIR_FILE)
    machine.must("rm", PAIR_FILE)
    done = machine.run(sys.executable, "-P", "-c", AWAY, "rules", *arguments, "--this-node")
    assert done.returncode == 1
    assert "the agent is away" in done.stderr
    assert machine.read(PAIR_FILE) == there
    assert_in_force(machine, there)


@pytest.mark.parametrize("arguments", [("apply", "/run/b.yaml", "--confirm", "600"), ("rollback", "1")])
def test_an_error_that_no_adapter_expects_is_taken_back_as_well(
    machine: Machine, arguments: tuple[str, ...]
) -> None:
    if arguments[0] == "rollback":
        machine.rules("apply", "/run/b.yaml")
    there = machine.read(PAIR_FILE)
    done = machine.run(sys.executable, "-P", "-c", NO_FILES_LEFT, "rules", *arguments, "--this-node")
    assert (done.returncode, done.stderr) == (1, "hafw: the kernel refused a call: Too many open files\n")
    assert not is_pending(machine)
    assert_in_force(machine, there)


DISK_FULL = FAILING.format(error='OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/hafw/x")')


def test_such_an_error_says_on_what_and_what_helps(machine: Machine) -> None:
    done = machine.run(sys.executable, "-P", "-c", DISK_FULL, "rules", "apply", "--this-node", "/run/b.yaml")
    assert (done.returncode, done.stderr) == (
        1,
        "hafw: the kernel refused a call for /run/hafw/x: No space left on device; "
        "its disk is full; make room there\n",
    )
    assert_in_force(machine, A)


NO_FILES_FROM_NOW_ON = """
import os, resource, sys
from agent.rollout import apply
def fail(on_disk, new=None):
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.pipe()
apply.make_live = fail
from agent.cli.main import main
sys.exit(main(["rules", "apply", "--this-node", "/run/b.yaml", "--confirm", "600"]))
"""


def test_what_waits_and_cannot_be_read_is_named_as_left(machine: Machine) -> None:
    done = machine.run(sys.executable, "-P", "-c", NO_FILES_FROM_NOW_ON)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "hafw: the kernel refused a call: Too many open files; and it could not be taken back: "
    )
    assert "; /var/lib/hafw/pending cannot be read: Too many open files" in done.stderr
    assert is_pending(machine)
    machine.rules("rollback")
    assert not is_pending(machine)
    assert_in_force(machine, A)


HALF = """
import os, sys
from agent.errors import HafwError
from agent.rollout import apply
real = apply.make_live
def fail(on_disk, new=None):
    os.system("mount --bind /etc/hafw /etc/hafw && mount -o remount,bind,ro /etc/hafw")
    raise HafwError("the agent is away")
apply.make_live = fail
from agent.cli.main import main
sys.exit(main(["rules", "apply", "--this-node", "/run/b.yaml", "--confirm", "600"]))
"""


def test_what_cannot_be_rolled_back_is_reported_and_done_by_the_next(machine: Machine) -> None:
    """The new file is in its place when the directory becomes read-only."""
    done = machine.run(sys.executable, "-P", "-c", HALF)
    assert done.returncode == 1
    assert done.stderr.startswith("hafw: the agent is away; and it could not be taken back: cannot use /etc")
    assert not is_pending(machine)
    assert len(machine.rules_json("generations")) == 1
    machine.must("umount", "/etc/hafw")
    assert "no apply is waiting" in machine.rules("confirm", status=1)
    assert_in_force(machine, A)
