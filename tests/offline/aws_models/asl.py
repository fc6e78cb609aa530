"""Amazon States Language in JSONata mode, interpreted offline: scripted task results, a simulated clock, no AWS.

A second reading of the state machine beside the embedded AWS's. It covers what the project's machine uses (Task,
Choice, Pass, Wait, Map inline, Succeed, Fail; Retry, Catch, Assign, Output) and refuses the rest by name.
Specification: https://states-language.net and the Step Functions developer guide.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aws_models.clock import Clock, FirstOf, Process, Steps
from aws_models.execution import Call, Execution, Failure, Script, Step, What
from aws_models.queries import Queries, QueryError

Json = Any

MAX_STATE_BYTES = 262_144
"""Input, output and task payload of one state (Step Functions quota, 256 KiB)."""
MAX_VARIABLE_BYTES = 262_144
"""One variable, and all variables of one Assign."""
UNCATCHABLE = frozenset({"States.DataLimitExceeded", "States.Runtime"})
"""What States.ALL does not match."""
DEFAULT_ATTEMPTS, DEFAULT_INTERVAL, DEFAULT_RATE = 3, 1.0, 2.0  # of a Retry entry that does not say
START = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)


class StateError(Exception):
    """An error that Retry and Catch can match."""

    def __init__(self, error: str, cause: str = "") -> None:
        self.error, self.cause = error, cause
        super().__init__(f"{error}: {cause}")


@dataclass
class _Scope:
    """Variables of one workflow; a Map's items read the outer ones and assign their own."""

    own: dict[str, Json] = field(default_factory=dict)
    outer: _Scope | None = None
    item: int | None = None
    map_context: Json = None

    def all(self) -> dict[str, Json]:
        """What an expression sees."""
        return {**(self.outer.all() if self.outer else {}), **self.own}


class Interpreter:
    """Runs one definition; ``check`` looks at each call's arguments and returns what is wrong with them."""

    def __init__(
        self, definition: Json, *, queries: Queries | None = None, check: Callable[[str, Json, str], list[str]] | None = None, seed: int = 0
    ) -> None:
        self.definition = definition
        self.queries = queries or Queries()
        self.check = check or (lambda resource, arguments, where: [])
        self.random = random.Random(seed)

    def run(self, script: Script, input: Json, *, name: str = "run-2026-11-22", context: Mapping[str, Json] | None = None) -> Execution:
        """One execution from its input to its end."""
        self._clock, self._script, self._execution = Clock(), script, Execution()
        machine = "arn:aws:states:us-east-1:111111111111:stateMachine:machine"
        self._context = {
            "Execution": {
                "Id": f"{machine.replace(':stateMachine:', ':execution:')}:{name}",
                "Input": input,
                "Name": name,
                "RoleArn": "arn:aws:iam::111111111111:role/machine",
                "StartTime": self._time(),
                "RedriveCount": 0,
            },
            "StateMachine": {"Id": machine, "Name": "machine"},
            **(context or {}),
        }
        done, scope = self._execution, _Scope()
        try:
            done.output = self._clock.run(self._workflow(self.definition, input, scope))
            done.status = "SUCCEEDED"
        except StateError as error:
            done.error, done.cause = error.error, error.cause
        done.seconds, done.variables = self._clock.now, scope.own
        return done

    # -- one workflow: the machine itself, or one item of a Map ------------------------------------------

    def _workflow(self, definition: Json, data: Json, scope: _Scope) -> Steps:
        name: str | None = definition["StartAt"]
        while name is not None:
            if name not in definition["States"]:
                raise StateError("States.Runtime", f"there is no state {name!r}")
            data, name = yield from self._state(name, definition["States"][name], data, scope)
        return data

    def _state(self, name: str, state: Json, data: Json, scope: _Scope) -> Steps:
        self._note(name, "entered", scope)
        used: dict[int, int] = {}
        while True:
            states = {"input": data, "context": self._state_context(name, sum(used.values()), scope)}
            try:
                self._limit(data, f"the input of {name!r}")
                return (yield from self._attempt(name, state, states, scope))
            except StateError as error:
                if state["Type"] == "Fail":
                    raise
                delay = self._retry(name, state, error, used, scope)
                if delay is None:
                    return self._catch(name, state, error, states, scope)
            yield delay

    def _attempt(self, name: str, state: Json, states: Json, scope: _Scope) -> Steps:
        """Do the state's work; its output and the next state's name."""
        rule, following = state, state.get("Next")
        if state["Type"] == "Task":
            states["result"] = yield from self._task(name, state, states, scope)
        elif state["Type"] == "Map":
            states["result"] = yield from self._map(name, state, states, scope)
        elif state["Type"] == "Choice":
            rule, following = self._choice(name, state, states, scope)
        elif state["Type"] == "Wait":
            yield self._wait_seconds(name, state, states, scope)
        elif state["Type"] == "Fail":
            error, cause = (self._text(name, state, key, states, scope) for key in ("Error", "Cause"))
            raise StateError(error, cause)
        elif state["Type"] not in ("Pass", "Succeed"):
            raise NotImplementedError(f"the interpreter knows no {state['Type']} state ({name})")
        return self._leave(name, rule, states, states.get("result", states["input"]), scope), following

    def _leave(self, name: str, rule: Json, states: Json, default: Json, scope: _Scope) -> Json:
        """Evaluate Output and Assign against the old variables, then assign."""
        output = self._value(rule["Output"], states, scope, f"{name}.Output") if "Output" in rule else default
        assigned = self._value(rule.get("Assign", {}), states, scope, f"{name}.Assign")
        self._limit(output, f"the output of {name!r}")
        for key, value in assigned.items():
            if len(json.dumps(value).encode()) > MAX_VARIABLE_BYTES:
                raise StateError("States.DataLimitExceeded", f"variable {key} of {name!r}")
        scope.own.update(assigned)
        return output

    # -- the kinds of states -----------------------------------------------------------------------------

    def _task(self, name: str, state: Json, states: Json, scope: _Scope) -> Steps:
        arguments = self._value(state.get("Arguments", {}), states, scope, f"{name}.Arguments")
        self._limit(arguments, f"the arguments of {name!r}")
        retry = states["context"]["State"]["RetryCount"]
        call = Call(name, state["Resource"], arguments, self._clock.now, retry, scope.item)
        self._execution.calls.append(call)
        wrong = self.check(state["Resource"], arguments, name)
        if wrong:
            raise StateError("States.Runtime", "; ".join(wrong))
        call.outcome = self._script(call)
        limit = self._value(state.get("TimeoutSeconds", 99_999_999), states, scope, f"{name}.TimeoutSeconds")
        try:
            yield min(call.outcome.seconds, limit)
        except GeneratorExit:
            call.ended = "stopped"
            raise
        if call.outcome.seconds > limit:
            call.ended = "timed out"
            raise StateError("States.Timeout", f"{name} ran longer than {limit} seconds")
        if isinstance(call.outcome, Failure):
            call.ended = "failed"
            raise StateError(call.outcome.error, call.outcome.cause)
        call.ended = "succeeded"
        return call.outcome.value

    def _map(self, name: str, state: Json, states: Json, scope: _Scope) -> Steps:
        """Inline Map: up to MaxConcurrency items at once (0: all); the first failure stops the others and is the Map's."""
        processor = state["ItemProcessor"]
        if processor.get("ProcessorConfig", {}).get("Mode", "INLINE") != "INLINE":
            raise NotImplementedError(f"{name}: only inline Maps")
        items = self._value(state.get("Items", states["input"]), states, scope, f"{name}.Items")
        if not isinstance(items, list):
            raise StateError("States.QueryEvaluationError", f"{name}.Items is {type(items).__name__}, not an array")
        limit = self._value(state.get("MaxConcurrency", 0), states, scope, f"{name}.MaxConcurrency") or len(items)
        waiting, running, results = deque(enumerate(items)), dict[int, Process](), [None] * len(items)
        try:
            while waiting or running:
                while waiting and len(running) < limit:
                    index, item = waiting.popleft()
                    running[index] = self._clock.start(self._item(name, state, states, scope, index, item))
                ended: Process = yield FirstOf(list(running.values()))
                index = next(key for key, process in running.items() if process is ended)
                if ended.error is not None:
                    raise ended.error
                results[index] = running.pop(index).result
        finally:
            for process in running.values():
                self._clock.cancel(process)
        return results

    def _item(self, name: str, state: Json, states: Json, scope: _Scope, index: int, item: Json) -> Steps:
        context = {"Item": {"Index": index, "Value": item}}
        inner = _Scope(outer=scope, item=index, map_context=context)
        data = item
        if "ItemSelector" in state:
            seen = {"input": states["input"], "context": {**states["context"], "Map": context}}
            data = self._value(state["ItemSelector"], seen, scope, f"{name}.ItemSelector")
        return (yield from self._workflow(state["ItemProcessor"], data, inner))

    def _choice(self, name: str, state: Json, states: Json, scope: _Scope) -> tuple[Json, str]:
        for index, rule in enumerate(state["Choices"]):
            holds = self._value(rule["Condition"], states, scope, f"{name}.Choices[{index}].Condition")
            if not isinstance(holds, bool):
                raise StateError("States.QueryEvaluationError", f"{name}.Choices[{index}].Condition gave {holds!r}, no boolean")
            if holds:
                self._note(name, "choice", scope, index)
                return rule, rule["Next"]
        if "Default" not in state:
            raise StateError("States.NoChoiceMatched", f"no rule of {name!r} holds and it has no Default")
        self._note(name, "default", scope)
        return {key: value for key, value in state.items() if key in ("Output", "Assign")}, state["Default"]

    def _wait_seconds(self, name: str, state: Json, states: Json, scope: _Scope) -> float:
        if "Timestamp" in state:
            until = datetime.fromisoformat(self._value(state["Timestamp"], states, scope, f"{name}.Timestamp"))
            return max(0.0, (until - START).total_seconds() - self._clock.now)
        seconds = self._value(state["Seconds"], states, scope, f"{name}.Seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 <= seconds <= 99_999_999:
            raise StateError("States.QueryEvaluationError", f"{name}.Seconds gave {seconds!r}; it takes an integer of 0 to 99999999")
        return float(seconds)

    # -- errors ------------------------------------------------------------------------------------------

    def _retry(self, name: str, state: Json, error: StateError, used: dict[int, int], scope: _Scope) -> float | None:
        """Seconds until the next attempt, or None when no retrier takes the error."""
        for index, retrier in enumerate(state.get("Retry", [])):
            if not matches(retrier["ErrorEquals"], error.error):
                continue
            if used.get(index, 0) >= retrier.get("MaxAttempts", DEFAULT_ATTEMPTS):
                return None
            used[index] = used.get(index, 0) + 1
            self._note(name, "retry", scope, index, error.error)
            rate: float = retrier.get("BackoffRate", DEFAULT_RATE)
            delay: float = retrier.get("IntervalSeconds", DEFAULT_INTERVAL) * rate ** (used[index] - 1)
            delay = min(delay, retrier.get("MaxDelaySeconds", delay))
            return self.random.uniform(0, delay) if retrier.get("JitterStrategy") == "FULL" else delay
        return None

    def _catch(self, name: str, state: Json, error: StateError, states: Json, scope: _Scope) -> tuple[Json, str]:
        for index, catcher in enumerate(state.get("Catch", [])):
            if matches(catcher["ErrorEquals"], error.error):
                self._note(name, "catch", scope, index, error.error)
                report = {"Error": error.error, "Cause": error.cause}
                seen = {"input": states["input"], "context": states["context"], "errorOutput": report}
                return self._leave(name, catcher, seen, report, scope), catcher["Next"]
        raise error

    # -- values ------------------------------------------------------------------------------------------

    def _value(self, node: Json, states: Json, scope: _Scope, where: str) -> Json:
        try:
            return self.queries.value(node, states, scope.all(), where)
        except QueryError as error:
            raise StateError("States.QueryEvaluationError", str(error)) from error

    def _text(self, name: str, state: Json, key: str, states: Json, scope: _Scope) -> str:
        value = self._value(state.get(key, ""), states, scope, f"{name}.{key}")
        if not isinstance(value, str):
            raise StateError("States.QueryEvaluationError", f"{name}.{key} gave {value!r}, no string")
        return value

    def _limit(self, value: Json, what: str) -> None:
        size = len(json.dumps(value, ensure_ascii=False).encode())
        if size > MAX_STATE_BYTES:
            raise StateError("States.DataLimitExceeded", f"{what} has {size} bytes; a state holds {MAX_STATE_BYTES}")

    def _state_context(self, name: str, retries: int, scope: _Scope) -> Json:
        context = {**self._context, "State": {"EnteredTime": self._time(), "Name": name, "RetryCount": retries}}
        return context if scope.map_context is None else {**context, "Map": scope.map_context}

    def _time(self) -> str:
        return (START + timedelta(seconds=self._clock.now)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _note(self, state: str, what: What, scope: _Scope, index: int = 0, error: str = "") -> None:
        self._execution.steps.append(Step(self._clock.now, state, what, index, error, scope.item))


def matches(names: list[str], error: str) -> bool:
    """Whether a Retry or Catch entry takes an error.

    States.ALL takes everything but the uncatchable; States.TaskFailed takes every error but a timeout;
    States.Timeout takes a missed heartbeat too.
    """
    if error in names:
        return True
    if error in UNCATCHABLE:
        return False
    timeout = error in ("States.Timeout", "States.HeartbeatTimeout")
    return "States.ALL" in names or ("States.TaskFailed" in names and not timeout) or ("States.Timeout" in names and timeout)
