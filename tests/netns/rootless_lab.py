# SPDX-License-Identifier: GPL-2.0-or-later
"""Run by test_lab_life.py as an ordinary user: says on its output what worked."""

import os

from hafw_lab.client.lab import POWER, AgentKind, Lab, LabOptions

assert os.geteuid() != 0
with Lab.start(LabOptions(agent=AgentKind.STOCK)) as lab:
    # Only the script on a backup asks for this (`conntrackd -t`): so keepalived could run it.
    log, trace = "/var/log/conntrackd.log", "flushing conntrack table in"
    lab.node("fw-2").run(["timeout", "5", "sh", "-c", f"until grep -q '{trace}' {log}; do :; done"])
    print("hook ran")
    lab.fail("fw-1", POWER)
    lab.wait_primary("fw-2", 5)
    print("took over")
    lab.heal("fw-1")
    lab.wait_settled(5)
    print("came back")
