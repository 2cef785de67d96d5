# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw setup` while it writes: another run, a full disk, a kill at any moment."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent.setup.plan import plan_setup
from agent.setup.write import start_writing, write_change
from tests.unit.agent.setup.setup_run import (
    FILES,
    HAND_MADE,
    NOW,
    PAIR,
    PAIR_FILE,
    PATHS,
    changes_below,
    files_in,
    install,
    needs_root,
    setup,
    write,
)


def test_two_at_once(tmp_path: Path) -> None:
    with start_writing(tmp_path):
        done = setup(tmp_path, "--file", PAIR_FILE, "--node", "fw-1", "--yes")
    assert done.returncode == 1
    assert "another hafw setup" in done.stderr
    assert files_in(tmp_path) == {}


def test_what_changed_after_it_was_shown_is_not_lost(tmp_path: Path) -> None:
    place = write(tmp_path, "etc/sysctl.d/60-hafw.conf", "old\n")
    change = next(change for change in changes_below(tmp_path) if change.target == place)
    place.write_text("edited meanwhile\n")
    with pytest.raises(Exception, match="has changed since"):
        write_change(change, NOW)
    assert place.read_text() == "edited meanwhile\n"


def test_a_disk_that_is_full_leaves_whole_files(tmp_path: Path) -> None:
    write(tmp_path, "etc/keepalived/keepalived.conf", "")
    done = setup(tmp_path, "--file", PAIR_FILE, "--node", "fw-1", "--yes", largest_file=1000)
    assert done.returncode == 1
    assert "cannot write /etc/hafw/hafw.yaml" in done.stderr
    assert files_in(tmp_path) == {"etc/keepalived/keepalived.conf": ""}
    install(tmp_path)
    assert changes_below(tmp_path) == ()


@needs_root
def test_a_read_only_disk_is_said(tmp_path: Path) -> None:
    prefix = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs -o ro none {tmp_path} && exec "$@"', "sh")
    done = setup(tmp_path, "--file", PAIR_FILE, "--node", "fw-1", "--yes", prefix=prefix)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A kill leaves what the kernel has, on a disk or not; on a disk two thousand fsyncs take seconds."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as path:
        yield Path(path)


def test_killed_anywhere_each_file_is_old_or_new_and_a_second_run_completes_it(in_memory: Path) -> None:
    planned = {str(file.path)[1:]: file.text for file in plan_setup(PAIR, "fw-1", PATHS, FILES)}
    cut = 0
    while True:
        root = in_memory / str(cut)
        root.mkdir()
        old = made_before(root)
        if not killed_at(root, cut):
            break
        found = files_in(root)
        for name, text in old.items():
            assert found.get(name) in (text, planned.get(name)), f"{name} after cut {cut}"
            if found.get(name) != text:
                assert found[f"{name}.before-hafw"] == text, f"{name} after cut {cut}"
        for name, text in found.items():
            if not name.endswith(".hafw-new") and ".before-hafw" not in name:
                assert text in (old.get(name), planned.get(name)), f"{name} after cut {cut}"
        write_all(root)
        found = files_in(root)
        kept = {f"{name}.before-hafw": text for name, text in old.items() if planned.get(name) != text}
        assert found == {**planned, **kept}, f"after cut {cut}"
        cut += 1
    assert cut > 50, "the cuts are not made"


def made_before(root: Path) -> dict[str, str]:
    """Files of the other node, one made by hand, one to be removed, some not there yet."""
    for file in plan_setup(PAIR, "fw-2", PATHS, FILES)[:4]:
        write(root, str(file.path)[1:], file.text)
    write(root, "etc/keepalived/keepalived.conf", HAND_MADE)
    write(root, "etc/systemd/network/60-hafw-eth9.network", "# hafw render networkd --node x\n")
    return files_in(root)


def write_all(root: Path) -> None:
    with start_writing(root):
        for change in changes_below(root, replace=("keepalived.conf",)):
            write_change(change, NOW)


def killed_at(root: Path, cut: int) -> bool:
    """Writes in a child that is killed just before its operation number `cut` on a file."""
    child = os.fork()
    if child == 0:
        gc.freeze()  # a collection would write to all the memory that is shared with the tests
        left = [cut]

        def count(event: str, _details: object) -> None:
            if event in ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.chmod"):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            write_all(root)
        except BaseException:  # noqa: BLE001 - nothing of the test run may continue in the child
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)
