# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the checkout is that is tested."""

from pathlib import Path

ROOT = Path(__file__).parents[1].resolve()
EXAMPLES = ROOT / "examples"
GOLDEN = ROOT / "tests" / "golden"
RECORDED = ROOT / "tests" / "recorded"
