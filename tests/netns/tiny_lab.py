# SPDX-License-Identifier: GPL-2.0-or-later
"""Run by test_tiny_machine.py: a lab of machines none of which ever comes up.

python3 -m tests.netns.tiny_lab NAME DIRECTORY COUNT
"""

import sys
from pathlib import Path

from hafw_lab.client import registry
from hafw_lab.model.options import LabOptions
from hafw_lab.plan.values import Bridge, LabPlan
from tests.netns.tiny_machine import make_plan

name, directory, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
bridge = Bridge("br0", "52:54:00:00:02:01")
nodes = tuple(make_plan(directory, f"tiny-{number}") for number in range(count))
plan = LabPlan(name, (bridge,), nodes, vips=(), firewalls=(), about=LabOptions().to_json())
registry.up_plan(name, plan, lambda text: print(text, flush=True))
