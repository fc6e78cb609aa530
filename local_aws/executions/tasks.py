"""Task states: time limits that reach the job, arguments' size, ordered faults, and retries' pauses."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from typing import Any

from local_aws.executions import current, state_data, task_errors
from local_aws.executions.cancellation import Scope
from local_aws.executions.current import Json
from local_aws.injected_faults import ApiCall, Faults
from local_aws.services import api_faults, ministack_internals

logger = logging.getLogger("executions")
TERMINAL = ("States.Runtime", "States.DataLimitExceeded")
"""Errors that neither States.ALL nor States.TaskFailed matches: they end the execution (developer guide, error names)."""


def execute_task(original: Callable[..., Any]) -> Callable[..., Any]:
    """Take a time limit that is an expression; ministack takes a number only."""

    def run(state: Json, raw: Any, execution: Json, context: Json) -> Any:
        current.refuse_when_cancelled()
        limit = state.get("TimeoutSeconds")
        if isinstance(limit, str):
            seconds = ministack_internals.private("stepfunctions", "_apply_jsonata_template")(limit, raw, context)
            state = {**state, "TimeoutSeconds": seconds}
        return original(state, raw, execution, context)

    return run


def invoke_resource(faults: Faults, original: Callable[..., Any]) -> Callable[..., Any]:
    """Limit the size of a task's arguments; what a service of the emulator raises fails the task, which Catch may match."""

    def invoke(resource: str, request: Any) -> Any:
        current.refuse_when_cancelled()
        state_data.check_size(request, resource, "was given arguments")
        if ":lambda:" not in resource:  # a lone surrogate: the service's Java writes "?" in its place; functions shall see it
            request = json.loads(json.dumps(request, ensure_ascii=False).encode("utf-8", "replace"))
        _show(resource, request)
        refused = _refused(faults, resource, request)
        if refused is not None:
            if refused.carried_out:
                original(resource.removesuffix(".sync"), request)
            raise _as_task_error(resource, refused)
        try:
            return original(resource, request)
        except ministack_internals.private("stepfunctions", "_ExecutionError"):
            raise
        except Exception as error:
            logger.exception("%s failed", resource)
            raise current.error("States.TaskFailed", f"{resource}: {type(error).__name__}: {error}") from error

    return invoke


def _show(resource: str, request: Any) -> None:
    """Complete the TaskScheduled event of this call as the service writes it; ministack leaves out what was called and with what."""
    execution = current.execution.get()
    details = (event.get("taskScheduledEventDetails") for event in reversed(execution["events"] if execution is not None else []))
    mine = next((item for item in details if item is not None and item["resource"] == resource and "parameters" not in item), None)
    if mine is not None:
        kind, _, name = resource.split(":", 5)[-1].rpartition(":")
        region = ministack_internals.private("responses", "get_region")()
        mine.update(resourceType=kind, resource=name, region=region, parameters=json.dumps(request))


def _refused(faults: Faults, resource: str, request: Any) -> api_faults.ApiError | None:
    """The ordered fault that befalls this call."""
    service, operation, optimised = task_errors.called(resource)
    fields = frozenset(request) if optimised and isinstance(request, dict) else frozenset()
    call = ApiCall(service=service, operation=operation, caller="state machine", subject=api_faults.subject(request), fields=fields)
    return api_faults.refusal(faults, call)


def _as_task_error(resource: str, error: api_faults.ApiError) -> Exception:
    service, _, optimised = task_errors.called(resource)
    if error.code == api_faults.UNSUPPORTED_FIELD:
        return current.error("States.Runtime", f"The Arguments could not be used to start the Task: [{error.message}]")
    if optimised:
        return task_errors.api_error(service, error.code, error.message, error.status)
    name = ministack_internals.private("stepfunctions", "_prefix_sdk_error")(resource.split(":")[6], error.code)
    return current.error(name, error.message)


def invoke_resource_with_timeout(original: Callable[..., Any]) -> Callable[..., Any]:
    """A time limit cancels the task's scope: ministack leaves the worker running, and the job that it waits for."""

    def invoke(resource: str, request: Any, seconds: float) -> Any:
        scope = Scope(current.scope.get())
        token = current.scope.set(scope)
        try:
            return original(resource, request, seconds)
        except Exception as failure:
            scope.cancel(failure)
            raise
        finally:
            current.scope.reset(token)

    return invoke


def error_matches(original: Callable[..., bool]) -> Callable[..., bool]:
    """Retry and Catch by States.ALL leave out the terminal errors, which ministack lets them match."""

    def matches(names: list[str], error: str) -> bool:
        return error in names if error in TERMINAL else original(names, error)

    return matches


def find_matching_retrier(original: Callable[..., Any]) -> Callable[..., Any]:
    """Add MaxDelaySeconds and JitterStrategy, by returning a retrier whose interval already includes them."""

    def find(retriers: list[Json], name: str, counts: dict[int, int]) -> Any:
        retrier, index = original(retriers, name, counts)
        if retrier is None or current.cancelled():
            return None, -1
        delay = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2.0) ** counts.get(index, 0)
        delay = min(delay, retrier.get("MaxDelaySeconds", delay))
        if retrier.get("JitterStrategy") == "FULL":
            delay = random.uniform(0, delay)
        return {**retrier, "IntervalSeconds": delay, "BackoffRate": 1.0}, index

    return find
