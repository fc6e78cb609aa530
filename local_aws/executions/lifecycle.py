"""One execution from StartExecution to its end: refused inputs, a time limit, StopExecution, and never a thread that dies silently."""

from __future__ import annotations

import contextvars
import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from local_aws.executions import current
from local_aws.executions.cancellation import Scope
from local_aws.executions.current import Json
from local_aws.executions.state_data import MAX_DATA_BYTES, MAX_NESTING, nesting, utf8_bytes
from local_aws.services import ministack_internals

logger = logging.getLogger("executions")


def running() -> list[tuple[str, str, str]]:
    """Account, region and ARN of every execution that runs."""
    store = ministack_internals.private("stepfunctions", "_executions")._data
    return [key for key, execution in list(store.items()) if execution["status"] == "RUNNING"]


def stop_all(cause: str) -> None:
    """StopExecution for all of them; their tasks end, and no state is entered any more."""
    for account, region, arn in running():
        with ministack_internals.private("responses", "request_scope")(account, region):
            ministack_internals.private("stepfunctions", "_stop_execution")({"executionArn": arn, "error": "Stopped", "cause": cause})


# -- the start -------------------------------------------------------------------------------------------


def start_execution(original: Callable[[Json], Any]) -> Callable[[Json], Any]:
    """Refuse the inputs that Step Functions refuses; ministack takes any string, and runs ``{}`` for what is no JSON."""

    def start(request: Json) -> Any:
        refusal = refused_input(request.get("input", "{}"))
        if refusal is not None:
            return ministack_internals.private("responses", "error_response_json")(*refusal, 400)
        return original(request)

    return start


def refused_input(text: str) -> tuple[str, str] | None:
    """Error code and message of a StartExecution with this input, or None.

    botocore's model limits ``input`` to 262,144 and says that the length counts bytes of UTF-8; the message is that of
    the API's own validation. InvalidExecutionInput is modelled as "The provided JSON input data is not valid". What is
    valid JSON and unreadable all the same (numbers of thousands of digits, thousands of levels) is no matter of the API.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return "InvalidExecutionInput", f"Invalid State Machine Execution Input: '{error.reason} at character {error.start}'"
    if size > MAX_DATA_BYTES:
        constraint = f"Member must have length less than or equal to {MAX_DATA_BYTES}"
        return (
            "ValidationException",
            f"1 validation error detected: Value at 'input' failed to satisfy constraint: {constraint} (it has {size} bytes)",
        )
    try:
        json.loads(text, parse_int=float, parse_constant=_no_json_constant)
    except RecursionError:
        return None
    except ValueError as error:
        return "InvalidExecutionInput", f"Invalid State Machine Execution Input: '{error}'"
    return None


def _no_json_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")  # Python's own parser takes NaN and Infinity


# -- the run ---------------------------------------------------------------------------------------------


def run_execution(original: Callable[[str], None]) -> Callable[[str], None]:
    """Give an execution its scope and time limit; whatever its thread raises ends it as States.Runtime."""

    def run(arn: str) -> None:
        execution = ministack_internals.private("stepfunctions", "_executions").get(arn)
        if execution is None:
            return
        scope, timer = Scope(None), None
        current.scope.set(scope)
        current.execution.set(execution)
        try:
            timer = _time_limit(execution, scope)
            unreadable = _unreadable(execution["input"])
            if unreadable:
                raise ValueError(f"the execution's input cannot be read: {unreadable}")
            original(arn)
        except Exception as error:
            logger.exception("execution %s ends as States.Runtime", arn)
            _fail(execution, str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
        finally:
            if timer is not None:
                timer.cancel()
            _fail(execution, "the execution's thread ended before the execution")

    return run


def _fail(execution: Json, cause: str) -> None:
    """States.Runtime for an execution that has not ended."""
    ministack_internals.private("stepfunctions", "_fail_execution")(execution, "States.Runtime", cause)


def _unreadable(text: str) -> str:
    """Why valid JSON cannot be read, or nothing."""
    try:
        levels = nesting(json.loads(text))
    except (ValueError, RecursionError) as error:
        return str(error)
    return f"it is nested {levels} levels deep, more than {MAX_NESTING}" if levels > MAX_NESTING else ""


def fail_execution(original: Callable[..., None]) -> Callable[..., None]:
    """End an execution that runs; one that was stopped or timed out stays so. Error and cause are text that UTF-8 carries."""

    def fail(execution: Json, name: str, cause: str) -> None:
        if execution["status"] == "RUNNING":
            original(execution, _well_formed(name), _well_formed(cause or "")[: current.MAX_CAUSE])

    return fail


def _well_formed(text: str) -> str:
    return text if utf8_bytes(text) is not None else text.encode("utf-8", "backslashreplace").decode()


def _time_limit(execution: Json, scope: Scope) -> threading.Timer | None:
    """Start to count TimeoutSeconds of the whole state machine, where it has one."""
    machine = ministack_internals.private("stepfunctions", "_state_machines").get(execution["stateMachineArn"]) or {}
    seconds = json.loads(machine.get("definition", "{}")).get("TimeoutSeconds")
    if not seconds:
        return None
    timer = threading.Timer(float(seconds), contextvars.copy_context().run, (_time_out, execution, scope))
    timer.daemon = True
    timer.start()
    return timer


def _time_out(execution: Json, scope: Scope) -> None:
    if execution["status"] == "RUNNING":
        execution.update(status="TIMED_OUT", error="States.Timeout", stopDate=datetime.now(UTC).isoformat().replace("+00:00", "Z"))
        ministack_internals.private("stepfunctions", "_add_event")(
            execution, "ExecutionTimedOut", {"executionTimedOutEventDetails": {"error": "States.Timeout"}}
        )
        ministack_internals.private("stepfunctions", "_emit_execution_status_event")(execution)
        scope.cancel()


def scaled_sleep(original: Callable[[float], None]) -> Callable[[float], None]:
    """Wait states and retries' pauses, which end with their execution or their scope."""

    def sleep(seconds: float) -> None:
        scope = current.scope.get()
        if scope is None:
            original(seconds)
            return
        execution = current.execution.get()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (execution is None or execution["status"] == "RUNNING") and not scope.is_cancelled:
            scope.sleep(min(0.5, deadline - time.monotonic()))

    return sleep
