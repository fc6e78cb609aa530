"""What flows between states: limits of its size, variables, and the context object that expressions see."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from local_aws.executions import current
from local_aws.executions.current import Json
from local_aws.services import ministack_internals

MAX_DATA_BYTES = 262_144
"""Of a state's input, arguments, result or output, of one variable, and of what one Assign sets, as compact JSON in UTF-8."""
MAX_VARIABLES_BYTES = 10 << 20
"""Of all variables of an execution together."""
MAX_NESTING = 1000
"""Levels of an execution's input: what Jackson reads by default, the parser whose messages Step Functions shows. Inferred."""
_EVENT_DATA = (
    ("stateEnteredEventDetails", "input"),
    ("stateExitedEventDetails", "output"),
    ("taskSucceededEventDetails", "output"),
)


def utf8_bytes(text: str) -> int | None:
    """Length of a text in UTF-8; None when it holds a lone surrogate, which UTF-8 cannot carry."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None


def data_bytes(value: Any) -> int:
    """Size of a JSON value as Step Functions counts it. A lone surrogate counts as its escape, which is how JSON carries it."""
    return len(json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace"))


def nesting(value: Any) -> int:
    """Levels of lists and objects in a JSON value, counted without recursion."""
    level, levels = [value], -1
    while level:
        levels += 1
        level = [
            item for outer in level if isinstance(outer, (list, dict)) for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return levels


def limit_exceeded(name: str, what: str = "returned a result") -> Exception:
    """States.DataLimitExceeded in the service's words."""
    cause = f"The state/task '{name}' {what} with a size exceeding the maximum number of bytes service limit."
    return current.error("States.DataLimitExceeded", cause)


def check_size(value: Any, name: str, what: str = "returned a result") -> None:
    """Raise States.DataLimitExceeded for a value that the service would not pass on."""
    if data_bytes(value) > MAX_DATA_BYTES:
        raise limit_exceeded(name, what)


def add_event(original: Callable[..., Any]) -> Callable[..., Any]:
    """Every state's input, result and output passes here on its way into the history, whatever the state's type.

    An oversize input is refused in the state that it enters; an oversize output when its state ends.
    """

    def add(execution: Json, kind: str, details: Json | None = None) -> Any:
        for event, field in _EVENT_DATA:
            text = ((details or {}).get(event) or {}).get(field) or ""
            # the text is ASCII with spaces, never shorter than compact UTF-8: most are small, and need no second look
            if len(text) > MAX_DATA_BYTES and data_bytes(json.loads(text)) > MAX_DATA_BYTES:
                assert details is not None
                name = details[event].get("name") or details[event].get("resource", "")
                raise limit_exceeded(name, "was entered with an input" if field == "input" else "returned a result")
        return original(execution, kind, details)

    return add


def apply_state_assign(original: Callable[..., None]) -> Callable[..., None]:
    """Assign variables as the service does: every expression sees the old values, and sizes are limited."""

    def assign(state: Json, raw: Any, context: Json | None, result: Any = None, error_output: Any = None) -> None:
        language = ministack_internals.private("stepfunctions", "_state_query_language")(state, context)
        if context is None or language != "JSONata" or not isinstance(state.get("Assign"), dict):
            return
        evaluate = ministack_internals.private("stepfunctions", "_apply_jsonata_template")
        values = {name: evaluate(value, raw, context, result, error_output) for name, value in state["Assign"].items()}
        held = context.setdefault("variables", {})
        name = (context.get("State") or {}).get("Name", "")
        check_size(values, name, "assigned variables")
        if data_bytes({**held, **values}) > MAX_VARIABLES_BYTES:
            raise limit_exceeded(name, "left the execution's variables")
        held.update(values)

    return assign


def apply_input_path(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give Succeed states their JSONata Output, which ministack does not evaluate."""

    def apply(state: Json, data: Any, context: Json | None = None) -> Any:
        language = ministack_internals.private("stepfunctions", "_state_query_language")(state, context)
        if state.get("Type") == "Succeed" and "Output" in state and language == "JSONata":
            return ministack_internals.private("stepfunctions", "_apply_jsonata_template")(state["Output"], data, context)
        return original(state, data, context)

    return apply


def evaluate_jsonata(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give expressions exactly the context object that AWS documents."""

    def evaluate(expression: str, raw: Any, context: Json | None = None, result: Any = None, error_output: Any = None) -> Any:
        inner = dict(context or {})
        if "Execution" in inner:
            machine = ministack_internals.private("stepfunctions", "_state_machines").get((inner.get("StateMachine") or {}).get("Id")) or {}
            redriven = (current.execution.get() or {}).get("redriveCount", 0)
            inner["Execution"] = {"RedriveCount": redriven, "RoleArn": machine.get("roleArn", ""), **inner["Execution"]}
        inner.pop("QueryLanguage", None)
        return original(expression, raw, inner, result, error_output)

    return evaluate
