"""Rules for the state machine's text that no validator checks: our own and the specification's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from aws_models.coverage import all_states

Json = Any
MAX_DEFINITION_BYTES = 1_048_576  # Step Functions quota
MAX_STATE_NAME = 80  # Step Functions quota
TRANSIENT_LAMBDA = frozenset(
    {
        "TransientFault",
        "Lambda.ServiceException",
        "Lambda.AWSLambdaException",
        "Lambda.SdkClientException",
        "Lambda.TooManyRequestsException",
    }
)
"""What the developer guide says a Lambda task should retry."""
JSONPATH_FIELDS = frozenset(
    {
        *("InputPath", "OutputPath", "ResultPath", "Parameters", "ResultSelector", "ItemsPath", "MaxConcurrencyPath"),
        *("SecondsPath", "TimestampPath", "ErrorPath", "CausePath", "Variable"),
    }
)
# Where each part of $states may be read (developer guide, "Reserved variable"); assigning in a Catch is its own place.
RESULT_FIELDS = frozenset({"Output", "Assign"})


def problems(definition: Json) -> list[str]:
    """Everything that is wrong."""
    return [*_whole(definition), *_scopes(definition, frozenset()), *_states(definition)]


def _whole(definition: Json) -> Iterator[str]:
    size = len(json.dumps(definition).encode())
    if size > MAX_DEFINITION_BYTES:
        yield f"the definition has {size} bytes; Step Functions takes {MAX_DEFINITION_BYTES}"
    if definition.get("QueryLanguage") != "JSONata":
        yield "QueryLanguage is not JSONata"
    names = [name for name, _ in all_states(definition)]
    yield from (f"the state name {name!r} is used twice" for name in sorted({n for n in names if names.count(n) > 1}))


def _states(definition: Json) -> Iterator[str]:
    inner = {name for _, state in all_states(definition) if "ItemProcessor" in state for name, _ in all_states(state["ItemProcessor"])}
    for name, state in all_states(definition):
        if len(name) > MAX_STATE_NAME:
            yield f"{name!r}: a state's name has at most {MAX_STATE_NAME} characters"
        yield from (f"{name}: {field} belongs to JSONPath" for field in sorted(JSONPATH_FIELDS & state.keys()))
        yield from _entries(name, state)
        yield from _reserved(name, state)
        if state["Type"] in ("Task", "Map"):
            caught = any("States.ALL" in entry["ErrorEquals"] for entry in state.get("Catch", []))
            if not caught and name not in inner:  # an error inside of the Map is caught by the Map
                yield f"{name}: an error that nothing retries is not caught, so it ends the run unexplained"
        if state["Type"] == "Task" and state["Resource"].endswith(":lambda:invoke"):
            retried = {error for entry in state.get("Retry", []) for error in entry["ErrorEquals"]}
            if missing := TRANSIENT_LAMBDA - retried:
                yield f"{name}: transient errors are not retried: {', '.join(sorted(missing))}"
        if state["Type"] == "Choice" and "Default" not in state:
            yield f"{name}: a Choice without Default fails when no rule holds"


def _entries(name: str, state: Json) -> Iterator[str]:
    for what in ("Retry", "Catch"):
        entries = state.get(what, [])
        for index, entry in enumerate(entries):
            if "States.ALL" in entry["ErrorEquals"] and (len(entry["ErrorEquals"]) > 1 or index + 1 < len(entries)):
                yield f"{name}: States.ALL stands alone and last in {what}"
            if entry.get("BackoffRate", 2) < 1 or entry.get("IntervalSeconds", 1) < 1 or entry.get("MaxAttempts", 3) < 0:
                yield f"{name}: {what} {index} has a rate or interval below 1"
            if entry.get("MaxDelaySeconds", 31_622_400) <= entry.get("IntervalSeconds", 1):
                yield f"{name}: MaxDelaySeconds must exceed IntervalSeconds"
            if entry.get("JitterStrategy", "NONE") not in ("NONE", "FULL"):
                yield f"{name}: JitterStrategy {entry['JitterStrategy']!r}"


def _reserved(name: str, state: Json) -> Iterator[str]:
    """$states.result only after a result, $states.errorOutput only in a Catch."""
    for field, value in state.items():
        text = json.dumps([dict(entry.items()) for entry in value] if field == "Catch" else value)
        if (
            field != "ItemProcessor"
            and "$states.result" in text
            and (field not in RESULT_FIELDS or state["Type"] not in ("Task", "Map", "Parallel"))
        ):
            yield f"{name}.{field}: $states.result is not there"
        if "$states.errorOutput" in text and field not in ("Catch", "ItemProcessor"):
            yield f"{name}.{field}: $states.errorOutput is only in Catch"


def _scopes(definition: Json, outer: frozenset[str]) -> Iterator[str]:
    """A Map's items cannot assign what the outer workflow assigns, and every variable that is read is assigned."""
    own = frozenset(_assigned(definition))
    yield from (f"variable {name!r} is assigned inside of a Map and outside" for name in sorted(own & outer))
    known = own | outer
    for name, state in definition["States"].items():
        rest = {key: value for key, value in state.items() if key != "ItemProcessor"}
        for expression in _expressions(rest):
            local = set(re.findall(r"\$([A-Za-z_]\w*)\s*:=", expression)) | set(
                re.findall(r"[(,]\s*\$([A-Za-z_]\w*)(?=\s*[,)])", expression)
            )
            read = set(re.findall(r"\$([A-Za-z_]\w*)(?!\w*\s*\()", re.sub(r"'[^']*'", "''", expression)))
            yield from (f"{name}: ${variable} is never assigned" for variable in sorted(read - known - local - {"states"}))
        if "ItemProcessor" in state:
            yield from _scopes(state["ItemProcessor"], known)


def _assigned(definition: Json) -> Iterator[str]:
    for state in definition["States"].values():
        yield from state.get("Assign", {})
        for entry in [*state.get("Catch", []), *state.get("Choices", [])]:
            yield from entry.get("Assign", {})


def _expressions(node: Json) -> Iterator[str]:
    if isinstance(node, str) and node.startswith("{%"):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _expressions(value)
