"""Triage: an ended attempt -> the next attempt, or the explanation why there is none.

A task can fail although its job is under way: the answer to the call that created it was lost, or a look at its status was refused. A
second job would be paid for beside it. So the machine comes back to the same attempt later: SageMaker refuses the job's name, which is
unique for ever, and Triage looks again, until the job has ended and is judged like any other.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from contracts.config import Json, parse
from contracts.failure import read_failure
from infra.edge import log
from infra.run.deployment import TriageDeployment
from infra.run.run_jobs import UNDER_WAY
from infra.triage.attempts import Attempt, Limits, Source, decide, read_attempt, write_attempt
from infra.triage.decisions import Evidence, judge
from infra.triage.explain import Clients, explanation
from infra.triage.go_on_from import LegFiles, with_checkpoint
from infra.triage.warm_pool import POOL_END_SECONDS, give_up_pool

KINDS = {"Train": "Training", "Evaluate": "Training", "Prepare corpus": "Processing", "Prepare data": "Processing"}
"""Stage -> the word in SageMaker's names."""

RECORD = (
    *("{kind}JobName", "{kind}JobStatus", "SecondaryStatus", "CreationTime", "{kind}StartTime", "{kind}EndTime"),
    *("BillableTimeInSeconds", "FailureReason", "ExitMessage"),
)
"""Fields of a job's description that the execution carries on to the report."""
LOOK_SECONDS, LOOK_SHARE = 60, 0.02
"""Pause before the next look at a job that is under way: a fiftieth of its age, a minute at least. A look is about 25 of the 25,000 events
that Step Functions keeps of an execution: five days, the longest job by default, take 290 looks, and ten days 325."""
MAX_REASON = 200  # bytes of a reason in the record: 16 legs x HISTORY records must fit into a state's 256 KiB


def triage(event: Json, clients: Clients, deployment: TriageDeployment, *, jitter: float) -> Json:
    """The decision as the state machine reads it: ``again``, ``attempt``, ``says`` and, when it is over, ``explanation``."""
    stage, leg, attempt = str(event["stage"]), event["leg"], read_attempt(event["attempt"])
    kind, error = KINDS[stage], event.get("error") or {}
    job_name = f"{leg['job']}-{attempt.number}"
    job = _describe(clients, kind, job_name)
    if job.get(f"{kind}JobStatus") in UNDER_WAY:
        return _look_again(job, f"{kind}JobStatus", job_name, event["attempt"])
    limits = parse(Limits, leg["limits"], "limits")
    sources = tuple(parse(Source, source, "sources") for source in leg["sources"])
    files = LegFiles.of(leg, clients.s3) if stage == "Train" else None
    completed = "the job had completed" if job.get(f"{kind}JobStatus") == "Completed" else None
    if files is not None and completed is None and files.finished(attempt.number):
        completed = "the job had reached its last step, and everything it made is in S3"
    if completed is not None:  # the task failed although the work is done: use the job's result
        log.info(f"the task failed although {completed}", job=job_name)
        return {"again": False, "completed": True, "job": _record(job, kind), "attempt": event["attempt"], "says": completed}
    verdict = judge(_evidence(job, kind, error))
    decision = decide(limits, sources, attempt, verdict, _record(job, kind), jitter=jitter)
    if files is not None and decision.again:
        decision = with_checkpoint(decision, attempt, verdict, files)
    pool = give_up_pool(clients.sagemaker, job, verdict)
    if pool and decision.again:
        pause = max(decision.attempt.wait_seconds, POOL_END_SECONDS)
        decision = dataclasses.replace(decision, attempt=dataclasses.replace(decision.attempt, wait_seconds=pause))
    detail = explanation(
        deployment,
        stage=stage,
        name=decision.name,
        sentence=decision.sentence,
        retry=decision.retry,
        attempts=decision.attempt.number - decision.again,
        log_group=f"/aws/sagemaker/{kind}Jobs",
        log_stream=clients.log_stream(f"/aws/sagemaker/{kind}Jobs", f"{job_name}/"),
    )
    upcoming = sources[decision.attempt.source]
    says = f"{decision.name}: {decision.sentence}; " + (
        f"attempt {decision.attempt.number} on {upcoming.kind} {upcoming.instance_type} in {decision.attempt.wait_seconds} s"
        f"{_from(decision.attempt)}"
        if decision.again
        else "no further attempt"
    )
    says += pool
    log.info(says, job=job_name, verdict=decision.name, action=verdict.action, again=decision.again)
    return {"again": decision.again, "completed": False, "attempt": write_attempt(decision.attempt), "explanation": detail, "says": says}


def _look_again(job: Json, status: str, job_name: str, attempt: Json) -> Json:
    """The same attempt once more, after a pause."""
    age = (datetime.datetime.now(datetime.UTC) - _time(job["CreationTime"])).total_seconds()
    pause = max(LOOK_SECONDS, round(age * LOOK_SHARE))
    says = f"the task failed, and its job {job_name} is {job[status]}: no other is created, it is looked at again in {pause} s"
    log.warning(says, job=job_name, action="look again")
    return {"again": True, "completed": False, "under_way": True, "attempt": {**attempt, "wait_seconds": pause}, "says": says}


def _from(attempt: Attempt) -> str:
    return "" if attempt.checkpoint is None else f" from {'/'.join(attempt.checkpoint.rstrip('/').split('/')[-3:])}"


def _describe(clients: Clients, kind: str, name: str) -> Json:
    call = getattr(clients.sagemaker, f"describe_{kind.lower()}_job")
    try:
        description: Json = call(**{f"{kind}JobName": name})
    except clients.sagemaker.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in ("ValidationException", "ResourceNotFound", "ResourceNotFoundException"):
            return {}  # it was never created
        raise
    return description


def _evidence(job: Json, kind: str, error: Json) -> Evidence:
    waiting = job.get("StoppingCondition", {}).get("MaxPendingTimeInSeconds") or job.get("StoppingCondition", {}).get(
        "MaxWaitTimeInSeconds"
    )
    started, ended = job.get(f"{kind}StartTime"), job.get(f"{kind}EndTime") or job.get("LastModifiedTime")
    waited_out = False
    if waiting and not started and job.get("CreationTime") and ended:
        # SageMaker has no secondary status for an expired MaxPendingTimeInSeconds; the elapsed time distinguishes it from a stop by hand.
        waited_out = (_time(ended) - _time(job["CreationTime"])).total_seconds() >= 0.95 * waiting
    secondary = job.get("SecondaryStatus", "")
    if kind == "Processing" and job.get("ProcessingJobStatus") == "Stopped" and started and ended:
        limit = job.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 0)
        # Processing jobs have no secondary status: the elapsed time distinguishes a time limit from a stop by hand.
        if limit and (_time(ended) - _time(started)).total_seconds() >= 0.95 * limit:
            secondary = "MaxRuntimeExceeded"
    return Evidence(
        error=str(error.get("Error", "")),
        cause=str(error.get("Cause", "")),
        status=str(job.get(f"{kind}JobStatus", "")),
        secondary_status=str(secondary),
        failure_reason=_reason(job),
        started=bool(started),
        waited_out=waited_out,
    )


def _reason(job: Json) -> str:
    """The job's own sentence where it left one (a processing job's is its ExitMessage), else everything SageMaker says."""
    texts = [str(job[key]) for key in ("ExitMessage", "FailureReason") if job.get(key)]
    return next((text for text in texts if read_failure(text) is not None), " ".join(texts))


def _record(job: Json, kind: str) -> Json:
    names = (field.format(kind=kind) for field in RECORD)
    record = {name: _plain(job[name]) for name in names if job.get(name) is not None}
    resources = job.get("ResourceConfig") or job.get("ProcessingResources", {}).get("ClusterConfig")
    if resources:
        where = "ResourceConfig" if kind == "Training" else "ProcessingResources"
        short = {key: resources[key] for key in ("InstanceType", "InstanceCount") if key in resources}
        record[where] = short if kind == "Training" else {"ClusterConfig": short}
    started, ended = job.get(f"{kind}StartTime"), job.get(f"{kind}EndTime")
    if kind == "Processing" and started and ended:  # billed by the second, but its description does not say how many
        record["BillableTimeInSeconds"] = round((_time(ended) - _time(started)).total_seconds())
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")
    return value.isoformat() if isinstance(value, datetime.datetime) else value


def _time(value: Any) -> datetime.datetime:
    return value if isinstance(value, datetime.datetime) else datetime.datetime.fromtimestamp(float(value), datetime.UTC)
