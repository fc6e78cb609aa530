"""Limits of what a state machine holds, as Step Functions documents them, and executions that always end."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest
from example_machine import ROLE, Example

pytestmark = pytest.mark.embedded
LIMIT = 262_144
QUOTES = 2


def run(example: Example, definition: object, given: str = "{}") -> dict[str, Any]:
    """Create a state machine, run it once, and describe the execution once it has ended."""
    steps = example.aws.client("stepfunctions")
    name = f"limits-{uuid.uuid4().hex[:8]}"
    machine = steps.create_state_machine(name=name, definition=json.dumps(definition), roleArn=ROLE)["stateMachineArn"]
    execution = steps.start_execution(stateMachineArn=machine, name="once", input=given)["executionArn"]
    deadline = time.monotonic() + 60
    while (described := steps.describe_execution(executionArn=execution))["status"] == "RUNNING":
        assert time.monotonic() < deadline, "still running after 60 s"
        time.sleep(0.02)
    return dict(described)


def passes(*states: dict[str, Any]) -> dict[str, Any]:
    """A machine of Pass states, one after the other, in JSONata."""
    named = {f"s{number}": {"Type": "Pass", "Next": f"s{number + 1}", **state} for number, state in enumerate(states)}
    return {"QueryLanguage": "JSONata", "StartAt": "s0", "States": {**named, f"s{len(states)}": {"Type": "Succeed"}}}


def padded(length: int, letter: str = "a") -> str:
    return f"{{% $pad('', {length}, '{letter}') %}}"


@pytest.mark.parametrize(("letter", "width"), [("a", 1), ("é", 2)])
def test_an_output_may_have_256_kib_of_utf8_and_no_more(example: Example, letter: str, width: int) -> None:
    fits = (LIMIT - QUOTES) // width
    assert run(example, passes({"Output": padded(fits, letter)}))["status"] == "SUCCEEDED"
    ended = run(example, passes({"Output": padded(fits + 1, letter)}))
    assert (ended["status"], ended["error"]) == ("FAILED", "States.DataLimitExceeded")
    assert ended["cause"] == "The state/task 's0' returned a result with a size exceeding the maximum number of bytes service limit."


def test_one_assign_and_all_variables_are_limited(example: Example) -> None:
    one = run(example, passes({"Assign": {"x": padded(LIMIT)}, "Output": 1}))
    assert (one["status"], one["error"]) == ("FAILED", "States.DataLimitExceeded")
    two = run(example, passes({"Assign": {"x": padded(LIMIT // 2), "y": padded(LIMIT // 2)}, "Output": 1}))
    assert two["error"] == "States.DataLimitExceeded"
    full = [{"Assign": {f"x{number}": padded(250_000)}, "Output": 1} for number in range(42)]  # 10.5 million bytes
    many = run(example, passes(*full))
    assert (many["error"], "variables" in many["cause"]) == ("States.DataLimitExceeded", True)
    assert run(example, passes(*full[:41]))["status"] == "SUCCEEDED"


def test_expressions_of_one_assign_see_the_old_values(example: Example) -> None:
    second = {"Assign": {"a": "{% $a + 1 %}", "b": "{% $a %}"}}
    ended = run(example, passes({"Assign": {"a": 1}}, second, {"Output": "{% [$a, $b] %}"}))
    assert json.loads(ended["output"]) == [2, 1]


def test_catch_by_states_all_does_not_see_terminal_errors(example: Example) -> None:
    def machine(arguments: object) -> dict[str, Any]:
        task = {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {"FunctionName": "example", "Payload": arguments},
            "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Caught"}],
            "End": True,
        }
        return {"QueryLanguage": "JSONata", "StartAt": "Ask", "States": {"Ask": task, "Caught": {"Type": "Succeed"}}}

    given = run(example, machine("{% [$pad('', 200000, 'a'), $pad('', 100000, 'a')] %}"))
    assert (given["error"], "was given arguments" in given["cause"]) == ("States.DataLimitExceeded", True)
    # the function returns what it is given and a few bytes more
    back = run(example, machine("{% $pad('', 262100, 'a') %}"))
    assert (back["error"], "returned a result" in back["cause"]) == ("States.DataLimitExceeded", True)


@pytest.mark.parametrize("definition", [[], {"StartAt": "A", "States": {"A": {"Type": "Choice", "Choices": [{}]}}}])
def test_a_defect_in_an_execution_ends_it_with_its_reason(example: Example, definition: object) -> None:
    ended = run(example, definition)
    assert ended["status"] == "FAILED"
    assert ended["error"] in ("States.Runtime", "States.NoChoiceMatched")
    assert ended["cause"]
