# SPDX-License-Identifier: GPL-2.0-or-later
"""Pair file -> a drop-in for nftables.service.

Hard facts:
* That unit's stop is `flush ruleset`, and Debian's /etc/nftables.conf begins with it. A restart on a node at
  work, or a shutdown, would leave a firewall without any rule of hafw: it forwards every packet (seen: 26
  forbidden packets through a backup, at 20 a second) until the agent has repaired its table.
* A drop-in that names a program that was removed with our package would keep nftables from starting.
"""

from agent.model.pair import Pair
from agent.paths import Paths
from agent.render.block import because, text_of

_GUARD = "/usr/libexec/hafw/nftables-guard"


def render(pair: Pair, node: str, paths: Paths) -> str:
    """A file for /etc/systemd/system/nftables.service.d. `pair` is not needed; all renderers are called
    alike."""
    del pair, paths
    head = because(f"hafw render nftables --node {node}: the same for every pair, changes here are lost")
    why = because("whatever removes the tables of others loads the one that forwards nothing with it")
    return text_of(
        head,
        (
            "[Service]",
            *why,
            *_instead("ExecStart", "load", "/usr/sbin/nft -f /etc/nftables.conf"),
            *_instead("ExecReload", "load", "/usr/sbin/nft -f /etc/nftables.conf"),
            *_instead("ExecStop", "flush", "/usr/sbin/nft flush ruleset"),
        ),
    )


def _instead(key: str, verb: str, stock: str) -> tuple[str, str]:
    """The unit's own command, as it is on Debian, when our package is removed."""
    return f"{key}=", f"{key}=/bin/sh -c '[ ! -x {_GUARD} ] || exec {_GUARD} {verb}; exec {stock}'"
