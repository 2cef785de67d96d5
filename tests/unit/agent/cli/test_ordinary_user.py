# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command `hafw` says to who is not root."""

import subprocess

import pytest

from tests.unit.agent.cli.hafw_run import PAIR, hafw


@pytest.mark.root(reason="becomes another user")
def test_an_ordinary_user_gets_one_sentence_about_the_rules() -> None:
    """libnftables has a line of its own for that, on the standard error."""
    drop = "exec setpriv --reuid=65534 --regid=65534 --clear-groups"
    if subprocess.run([*drop.split()[1:], "test", "-r", PAIR]).returncode != 0:
        pytest.skip("an ordinary user cannot read this checkout")
    link = "ip link add eth1 type veth peer name far1 && "
    link += "ip address add 192.168.2.1/24 dev eth1 && ip link set eth1 up"
    trace = ("trace", "--from", "eth1", "--saddr", "192.168.2.10", "--daddr", "192.168.2.1", "--dport", "22")
    for arguments in (("show",), ("check", str(PAIR)), ("diff", str(PAIR)), trace):
        done = hafw("rules", *arguments, prefix=f"{link} && {drop}")
        assert (done.returncode, done.stdout) == (1, b""), done.stderr
        assert done.stderr.count(b"\n") == 1, done.stderr
        assert done.stderr.endswith(b"; run as root\n"), done.stderr
