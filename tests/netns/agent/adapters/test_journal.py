# SPDX-License-Identifier: GPL-2.0-or-later
"""Records through a real journald, in namespaces of its own."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.checkout import ROOT

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.getuid() != 0, reason="journald needs root"),
    pytest.mark.skipif(
        not Path("/lib/systemd/systemd-journald").exists(), reason="no journald on this machine"
    ),
]

IN_NAMESPACE = """
mount -t tmpfs none /run && mount -t tmpfs none /var/log && mkdir -p /run/systemd/journal /run/log/journal
# the journal's files are named after the machine
echo 0123456789abcdef0123456789abcdef > /run/machine-id
[ -e /etc/machine-id ] && mount --bind /run/machine-id /etc/machine-id
/lib/systemd/systemd-journald &
/usr/bin/python3 -P -c "$PROGRAM"
"""
PROGRAM = """
import json, os, select, socket, subprocess, sys, time
from agent.adapters.journal import JournalSink, open_sink, read_records
from agent.paths import Paths
from agent.model.records import RecordKind, MESSAGE_IDS, Record, to_fields

paths, deadline = Paths(), time.monotonic() + 10
while not paths.journal_socket.exists():
    assert time.monotonic() < deadline, "journald does not start"
    os.sched_yield()
sink = open_sink(paths)
assert isinstance(sink, JournalSink), sink
rest = {"transition": "t1", "duration_ms": 1.5, "result": "done"}
records = [Record(RecordKind.STEP, f"step {n}", n, **rest) for n in range(5)]
records.append(Record(RecordKind.ALARM, "two\\nlines \\U0001f600", 6, condition="rules"))
for record in records:
    sink.write(record)
forged = ["logger", "--journald"]
text = f"MESSAGE=forged\\nMESSAGE_ID={MESSAGE_IDS[RecordKind.STEP]}\\nHAFW_EVENT=step\\nHAFW_MONO_NS=x\\n"
subprocess.run(forged, input=text.encode(), user=65534, group=65534, extra_groups=[], check=True)
while len(read_records(paths, 100)) < len(records):
    assert time.monotonic() < deadline, read_records(paths, 100)
subprocess.run(["journalctl", "--sync"], check=True)
raw = subprocess.run(["journalctl", "-o", "cat"], capture_output=True, text=True, check=True).stdout
found = {str(n): read_records(paths, n) for n in (1, 3, 6, 100)}
wrote = [to_fields(each) for each in records]
print(json.dumps({"wrote": wrote, "found": found, "lost": sink.lost, "raw": raw}))
"""


def test_what_goes_into_the_journal_comes_back() -> None:
    argv = ["unshare", "-mnpf", "--kill-child", "--mount-proc", "/bin/sh", "-ec", IN_NAMESPACE]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT), "PROGRAM": PROGRAM}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert "forged" in result["raw"], "the entry of another program is in the journal"
    assert result["lost"] == 0
    for most, found in result["found"].items():
        times = [record.pop("t") for record in found]
        assert len({record.pop("boot") for record in found}) == 1
        assert found == result["wrote"][-int(most) :]
        assert times == sorted(times)
