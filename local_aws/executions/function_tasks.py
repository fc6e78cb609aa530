"""Functions as tasks: the class of a function's exception is the error's name, and an event may be too deep for the runtime."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any

from local_aws.executions import current, state_data
from local_aws.services import ministack_internals

PYTHON_NESTING = 980
"""Levels that ``json.loads`` reads in a Python function's runtime: its recursion limit of 1,000, less the runtime's own frames."""
_LOST = "Runtime.HandlerError"  # what ministack calls every exception
_last = threading.local()
"""The class of the exception that ended this thread's last invocation."""


def install() -> None:
    """Remember what ministack's worker drops."""
    worker = ministack_internals.private("lambda_runtime", "Worker")
    worker.invoke = _remembering(worker.invoke)


def _remembering(original: Callable[..., Any]) -> Callable[..., Any]:
    def invoke(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        _last.name = exception_class(str(result.get("trace") or "")) if result.get("status") == "error" else None
        return result

    return invoke


def exception_class(trace: str) -> str | None:
    """Name of the class that a Python traceback ends with, without its module: AWS's ``errorType``."""
    raised = trace.rpartition("Traceback (most recent call last):\n")[2]
    found = re.search(r"^([A-Za-z_][\w.]*)(:|$)", raised, re.MULTILINE)
    return found[1].rpartition(".")[2] if found else None


def call_lambda(original: Callable[..., Any]) -> Callable[..., Any]:
    """Invoke a function as Step Functions does; as much of an error's cause is kept as there."""

    def call(function: Any, event: Any) -> Any:
        if state_data.nesting(event) > PYTHON_NESTING:
            message = "Unable to unmarshal input: maximum recursion depth exceeded while decoding a JSON object from a unicode string"
            raise _failed({"errorType": "Runtime.UnmarshalError", "errorMessage": message})
        _last.name = None
        try:
            return original(function, event)
        except ministack_internals.private("stepfunctions", "_ExecutionError") as error:
            if error.error != _LOST or _last.name is None:
                raise current.error(error.error, error.cause) from error
            raise _failed({**json.loads(error.cause), "errorType": _last.name}) from error

    return call


def _failed(body: dict[str, Any]) -> Exception:
    return current.error(body["errorType"], json.dumps(body))
