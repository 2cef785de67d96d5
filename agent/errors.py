# SPDX-License-Identifier: GPL-2.0-or-later
"""The error tree: every failure that a user can see is one of these, raised once, at the call that
failed."""

from dataclasses import dataclass


class HafwError(Exception):
    """What failed, on what; `hint` says what to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a pair file. `path` is the place, as in `interfaces.eth0.vrid`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


MAX_IN_ONE_LINE = 5
"""A record or an answer is one line; with more room use `problems`."""


class ConfigError(HafwError):
    """A pair file that cannot be used, with every problem in it, in the order of the file."""

    def __init__(self, problems: tuple[Problem, ...], file: str = "pair file") -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        first = "; ".join(str(problem) for problem in problems[:MAX_IN_ONE_LINE])
        more = "; ... (`hafw check` shows them)" if len(problems) > MAX_IN_ONE_LINE else ""
        super().__init__(f"{file}: {count}: {first}{more}")
        self.problems = problems
        self.file = file


class ToolError(HafwError):
    """A tool of another project failed. `retryable` says whether the same call may succeed a moment
    later."""

    def __init__(
        self,
        argv: tuple[str, ...],
        message: str,
        *,
        exit_status: int | None = None,
        stderr: str = "",
        retryable: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.argv = argv
        self.exit_status = exit_status
        self.stderr = stderr
        self.retryable = retryable


class MissingToolError(ToolError):
    """It cannot be started at all."""


class NoCopyError(ToolError):
    """The kernel gives this process no copy of itself at the moment. It says nothing of what the copy was
    to do."""


class SilentError(ToolError):
    """It did not answer within its limit; what it was asked for may still be done later."""


class OvertakenError(HafwError):
    """What was looked at has been changed by this process meanwhile, so that the look says nothing. The
    code that made the change looks again."""


class UnavailableError(HafwError):
    """Something that should be there is not (a daemon, a socket, a bus); it may come back by itself."""
