"""Executions that end outside of every Catch: the rule's events, handled by the triage function's own code, and their reports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from aws_models.asl import START
from aws_models.execution import Outcome
from aws_models.pipeline import Pipeline, Scenario
from aws_models.synthesis import Synthesis
from aws_models.world import World

Json = Any
RUN = "weekly-20261122T0600"


@dataclass(frozen=True)
class Ended:
    """What each delivery of an event led to, and the world with the calls."""

    outcomes: dict[str, Outcome]
    reports: list[Outcome]
    """Of the invocations of Report that they made, in their order."""
    world: World


def events(run_id: str, last: str, *more: Json) -> list[Json]:
    """An execution's history: Admit's end, and the state that it was in when it ended."""
    return [
        {"type": "ExecutionStarted", "id": 1, "timestamp": START},
        {
            "type": "TaskStateExited", "id": 2, "timestamp": START,
            "stateExitedEventDetails": {"name": "Admit", "output": json.dumps({"run_id": run_id})},
        },
        {"type": "TaskStateEntered", "id": 3, "timestamp": START, "stateEnteredEventDetails": {"name": last}},
        *more,
    ]  # fmt: skip


def deliveries(synthesis: Synthesis) -> Ended:
    """Oversized state, fault in the definition, stopped, timed out, and one that explained itself; the first of them delivered twice, and
    one redriven and stopped again."""
    pipeline = Pipeline(synthesis)
    world = pipeline.world(Scenario())
    (rule,) = [
        r
        for r in synthesis.templates.resources("AWS::Events::Rule")
        if "aws.states" in r.properties.get("EventPattern", {}).get("source", ())
    ]
    (target,) = rule.properties["Targets"]
    failed = {"type": "FailStateEntered", "id": 4, "timestamp": START, "stateEnteredEventDetails": {"name": "Failed"}}
    call = {"resourceType": "aws-sdk:sagemaker", "resource": "describeTrainingJob", "region": "us-east-1"}
    parameters = {"parameters": json.dumps({"TrainingJobName": "r-1"})}
    made = {"parameters": json.dumps({"ProcessingJobName": "p-1"}), "resourceType": "sagemaker", "resource": "createProcessingJob.sync"}
    preparing = {"type": "TaskScheduled", "id": 4, "timestamp": START, "taskScheduledEventDetails": {**made, "region": "us-east-1"}}
    polling = {"type": "TaskScheduled", "id": 4, "timestamp": START, "taskScheduledEventDetails": {**call, **parameters}}
    ends = {
        "oversized": ("FAILED", "States.DataLimitExceeded", "the result exceeds the maximum number of bytes", events(RUN, "Train legs")),
        "faulty": ("FAILED", "States.Runtime", "an expression cannot be evaluated", events(RUN, "Report")),
        "unknown field": (
            "FAILED",
            "States.Runtime",
            "The Parameters '{}' could not be used to start the Task: [The field \"InfraCheckConfig\" is not supported by Step Functions]",
            events(RUN, "Train"),
        ),
        "stopped": ("ABORTED", "", "pretrain stop", events(RUN, "Train", polling)),
        "stopped preparing": ("ABORTED", "", "pretrain stop", events(RUN, "Prepare data", preparing)),
        "late": ("TIMED_OUT", "", "", events(RUN, "Train")),
        "explained": ("FAILED", "CorruptShard", "CorruptShard (stop): cut", events(RUN, "Failed", failed)),
        "large input": ("FAILED", "States.DataLimitExceeded", "the arguments exceed it", events(RUN, "Admit")[:1]),
        "before Admit ended": ("FAILED", "States.Runtime", "no", events(RUN, "Admit")[:1]),
    }
    outcomes = {}
    world.jobs["r-1"] = {"TrainingJobName": "r-1", "TrainingJobStatus": "InProgress"}
    world.jobs["p-1"] = {"ProcessingJobName": "p-1", "ProcessingJobStatus": "InProgress"}
    for name, (status, error, cause, history) in ends.items():
        arn = f"arn:aws:states:us-east-1:111111111111:execution:machine:{name.replace(' ', '-')}"
        described = {"executionArn": arn, "name": arn.rsplit(":", 1)[-1], "status": status, "error": error, "cause": cause}
        world.ended[arn] = {**described, "stateMachineArn": "arn", "startDate": START, "stopDate": START, "input": "{}", "events": history}
        detail = {"executionArn": arn, "status": status, "stateMachineArn": rule.properties["EventPattern"]["detail"]["stateMachineArn"][0]}
        event = {"detail-type": rule.properties["EventPattern"]["detail-type"][0], "source": "aws.states", "detail": detail}
        outcomes[name] = pipeline.invoke(target["Arn"], event, world)
        if name == "stopped":  # redriven, and stopped again
            world.ended[arn] |= {"stopDate": START + timedelta(hours=1), "redriveCount": 1}
            outcomes["stopped again"] = pipeline.invoke(target["Arn"], event, world)
        if name == "oversized":
            outcomes["oversized again"] = pipeline.invoke(target["Arn"], event, world)
    asked = [call.parameters for call in world.calls if call.operation == "Invoke"]
    world.jobs["r-1"]["TrainingJobStatus"] = world.jobs["p-1"]["ProcessingJobStatus"] = "Stopped"
    reports = [pipeline.invoke(given["FunctionName"], json.loads(given["Payload"]), world) for given in asked]
    return Ended(outcomes, reports, world)
