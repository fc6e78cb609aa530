"""RedriveExecution on the embedded AWS: what has ended is not run again, variables are there, and a Fail state fails again."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from typing import Any

import pytest
from botocore.exceptions import ClientError
from example_machine import ROLE, Example

pytestmark = pytest.mark.embedded

HOLD = {"Type": "Wait", "Seconds": "{% $states.context.Execution.RedriveCount = 0 and $states.input.item = 2 ? 60 : 0 %}"}
MACHINE = {
    "QueryLanguage": "JSONata",
    "StartAt": "Count",
    "States": {
        "Count": {"Type": "Pass", "Assign": {"count": "{% $states.input.count + 1 %}"}, "Output": {"items": [1, 2, 3]}, "Next": "Each"},
        "Each": {
            "Type": "Map",
            "Items": "{% $states.input.items %}",
            "MaxConcurrency": 1,
            "ItemSelector": {"item": "{% $states.context.Map.Item.Value %}"},
            "ItemProcessor": {
                "StartAt": "Mark",
                "States": {
                    "Mark": {"Type": "Pass", "Next": "Hold"},
                    "Hold": {**HOLD, "Next": "Tell"},
                    "Tell": {"Type": "Pass", "Output": "{% $states.input.item * 10 + $count %}", "End": True},
                },
            },
            "Next": "Done",
        },
        "Done": {"Type": "Succeed"},
    },
}


def machine(example: Example, definition: dict[str, Any]) -> str:
    made = example.aws.client("stepfunctions").create_state_machine(
        name=f"redriven-{uuid.uuid4().hex[:8]}", definition=json.dumps(definition), roleArn=ROLE
    )
    return str(made["stateMachineArn"])


def redrive(example: Example, execution: str) -> None:
    """As soon as the thread of the last drive has ended."""
    steps, deadline = example.aws.client("stepfunctions"), time.monotonic() + 30
    while True:
        try:
            steps.redrive_execution(executionArn=execution)
        except ClientError as error:
            assert "still stopping" in str(error) and time.monotonic() < deadline, error
            time.sleep(0.1)
        else:
            return


def entered(example: Example, execution: str) -> list[str]:
    events = example.aws.client("stepfunctions").get_execution_history(executionArn=execution, maxResults=1000)["events"]
    return [event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event]


def test_a_stopped_execution_goes_on_where_it_was_stopped(example: Example) -> None:
    steps = example.aws.client("stepfunctions")
    started = steps.start_execution(stateMachineArn=machine(example, MACHINE), input=json.dumps({"count": 4}))["executionArn"]
    deadline = time.monotonic() + 30
    while Counter(entered(example, started))["Hold"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    steps.stop_execution(executionArn=started)
    redrive(example, started)
    ended = example.wait(started)
    assert ended["status"] == "SUCCEEDED" and json.loads(ended["output"]) == [15, 25, 35]
    # The Map and the cut-off Wait are entered again; what had ended is not.
    assert Counter(entered(example, started)) == {"Count": 1, "Each": 2, "Mark": 3, "Hold": 4, "Tell": 3, "Done": 1}
    with pytest.raises(ClientError, match="it is SUCCEEDED"):
        steps.redrive_execution(executionArn=started)


def test_an_execution_that_ended_in_a_fail_state_fails_there_again(example: Example) -> None:
    failing = {"StartAt": "First", "States": {"First": {"Type": "Pass", "Next": "No"}, "No": {"Type": "Fail", "Error": "Broken"}}}
    started = example.aws.client("stepfunctions").start_execution(stateMachineArn=machine(example, failing))["executionArn"]
    example.wait(started)
    redrive(example, started)
    assert (example.wait(started)["status"], entered(example, started)) == ("FAILED", ["First", "No", "No"])


def test_the_history_shows_what_a_task_called_and_with_what(example: Example) -> None:
    """Triage stops the job of a polled execution that ended by what its last call asked for."""
    steps = example.aws.client("stepfunctions")
    arguments = {"TrainingJobName": "not-there"}
    asks = {"Type": "Task", "Resource": "arn:aws:states:::aws-sdk:sagemaker:describeTrainingJob", "Arguments": arguments, "End": True}
    started = steps.start_execution(
        stateMachineArn=machine(example, {"QueryLanguage": "JSONata", "StartAt": "Ask", "States": {"Ask": asks}})
    )
    assert example.wait(started["executionArn"])["status"] == "FAILED"
    events = steps.get_execution_history(executionArn=started["executionArn"])["events"]
    (shown,) = [event["taskScheduledEventDetails"] for event in events if "taskScheduledEventDetails" in event]
    assert (shown["resourceType"], shown["resource"], shown["region"]) == ("aws-sdk:sagemaker", "describeTrainingJob", "us-east-1")
    assert json.loads(shown["parameters"]) == arguments
