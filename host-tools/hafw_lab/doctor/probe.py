# SPDX-License-Identifier: GPL-2.0-or-later
"""Make once what a lab is made of, in this process, and say what the kernel refuses:

    python3 -m hafw_lab.doctor.probe

A process of its own, because what it tries cannot be undone. Prints one JSON object. Standard library only.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.kernel import namespaces as ns
from hafw_lab.process import run

_NETWORK = """link add br0 type bridge mcast_snooping 0 stp_state 0 forward_delay 0
link add v0 type veth peer name v1
link set v0 master br0 up
"""
_RULES = (
    "table inet probe { chain c { type nat hook postrouting priority srcnat; ct state new counter; }; }\n"
)
_SYSCTLS = ("net/ipv4/ip_forward", "net/netfilter/nf_conntrack_tcp_loose", "net/netfilter/nf_conntrack_max")


def _try(what: Callable[[], object]) -> str | None:
    try:
        what()
    except (LabError, OSError) as error:
        return str(error)
    return None


def _namespaces() -> None:
    if os.geteuid() != 0:
        ns.enter_user_namespace()
    ns.unshare(ns.NODE_FLAGS)
    ns.make_mounts_private()


def _mounts() -> None:
    place = next(
        path for path in ("/mnt", "/media", "/srv", "/boot", "/opt", "/home") if os.path.isdir(path)
    )
    ns.mount("probe", place, "tmpfs")
    Path(place, "usr").mkdir()
    ns.bind("/usr", f"{place}/usr", read_only=True)
    Path(place, "proc").mkdir()
    ns.mount("proc", f"{place}/proc", "proc")


def _write(key: str) -> None:
    path = Path("/proc/sys", key)
    path.write_text(path.read_text())


def _inside() -> dict[str, str | None]:
    """As process 1 of the new pid namespace: when that one ends, no other can start in it."""
    found = {
        "mounts": _try(_mounts),
        "bridge and veth": _try(lambda: run(["ip", "-batch", "-"], text=_NETWORK)),
    }
    found["connection tracking"] = _try(lambda: run(["conntrack", "-C"]))
    found["nftables"] = _try(lambda: run(["nft", "-f", "-"], text=_RULES))
    for key in _SYSCTLS:
        found[key.replace("/", ".")] = _try(partial(_write, key))
    return found


def _print(results: dict[str, str | None]) -> None:
    sys.stdout.write(json.dumps(results) + "\n")
    sys.stdout.flush()


def main() -> None:
    problem = _try(_namespaces)
    if problem is not None:
        _print({"namespaces": problem})
        return
    child = os.fork()
    if child == 0:
        _print({"namespaces": None, **_inside()})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
