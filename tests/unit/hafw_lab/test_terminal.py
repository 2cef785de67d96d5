# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node has written, on somebody's terminal."""

import os
import socket
from pathlib import Path

import pytest

from hafw_lab.client import registry
from hafw_lab.errors import LabError
from hafw_lab.kernel.namespaces import open_inside
from hafw_lab.terminal import clean, clean_lines


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[!p\x1b]104\x07\x1b[?7l[    0.1] Linux", "[    0.1] Linux"),
        ("\x1b]0;title\x1b\\here", "here"),
        ("\x1bP1$r0m\x1b\\\x1b(B\x1b=ok\x1b>", "ok"),
        ("a\x9b31mred\x9b0m", "ared"),
        ("\x1b[38;5;1mred\x1b[0m\x07\b", "red"),
        ("cut off \x1b[", "cut off"),
        ("cut off \x1b]0;tit", "cut off"),
        ("  a\tb  ", "a b"),
    ],
)
def test_escape_sequences_are_not_shown(written: str, shown: str) -> None:
    assert clean(written) == shown


def test_lines_stay_lines() -> None:
    assert clean_lines("one\r\n\x1b[2Jtwo\tx\n10 %\r20 %\n") == "one\ntwo\tx\n20 %\n"


def test_no_link_leads_out_of_a_node(tmp_path: Path) -> None:
    outside, root = tmp_path / "secret", tmp_path / "root"
    outside.write_text("of this machine")
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "own").write_text("of the node")
    (root / "absolute").symlink_to(outside)
    (root / "relative").symlink_to("../secret")
    (root / "inside").symlink_to("/etc/own")
    os.mkfifo(root / "fifo")
    for name in ("absolute", "relative", "../secret"):
        with pytest.raises(FileNotFoundError):
            open_inside(root, name, os.O_RDONLY)
    with open(open_inside(root, "inside", os.O_RDONLY)) as file:
        assert file.read() == "of the node"
    os.close(open_inside(root, "fifo", os.O_RDONLY))  # and it does not wait for a writer


def test_a_lab_in_the_directory_of_another_user_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "hafw-lab"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    monkeypatch.setattr(registry, "find_directory", lambda: directory)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(directory / "lab.sock"))
        listener.listen()
        with pytest.raises(LabError, match="is not a private directory of yours"):
            registry.attach("lab")
        directory.chmod(0o700)
        monkeypatch.setattr(os, "geteuid", lambda: directory.stat().st_uid)
        channel = registry._connect(directory / "lab.sock")
        assert channel is not None
        channel.close()
