"""Executions that ended without their own explanation: what no Catch of the state machine can catch.

Step Functions ends an execution at once on States.Runtime, on States.DataLimitExceeded, when it is stopped, and when it times out
("Error handling" in its developer guide: States.ALL catches neither of the first two). An EventBridge rule on the status FAILED,
TIMED_OUT and ABORTED then calls this. An execution that reached its state Failed has explained itself, and nothing is done.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from contracts.config import Json
from infra.edge import log
from infra.run.deployment import TriageDeployment
from infra.run.layout import RunLayout, explanation_key
from infra.triage import explain
from infra.triage.explain import explanation

DETAIL_TYPE = "Step Functions Execution Status Change"
STATUSES = ("FAILED", "TIMED_OUT", "ABORTED")
FIRST_EVENTS = 100  # Admit's output is among the first dozen
LAST_EVENTS = 20  # a poll is nine events, so its call is among them
MAX_SUBJECT = 99  # SNS takes 100 characters


@dataclass(frozen=True, kw_only=True)
class Clients:
    """AWS clients that only this needs, and those of Explain."""

    states: Any
    s3: Any
    sns: Any
    explain: explain.Clients


def explain_unreported(event: Json, clients: Clients, deployment: TriageDeployment) -> Json:
    """Explain and notify once; the explanation lies in the run's folder, and its presence ends a second delivery of the event."""
    arn = str(event["detail"]["executionArn"])
    execution = clients.states.describe_execution(executionArn=arn)
    last = clients.states.get_execution_history(executionArn=arn, maxResults=LAST_EVENTS, reverseOrder=True)["events"]
    if execution["status"] not in STATUSES or any(item["type"] == "FailStateEntered" for item in last):
        return {"explained": "by its own state Failed"}
    name = str(execution["name"])
    run_id = _run_id(clients.states.get_execution_history(executionArn=arn, maxResults=FIRST_EVENTS)["events"]) or name
    key = explanation_key(RunLayout(run_id), name)
    if _exists(clients.s3, deployment.bucket, key):
        return {"explained": "by an earlier delivery of this event"}
    if deployment.stops_jobs:
        _stop_job(last, clients.explain.sagemaker)
    found = _explanation(execution, _stage(last), clients, deployment)
    log.info(str(found["sentence"]), verdict=found["class"], action="explain", run_id=run_id, execution=arn)
    lines = (found["sentence"], f"Run {run_id}, stage {found['stage']}", f"What to do: {found['runbook']}", f"Execution: {arn}")
    clients.sns.publish(
        TopicArn=deployment.topic_arn, Subject=f"{execution['status'].capitalize()}: {run_id}"[:MAX_SUBJECT], Message="\n".join(lines)
    )
    # After the message: a crash between the two sends it twice, the other order would lose it.
    clients.s3.put_object(Bucket=deployment.bucket, Key=key, Body=json.dumps(found).encode(), ContentType="application/json")
    return found


def _explanation(execution: Json, stage: str, clients: Clients, deployment: TriageDeployment) -> Json:
    error, cause = str(execution.get("error") or ""), str(execution.get("cause") or "")
    if execution["status"] == "FAILED":
        return explain.explain({"explain": {"stage": stage, "error": error, "cause": cause}}, clients.explain, deployment)
    why = ": ".join(filter(None, (error, cause))) or "no reason given"
    if execution["status"] == "ABORTED":
        sentence = f"the execution was stopped ({why}); start one with the same run_id to go on from its last checkpoint"
        return explanation(deployment, stage=stage, name="StoppedByHand", sentence=sentence, retry="stop")
    return explanation(deployment, stage=stage, name="Unexpected", sentence=f"the execution timed out ({why})", retry="retry")


def _stop_job(last: list[Json], sagemaker: Any) -> None:
    """Stop the job that the execution was polling; SageMaker refuses what has ended already."""
    calls = [item["taskScheduledEventDetails"] for item in last if "taskScheduledEventDetails" in item]
    job = next((json.loads(call["parameters"]).get("TrainingJobName") for call in calls if "TrainingJob" in call["resource"]), None)
    if job is None:
        return
    try:
        sagemaker.stop_training_job(TrainingJobName=job)
    except sagemaker.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in ("ValidationException", "ResourceNotFound"):
            raise
    log.info("stopped the training job of an execution that ended", job=job)


def _stage(last: list[Json]) -> str:
    """The state that the execution was in, from its newest events."""
    details = (item.get("stateEnteredEventDetails") or item.get("stateExitedEventDetails") for item in last)
    return next((str(found["name"]) for found in details if found), "Admit")


def _run_id(first: list[Json]) -> str | None:
    """The run's id, from Admit's output."""
    for item in first:
        done = item.get("stateExitedEventDetails") or {}
        if done.get("name") == "Admit" and done.get("output"):
            value = json.loads(done["output"])
            return str(value["run_id"]) if isinstance(value, dict) and value.get("run_id") else None
    return None


def _exists(s3: Any, bucket: str, key: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except s3.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
            return False
        raise
    return True
