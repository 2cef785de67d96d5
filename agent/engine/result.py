# SPDX-License-Identifier: GPL-2.0-or-later
"""What came of an action, and what that means to the core. Pure."""

from dataclasses import dataclass

from agent.core.actions import Action, Outcome
from agent.core.events import ActionDone, ActionFailed, QueryResult
from agent.errors import HafwError, MissingToolError, SilentError, ToolError, UnavailableError


@dataclass(frozen=True, slots=True)
class Result:
    """`abandoned`: it is no longer needed, because a newer plan came."""

    action: Action
    begun_ns: int
    ended_ns: int
    outcome: Outcome | None = None
    error: HafwError | None = None
    abandoned: bool = False


def event_of(result: Result) -> ActionDone | ActionFailed:
    error = result.error
    if error is None:
        return ActionDone(result.ended_ns, result.action, result.outcome)
    retryable = isinstance(error, ToolError) and error.retryable
    return ActionFailed(result.ended_ns, result.action, error.message, retryable, answer_of(error))


def answer_of(error: HafwError) -> QueryResult:
    """What a failed question says of the program that was asked."""
    if isinstance(error, UnavailableError | MissingToolError):
        return QueryResult.UNREACHABLE
    return QueryResult.NONE if isinstance(error, SilentError) else QueryResult.REFUSED
