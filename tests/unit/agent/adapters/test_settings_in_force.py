# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel and the daemons work by, read from files as the kernel shows them."""

import os
from pathlib import Path

from agent.adapters.settings_in_force import (
    conntrackd_read_ns,
    keepalived_read_ns,
    read_sysctl,
    written_ns,
)


def test_a_setting_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "range").write_text("32768\t60999\n")
    assert read_sysctl("net/range", tmp_path) == "32768 60999"
    assert read_sysctl("net/none", tmp_path) is None
    assert read_sysctl("net/", tmp_path) is None
    assert read_sysctl("net/\0", tmp_path) is None


def test_what_is_not_there_was_never_written_nor_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert (written_ns(missing), conntrackd_read_ns(missing), keepalived_read_ns(missing)) == (None,) * 3


def test_when_keepalived_has_read_its_file(tmp_path: Path) -> None:
    """A descriptor of its own, as keepalived has it."""
    memfd = os.memfd_create("/keepalived/consolidated_configuration")
    pid_file = tmp_path / "keepalived.pid"
    try:
        os.write(memfd, b"vrrp_instance")
        pid_file.write_text(f"{os.getpid()}\n")
        assert keepalived_read_ns(pid_file) == os.fstat(memfd).st_mtime_ns
    finally:
        os.close(memfd)
    assert keepalived_read_ns(pid_file) is None, "another program, or one that may not be looked at"
    pid_file.write_text("no number")
    assert keepalived_read_ns(pid_file) is None
