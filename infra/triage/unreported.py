"""Executions that ended without their own explanation: what no Catch of the state machine can catch.

Step Functions ends an execution at once on States.Runtime, on States.DataLimitExceeded, when it is stopped, and when it times out
("Error handling" in its developer guide: States.ALL catches neither of the first two). infra/triage/ended.py then calls this. An
execution that reached its state Failed has explained itself, and nothing is done.
Report is invoked in the background for what this explains: a stopped run has its report, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from contracts.config import Json
from infra.edge import log
from infra.run.deployment import TriageDeployment
from infra.run.layout import RunLayout, explanation_key
from infra.run.run_jobs import KINDS
from infra.run.stored import read_json
from infra.triage import explain
from infra.triage.explain import explanation
from infra.triage.history import done_before, entered, stage_of

LAST_EVENTS = 40  # from one call for a job to the next are 25 events, so one is among them
MAX_SUBJECT = 99  # SNS takes 100 characters
OUTCOMES = {"ABORTED": "stopped", "TIMED_OUT": "timed out"}
"""The report's word for an execution's status; any other is a failure."""


@dataclass(frozen=True, kw_only=True)
class Clients:
    """AWS clients that only this needs, and those of Explain."""

    states: Any
    s3: Any
    sns: Any
    functions: Any
    """Lambda."""
    events: Any
    """EventBridge."""
    explain: explain.Clients


def explain_unreported(execution: Json, run_id: str, clients: Clients, deployment: TriageDeployment) -> Json:
    """Explain and notify once; the explanation lies in the run's folder, and its presence ends a second delivery of the event."""
    arn, name = str(execution["executionArn"]), str(execution["name"])
    last = clients.states.get_execution_history(executionArn=arn, maxResults=LAST_EVENTS, reverseOrder=True)["events"]
    if any(item["type"] == "FailStateEntered" for item in last[:5]):  # the state's own event, and the execution's: a redrive follows them
        return {"explained": "by its own state Failed"}
    key = explanation_key(RunLayout(run_id), name)
    before = read_json(clients.s3, deployment.bucket, key)
    end = (execution.get("stopDate") or execution["startDate"]).isoformat()
    if before.pop("ended", None) == end:
        return {**before, "explained": "by an earlier delivery of this event"}
    _stop_job(last, clients.explain.sagemaker)
    found = _explanation(execution, stage_of(last), clients, deployment)
    log.info(str(found["sentence"]), verdict=found["class"], action="explain", run_id=run_id, execution=arn)
    lines = (found["sentence"], f"Run {run_id}, stage {found['stage']}", f"What to do: {found['runbook']}", f"Execution: {arn}")
    subject = f"{OUTCOMES.get(execution['status'], 'failed').capitalize()}: {run_id}"[:MAX_SUBJECT]
    clients.sns.publish(TopicArn=deployment.topic_arn, Subject=subject, Message="\n".join(lines))
    report = _report_event(execution, run_id, found, clients.states)
    clients.functions.invoke(FunctionName=deployment.report_function, InvocationType="Event", Payload=json.dumps(report).encode())
    # Last: a crash before it sends message and report twice, another order would lose them.
    body = json.dumps({**found, "ended": end}).encode()
    clients.s3.put_object(Bucket=deployment.bucket, Key=key, Body=body, ContentType="application/json")
    return found


def _report_event(execution: Json, run_id: str, found: Json, states: Any) -> Json:
    """What the state Report failure would have passed on, as far as the execution's events tell it; the jobs are SageMaker's to tell."""
    pages = states.get_paginator("get_execution_history").paginate(executionArn=execution["executionArn"], includeExecutionData=False)
    given = input_of(execution)
    return {
        "run_id": run_id,
        "asked": {key: given[key] for key in ("run_id", "schedule") if key in given},
        "execution_arn": execution["executionArn"],
        "started": execution["startDate"].isoformat(),
        "ended": (execution.get("stopDate") or execution["startDate"]).isoformat(),
        "outcome": OUTCOMES.get(execution["status"], "failed"),
        "explanation": found,
        **done_before(entered(event for page in pages for event in page["events"])),
    }


def input_of(execution: Json) -> Json:
    """The execution's input; {} where it cannot be read."""
    try:
        value = json.loads(execution.get("input") or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _explanation(execution: Json, stage: str, clients: Clients, deployment: TriageDeployment) -> Json:
    error, cause = str(execution.get("error") or ""), str(execution.get("cause") or "")
    if execution["status"] == "FAILED":
        return explain.explain({"explain": {"stage": stage, "error": error, "cause": cause}}, clients.explain, deployment)
    why = ": ".join(filter(None, (error, cause))) or "no reason given"
    if execution["status"] == "ABORTED":
        sentence = f"the execution was stopped ({why}); pretrain start --again goes on from its last checkpoint"
        return explanation(deployment, stage=stage, name="StoppedByHand", sentence=sentence, retry="stop")
    return explanation(deployment, stage=stage, name="Unexpected", sentence=f"the execution timed out ({why})", retry="retry")


def _stop_job(last: list[Json], sagemaker: Any) -> None:
    """Stop the job that the execution was at, unless it has ended.

    ``.sync`` stops it by itself. Polling does not, nor does an execution that came back to a job after its task had failed
    (infra/triage/triage.py).
    """
    calls = (item["taskScheduledEventDetails"] for item in last if "taskScheduledEventDetails" in item)
    kind, job = next(((kind, name) for call in calls for kind in KINDS if (name := _job_of(call, kind)) is not None), (None, None))
    if kind is None:
        return
    try:
        if getattr(sagemaker, f"describe_{kind.lower()}_job")(**{f"{kind}JobName": job})[f"{kind}JobStatus"] != "InProgress":
            return
        sagemaker.stop_training_job(TrainingJobName=job) if kind == "Training" else sagemaker.stop_processing_job(ProcessingJobName=job)
    except sagemaker.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in ("ValidationException", "ResourceNotFound"):  # it was never created, or it has just ended
            raise
        return
    log.info("stopped the job of an execution that ended", job=job)


def _job_of(call: Json, kind: str) -> str | None:
    """Name of the job that a task creates or looks at; None where it is no task of this kind of job."""
    name = json.loads(call.get("parameters") or "{}").get(f"{kind}JobName") if f"{kind}Job" in call["resource"] else None
    return None if name is None else str(name)
