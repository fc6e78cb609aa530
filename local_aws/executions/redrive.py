"""RedriveExecution, which ministack lacks: an execution that was stopped, timed out or failed goes on where it did not end.

Each state's result is kept as it ends. A redriven execution walks its machine again, and every state that has ended before answers
with what was kept, without a call and without an event, until the walk comes to one that has not: "the successful steps are not
rerun" (developer guide, Redriving executions). A Fail state is entered again, so an execution that failed by one fails again.
"""

from __future__ import annotations

import contextvars
import copy
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from local_aws.executions import current
from local_aws.executions.current import Json
from local_aws.services import ministack_internals

REDRIVABLE = ("FAILED", "TIMED_OUT", "ABORTED")
STATES = ("_execute_pass", "_execute_choice", "_execute_wait", "_execute_task", "_execute_map", "_execute_parallel")
_threads: set[str] = set()
"""Executions whose thread has not ended: a stopped one may need a while."""


@dataclass
class Walk:
    """Where a walk through a machine, or through a Map's item, is."""

    path: str
    """Of the walk: empty for the machine, else the Map's own place and the item's number."""
    number: int = 0
    """States entered."""
    replayed: bool = False
    """Whether the state entered last has ended in an earlier drive."""

    @property
    def place(self) -> str:
        """Of the state that is entered now."""
        return f"{self.path}/{self.number}"


_walk: contextvars.ContextVar[Walk | None] = contextvars.ContextVar("walk", default=None)


def keeping(original: Callable[..., Any]) -> Callable[..., Any]:
    """A state's function that keeps its result, and gives what was kept in an earlier drive."""

    def run(state: Json, raw: Any, *rest: Any) -> Any:
        walk, execution, context = _walk.get(), current.execution.get(), rest[-1]
        if walk is None or execution is None or context is None:
            return original(state, raw, *rest)
        place, kept = walk.place, execution.setdefault("kept", {})
        if walk.replayed:
            value, following, variables = copy.deepcopy(kept[place])
            context["variables"] = variables
        else:
            value, following = original(state, raw, *rest)
            if not current.cancelled():  # what a stop has cut short has not ended
                kept[place] = copy.deepcopy([value, following, context.get("variables", {})])
        walk.number += 1
        return value, following

    return run


def run_sub_machine(original: Callable[..., Any]) -> Callable[..., Any]:
    """A Map's item is a walk of its own below the Map's place. Branches of a Parallel are run again as a whole."""

    def run(states: Json, start: str, given: Any, execution: Json, context: Json) -> Any:
        outer, item = _walk.get(), (context.get("Map") or {}).get("Item")
        inner = Walk(f"{outer.place}/{item['Index']}") if outer is not None and item is not None else None
        token = _walk.set(inner)
        try:
            return original(states, start, given, execution, context)
        finally:
            _walk.reset(token)

    return run


def add_event(original: Callable[..., Any]) -> Callable[..., Any]:
    """The history shows each state once: not again when its result is replayed."""

    def add(execution: Json, kind: str, details: Json | None = None) -> Any:
        walk = _walk.get()
        if walk is not None and kind.endswith("StateEntered"):
            walk.replayed = walk.place in execution.get("kept", {})
        if walk is not None and walk.replayed and kind.endswith(("StateEntered", "StateExited")):
            return None
        return original(execution, kind, details)

    return add


def run_execution(original: Callable[[str], None]) -> Callable[[str], None]:
    """Begin a walk, and know when its thread has ended."""

    def run(arn: str) -> None:
        _threads.add(arn)
        _walk.set(Walk(""))
        try:
            original(arn)
        finally:
            _threads.discard(arn)

    return run


def handle_request(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Answer RedriveExecution; every other action is ministack's."""

    async def handle(method: str, path: str, headers: Any, body: Any, query_params: Any) -> Any:
        if headers.get("x-amz-target", "").rpartition(".")[2] == "RedriveExecution":
            return redrive(json.loads(body))
        return await original(method, path, headers, body, query_params)

    return handle


def redrive(request: Json) -> Any:
    """RedriveExecution: status, headers, body."""
    refuse = ministack_internals.private("responses", "error_response_json")
    arn = request.get("executionArn", "")
    execution = ministack_internals.private("stepfunctions", "_executions").get(arn)
    if execution is None:
        return refuse("ExecutionDoesNotExist", f"Execution {arn} not found", 400)
    if execution["status"] not in REDRIVABLE or arn in _threads:
        why = "its last drive is still stopping" if arn in _threads else f"it is {execution['status']}"
        return refuse("ExecutionNotRedrivable", f"Execution {arn} cannot be redriven: {why}", 400)
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    count = execution["redriveCount"] = execution.get("redriveCount", 0) + 1
    execution.update(status="RUNNING", stopDate=None, output=None, error=None, cause=None)
    details = {"executionRedrivenEventDetails": {"redriveCount": count}}
    ministack_internals.private("stepfunctions", "_add_event")(execution, "ExecutionRedriven", details)
    ministack_internals.private("stepfunctions", "_emit_execution_status_event")(execution)
    work = ministack_internals.private("stepfunctions", "_run_execution")
    _threads.add(arn)
    threading.Thread(target=contextvars.copy_context().run, args=(work, arn), daemon=True).start()
    return ministack_internals.private("responses", "json_response")({"redriveDate": moment})
