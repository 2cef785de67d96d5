# SPDX-License-Identifier: GPL-2.0-or-later
"""What the user sees while something takes long, a line at a time."""

from collections.abc import Callable

Progress = Callable[[str], None]
