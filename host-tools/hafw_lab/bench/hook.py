# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench hook`: what the hook costs against the cheapest Python there is, and what the resident agent
costs."""

import argparse
import os
import re
import time
from statistics import median

from hafw_lab.bench.handover import make_row, time_commands
from hafw_lab.client.node import Node
from hafw_lab.compose.lab import AGENT
from hafw_lab.errors import LabError
from hafw_lab.measure.failover import other, start_lab
from hafw_lab.measure.result import Setup
from hafw_lab.progress import Progress
from hafw_lab.report.text import draw_table
from hafw_lab.spoken import Ink

_IDLE_S = 10.0
_HOOK = ["/usr/libexec/hafw/notify", "INSTANCE", "VI_eth0_4", "BACKUP", "140"]
_BARE = ["/usr/bin/python3", "-I", "-S", "-c", "pass"]


def measure(args: argparse.Namespace, ink: Ink, progress: Progress) -> tuple[dict[str, object], str]:
    with start_lab(Setup(), progress) as lab:
        backup = lab.node(other(lab, lab.wait_settled(30)))
        progress(f"{args.count} runs each of the hook and of the barest Python")
        hook, bare = time_commands(backup, [_HOOK, _BARE], args.count)
        lab.wait_settled(30)
        progress(f"the agent, idle for {_IDLE_S:g} s")
        before, start = read_cpu_s(backup), time.monotonic()
        time.sleep(_IDLE_S)  # idling is what is measured
        idle = (read_cpu_s(backup) - before) / (time.monotonic() - start)
        resident_mib = read_resident_mib(backup)
        backup.stop_service(AGENT)
        start = time.monotonic()
        backup.start_service(AGENT)
        ready_s = time.monotonic() - start
    ratio = median(hook) / median(bare)
    head = ("", "n", "median ms", "p95 ms", "least ms", "most ms")
    rows = [make_row("the hook", hook), make_row("python3 -I -S -c pass", bare)]
    lines = [
        draw_table(head, rows, ink),
        "",
        f"the hook takes {ratio:.2f} times the barest Python (goal: 2)",
        f"the agent: {resident_mib:.1f} MiB resident (goal: 40), ready after {ready_s:.2f} s (goal: 0.5),"
        f" idle CPU {idle * 100:.2f} %",
    ]
    found: dict[str, object] = {
        "hook_ms": hook,
        "bare_ms": bare,
        "ratio": ratio,
        "agent": {"resident_mib": resident_mib, "ready_s": ready_s, "idle_cpu_share": idle},
    }
    return found, "\n".join(lines)


def _agent_file(node: Node, name: str) -> str:
    pid = node.service_pid(AGENT)
    if pid is None:
        raise LabError(f"the agent of {node.name} does not run")
    return node.run(["cat", f"/proc/{pid}/{name}"]).stdout


def read_cpu_s(node: Node) -> float:
    """Processor time that the agent has had, in seconds."""
    return parse_cpu_ticks(_agent_file(node, "stat")) / os.sysconf("SC_CLK_TCK")


def read_resident_mib(node: Node) -> float:
    return parse_resident_kib(_agent_file(node, "status")) / 1024


def parse_cpu_ticks(stat: str) -> int:
    """utime + stime of /proc/PID/stat; the command's name may hold spaces and brackets."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def parse_resident_kib(status: str) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    if not found:
        raise LabError("/proc/PID/status has no VmRSS")
    return int(found[1])
