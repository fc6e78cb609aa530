"""The execution and the cancellable scope that the present thread works for, and what every module says about them."""

from __future__ import annotations

import contextvars
from typing import Any

from local_aws.executions.cancellation import Scope
from local_aws.services import ministack_internals

Json = dict[str, Any]
MAX_CAUSE = 32_768  # characters of an error's cause that Step Functions keeps

scope: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("scope", default=None)
execution: contextvars.ContextVar[Json | None] = contextvars.ContextVar("execution", default=None)


def error(name: str, cause: str) -> Exception:
    """Step Functions' own exception; Retry and Catch match its name."""
    made: Exception = ministack_internals.private("stepfunctions", "_ExecutionError")(name, cause[:MAX_CAUSE])
    return made


def cancelled() -> bool:
    """Whether the task that this thread runs must end."""
    inner, running = scope.get(), execution.get()
    return (inner is not None and inner.is_cancelled) or (running is not None and running["status"] != "RUNNING")


def refuse_when_cancelled() -> None:
    """Raise States.TaskFailed when the task that this thread runs must end."""
    if cancelled():
        raise error("States.TaskFailed", "The execution was stopped.")


def add_event(kind: str, details: Json) -> None:
    """Add an event to the history of the execution that this thread runs."""
    running = execution.get()
    if running is not None:
        ministack_internals.private("stepfunctions", "_add_event")(running, kind, details)
