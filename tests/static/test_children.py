# SPDX-License-Identifier: GPL-2.0-or-later
"""A child that a test leaves behind is found, whatever has become of it."""

import subprocess
from concurrent.futures import ThreadPoolExecutor

from tests.children import find_children, has_children

LIMIT_S = 30


def start_cat() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE)


def test_one_that_runs_one_that_has_ended_and_none() -> None:
    before = find_children()
    with start_cat() as running, subprocess.Popen(["true"], stdout=subprocess.PIPE) as ended:
        assert ended.stdout is not None
        ended.stdout.read()  # returns when it has ended, and does not take its exit status
        found = find_children()
        assert found[running.pid] == "cat"
        assert ended.pid in found
        assert has_children()
    assert find_children() == before
    assert has_children() == bool(before)


def test_one_that_another_thread_has_started() -> None:
    with ThreadPoolExecutor(1) as pool, pool.submit(start_cat).result(LIMIT_S) as running:
        assert running.pid in find_children()


def test_looking_takes_no_exit_status() -> None:
    with subprocess.Popen(["false"], stdout=subprocess.PIPE) as ended:
        assert ended.stdout is not None
        ended.stdout.read()
        assert ended.pid in find_children()
    assert ended.returncode == 1
