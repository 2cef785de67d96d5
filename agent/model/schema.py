# SPDX-License-Identifier: GPL-2.0-or-later
"""What programs that read our JSON can rely on: `schema` of an answer, higher when a key of it changes."""

STATUS = 2
"""Of the agent's answers, and of `hafw status --json` where there is none."""
