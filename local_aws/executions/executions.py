"""Step Functions' features that ministack lacks: cancellation, fail-fast Map, time limits, context object, events."""

from __future__ import annotations

import contextvars
import copy
import json
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from local_aws.executions.cancellation import Scope
from local_aws.services import ministack_internals

Json = dict[str, Any]
MAX_CAUSE = 32_768  # characters of an error's cause that Step Functions keeps
MAX_DATA_BYTES = 262_144  # of one state's input, result or output, as UTF-8


_scope: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("scope", default=None)
_execution: contextvars.ContextVar[Json | None] = contextvars.ContextVar("execution", default=None)


def error(name: str, cause: str) -> Exception:
    """Step Functions' own exception; Retry and Catch match its name."""
    made: Exception = ministack_internals.private("stepfunctions", "_ExecutionError")(name, cause[:MAX_CAUSE])
    return made


def cancelled() -> bool:
    """Whether the task that this thread runs must end."""
    scope, execution = _scope.get(), _execution.get()
    return (scope is not None and scope.is_cancelled) or (execution is not None and execution["status"] != "RUNNING")


def add_event(kind: str, details: Json) -> None:
    """Add an event to the history of the execution that this thread runs."""
    execution = _execution.get()
    if execution is not None:
        ministack_internals.private("stepfunctions", "_add_event")(execution, kind, details)


def install() -> None:
    """Wrap ministack's functions."""
    for name, wrap in _WRAPPERS.items():
        ministack_internals.replace("stepfunctions", name, wrap)


def running() -> list[tuple[str, str, str]]:
    """Account, region and ARN of every execution that runs."""
    store = ministack_internals.private("stepfunctions", "_executions")._data
    return [key for key, execution in list(store.items()) if execution["status"] == "RUNNING"]


def stop_all(cause: str) -> None:
    """StopExecution for all of them; their tasks end, and no state is entered any more."""
    for account, region, arn in running():
        with ministack_internals.private("responses", "request_scope")(account, region):
            ministack_internals.private("stepfunctions", "_stop_execution")({"executionArn": arn, "error": "Stopped", "cause": cause})


# -- one execution ---------------------------------------------------------------------------------------


def _run_execution(original: Callable[[str], None]) -> Callable[[str], None]:
    def run(arn: str) -> None:
        execution = ministack_internals.private("stepfunctions", "_executions").get(arn)
        if execution is None:
            return
        scope = Scope(None)
        _scope.set(scope)
        _execution.set(execution)
        limit = _time_limit(execution)
        timer = threading.Timer(limit, contextvars.copy_context().run, (_time_out, execution, scope)) if limit else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            original(arn)
        finally:
            if timer is not None:
                timer.cancel()

    return run


def _time_limit(execution: Json) -> float | None:
    """TimeoutSeconds of the whole state machine."""
    machine = ministack_internals.private("stepfunctions", "_state_machines").get(execution["stateMachineArn"]) or {}
    try:
        seconds = json.loads(machine.get("definition", "{}")).get("TimeoutSeconds")
    except json.JSONDecodeError:
        return None
    return float(seconds) if seconds else None


def _time_out(execution: Json, scope: Scope) -> None:
    if execution["status"] == "RUNNING":
        execution.update(status="TIMED_OUT", error="States.Timeout", stopDate=datetime.now(UTC).isoformat().replace("+00:00", "Z"))
        ministack_internals.private("stepfunctions", "_add_event")(
            execution, "ExecutionTimedOut", {"executionTimedOutEventDetails": {"error": "States.Timeout"}}
        )
        ministack_internals.private("stepfunctions", "_emit_execution_status_event")(execution)
        scope.cancel()


def _fail_execution(original: Callable[..., None]) -> Callable[..., None]:
    def fail(execution: Json, name: str, cause: str) -> None:
        if execution["status"] == "RUNNING":  # one that was stopped or timed out stays so
            original(execution, name, (cause or "")[:MAX_CAUSE])

    return fail


def _scaled_sleep(original: Callable[[float], None]) -> Callable[[float], None]:
    def sleep(seconds: float) -> None:
        scope = _scope.get()
        if scope is None:
            original(seconds)
            return
        execution = _execution.get()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (execution is None or execution["status"] == "RUNNING") and not scope.is_cancelled:
            scope.sleep(min(0.5, deadline - time.monotonic()))

    return sleep


# -- tasks ---------------------------------------------------------------------------------------------


def _execute_task(original: Callable[..., Any]) -> Callable[..., Any]:
    def run(state: Json, raw: Any, execution: Json, context: Json) -> Any:
        if cancelled():
            raise error("States.TaskFailed", "The execution was stopped.")
        limit = state.get("TimeoutSeconds")
        if isinstance(limit, str):  # JSONata; ministack takes a number only
            state = {
                **state,
                "TimeoutSeconds": ministack_internals.private("stepfunctions", "_apply_jsonata_template")(limit, raw, context),
            }
        output, following = original(state, raw, execution, context)
        _check_size(output, (context.get("State") or {}).get("Name", ""))
        return output, following

    return run


def _check_size(value: Any, name: str) -> None:
    """Refuse data above the service's limit, which ministack does not check: a plan that grew too large must fail here too."""
    if len(json.dumps(value, default=str, ensure_ascii=False).encode()) > MAX_DATA_BYTES:
        cause = f"The state/task '{name}' returned a result with a size exceeding the maximum number of bytes service limit."
        raise error("States.DataLimitExceeded", cause)


def _invoke_resource(original: Callable[..., Any]) -> Callable[..., Any]:
    def invoke(resource: str, request: Any) -> Any:
        if cancelled():
            raise error("States.TaskFailed", "The execution was stopped.")
        result = original(resource, request)
        _check_size(result, resource)
        return result

    return invoke


def _invoke_resource_with_timeout(original: Callable[..., Any]) -> Callable[..., Any]:
    def invoke(resource: str, request: Any, seconds: float) -> Any:
        scope = Scope(_scope.get())
        token = _scope.set(scope)
        try:
            return original(resource, request, seconds)
        except Exception as failure:
            scope.cancel(failure)  # ministack leaves the worker running; this stops the job that it waits for
            raise
        finally:
            _scope.reset(token)

    return invoke


def _find_matching_retrier(original: Callable[..., Any]) -> Callable[..., Any]:
    """Add MaxDelaySeconds and JitterStrategy, by returning a retrier whose interval already includes them."""

    def find(retriers: list[Json], name: str, counts: dict[int, int]) -> Any:
        retrier, index = original(retriers, name, counts)
        if retrier is None or cancelled():
            return None, -1
        delay = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2.0) ** counts.get(index, 0)
        delay = min(delay, retrier.get("MaxDelaySeconds", delay))
        if retrier.get("JitterStrategy") == "FULL":
            delay = random.uniform(0, delay)
        return {**retrier, "IntervalSeconds": delay, "BackoffRate": 1.0}, index

    return find


# -- Map -----------------------------------------------------------------------------------------------


def _run_map_items(original: Callable[..., Any]) -> Callable[..., Any]:
    def run(state: Json, raw: Any, execution: Json, context: Json) -> Any:
        scope = Scope(_scope.get())
        token = _scope.set(scope)
        try:
            return original(state, raw, execution, context)
        except Exception as failure:
            # The first item that failed is the reason; the others only say that they were cancelled.
            raise scope.first_error or failure from None
        finally:
            _scope.reset(token)

    return run


def _run_sub_machine(original: Callable[..., Any]) -> Callable[..., Any]:
    """One Map item or Parallel branch: like ministack's, with events in the history, cancellation, and JSONata on Succeed."""

    def run(states: Json, start: str, given: Any, execution: Json, context: Json) -> Any:
        scope = _scope.get()
        try:
            return _walk(states, start, copy.deepcopy(given), execution, context)
        except Exception as failure:
            if scope is not None:
                scope.cancel(failure)
            raise

    return run


def _walk(states: Json, start: str, value: Any, execution: Json, context: Json) -> Any:
    functions = {kind: f"_execute_{kind.lower()}" for kind in ("Pass", "Task", "Choice", "Wait", "Parallel", "Map")}
    name: str | None = start
    while name:
        if cancelled():
            raise error("States.TaskFailed", "The execution was stopped.")
        state = states.get(name)
        if state is None or (state["Type"] not in functions and state["Type"] not in ("Succeed", "Fail")):
            raise error("States.Runtime", f"State {name} cannot run")
        kind = state["Type"]
        context["State"] = {"Name": name, "EnteredTime": _timestamp(), "RetryCount": 0}
        add_event(f"{kind}StateEntered", {"stateEnteredEventDetails": {"name": name, "input": json.dumps(value)}})
        if kind == "Fail":
            raise ministack_internals.private("stepfunctions", "_ExecutionError")(
                *ministack_internals.private("stepfunctions", "_fail_state_error")(state, value, context)
            )
        if kind == "Succeed":
            value, following = _succeed(state, value, context), None
        elif kind in ("Task", "Parallel", "Map"):
            value, following = ministack_internals.private("stepfunctions", functions[kind])(state, value, execution, context)
        else:
            value, following = ministack_internals.private("stepfunctions", functions[kind])(state, value, context)
        add_event(f"{kind}StateExited", {"stateExitedEventDetails": {"name": name, "output": json.dumps(value)}})
        name = following
    return value


def _succeed(state: Json, value: Any, context: Json) -> Any:
    shown = ministack_internals.private("stepfunctions", "_apply_input_path")(state, value, context)
    return ministack_internals.private("stepfunctions", "_apply_output_path")(state, shown, context)


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- data ----------------------------------------------------------------------------------------------


def _apply_input_path(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give Succeed states their JSONata Output, which ministack does not evaluate."""

    def apply(state: Json, data: Any, context: Json | None = None) -> Any:
        language = ministack_internals.private("stepfunctions", "_state_query_language")(state, context)
        if state.get("Type") == "Succeed" and "Output" in state and language == "JSONata":
            return ministack_internals.private("stepfunctions", "_apply_jsonata_template")(state["Output"], data, context)
        return original(state, data, context)

    return apply


def _evaluate_jsonata(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give expressions exactly the context object that AWS documents."""

    def evaluate(expression: str, raw: Any, context: Json | None = None, result: Any = None, error_output: Any = None) -> Any:
        inner = dict(context or {})
        if "Execution" in inner:
            machine = ministack_internals.private("stepfunctions", "_state_machines").get((inner.get("StateMachine") or {}).get("Id")) or {}
            inner["Execution"] = {"RedriveCount": 0, "RoleArn": machine.get("roleArn", ""), **inner["Execution"]}
        inner.pop("QueryLanguage", None)
        return original(expression, raw, inner, result, error_output)

    return evaluate


_WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "_run_execution": _run_execution,
    "_fail_execution": _fail_execution,
    "_scaled_sleep": _scaled_sleep,
    "_execute_task": _execute_task,
    "_invoke_resource": _invoke_resource,
    "_invoke_resource_with_timeout": _invoke_resource_with_timeout,
    "_find_matching_retrier": _find_matching_retrier,
    "_run_map_items": _run_map_items,
    "_run_sub_machine": _run_sub_machine,
    "_apply_input_path": _apply_input_path,
    "_evaluate_jsonata": _evaluate_jsonata,
}
