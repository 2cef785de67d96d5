# SPDX-License-Identifier: GPL-2.0-or-later
"""Where this program's own files are, in a checkout and installed."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
SEARCH_PATH = PACKAGE.parent
"""For PYTHONPATH of a program that imports hafw_lab."""
CHECKOUT = PACKAGE.parents[1]
"""Of no use where hafw-lab is installed: look for what is needed of it."""
GUEST = PACKAGE / "guest"
"""What goes into the images of machines."""
