# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong in the lab, in words for the person who typed the command.

The supervisor and the nodes' inits run on the standard library alone, so the lab's errors do not come from
`agent`.
"""


class LabError(Exception):
    """What failed, on what; `hint` says what to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class NodeDownError(LabError):
    """The node is switched off, so nothing can run in it."""

    def __init__(self, node: str) -> None:
        super().__init__(f"{node} is switched off", f"switch it on with: hafw-lab heal {node}")
        self.node = node
