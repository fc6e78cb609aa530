"""Map states and Parallel branches: the first failure cancels the others, and their states are in the history."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from local_aws.executions import current
from local_aws.executions.cancellation import Scope
from local_aws.executions.current import Json
from local_aws.services import ministack_internals


def run_map_items(original: Callable[..., Any]) -> Callable[..., Any]:
    """Fail with the first item that failed; the others only say that they were cancelled."""

    def run(state: Json, raw: Any, execution: Json, context: Json) -> Any:
        scope = Scope(current.scope.get())
        token = current.scope.set(scope)
        try:
            return original(state, raw, execution, context)
        except Exception as failure:
            raise scope.first_error or failure from None
        finally:
            current.scope.reset(token)

    return run


def run_sub_machine(original: Callable[..., Any]) -> Callable[..., Any]:
    """One Map item or Parallel branch: like ministack's, with events in the history, cancellation, and JSONata on Succeed."""

    def run(states: Json, start: str, given: Any, execution: Json, context: Json) -> Any:
        scope = current.scope.get()
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
        current.refuse_when_cancelled()
        state = states.get(name)
        if state is None or (state["Type"] not in functions and state["Type"] not in ("Succeed", "Fail")):
            raise current.error("States.Runtime", f"State {name} cannot run")
        kind = state["Type"]
        context["State"] = {"Name": name, "EnteredTime": _timestamp(), "RetryCount": 0}
        current.add_event(f"{kind}StateEntered", {"stateEnteredEventDetails": {"name": name, "input": json.dumps(value)}})
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
        current.add_event(f"{kind}StateExited", {"stateExitedEventDetails": {"name": name, "output": json.dumps(value)}})
        name = following
    return value


def _succeed(state: Json, value: Any, context: Json) -> Any:
    shown = ministack_internals.private("stepfunctions", "_apply_input_path")(state, value, context)
    return ministack_internals.private("stepfunctions", "_apply_output_path")(state, shown, context)


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
