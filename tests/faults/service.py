"""What the services themselves do to a run: no builds, states too large, starts that are lost, a checkpoint sync that stalls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from account import Account, Json, Unexpected, expect, expect_words
from capacity import succeeded
from rounds import SCHEDULE
from small_run import resumed, run_input, unbroken
from table import Row

from infra.monitor import published_metrics
from local_aws.injected_faults import Fault

INPUT_BYTES = 262_100  # StartExecution takes 262,144: Admit's arguments, which hold the input, are larger
NEVER = "no line of a job's log holds this"
STALL_LINE = '"step": 24,'  # the second checkpoint is being saved by then, so that the first one's files are whole
UPLOADING_SECONDS = 40.0  # in place of the hour that users report; two rounds of the monitor fit in


def _explained(account: Account, run: str) -> Json:
    """The explanation of an execution that could not give one itself."""
    key = account.until(lambda: next(iter(account.keys(f"runs/{run}/ended-")), None), "an explanation", every=1)
    found: Json = json.loads(account.read(f"runs/{run}/ended-{key}"))
    return found


def no_builds_allowed(account: Account) -> Iterator[Row]:
    """A new account that may run no builds."""
    run = "no-builds"
    said = "Cannot have more than 0 builds in queue for the account"
    account.aws.inject(
        Fault(id=run, on="StartBuild", caller="state machine", error="AccountLimitExceededException", message=said, times=-1)
    )
    ended = account.run(run_input(run))
    account.aws.inject()
    expect("the end", (ended.status, ended.error), ("FAILED", "BuildsNotAllowed"))
    expect_words(ended.cause, "BuildsNotAllowed (stop)", said, "open a support case", "make images")
    expect("whether it waited for a place", "Wait to build" in ended.states, False)
    expect("jobs", (account.processing_jobs(run), account.training_jobs(run)), ([], []))
    yield Row(
        injected="StartBuild refused on a new account: no build is allowed",
        happened=ended.cause,
        attempts=0,
        lost="nothing was created",
        seconds=ended.seconds,
    )


def oversize_state(account: Account) -> Iterator[Row]:
    """An input that fits into StartExecution and not into a state (States.DataLimitExceeded)."""
    text = json.dumps({**run_input("oversize"), "note": ""})
    execution = account.start({**run_input("oversize"), "note": "x" * (INPUT_BYTES - len(text))})
    ended = account.ended(execution)
    expect("the end", (ended.status, ended.error), ("FAILED", "States.DataLimitExceeded"))
    expect("states", ended.states, ["Admit"])
    explained = _explained(account, "oversize")
    expect("the explanation's class and stage", (explained["class"], explained["stage"]), ("Refused", "Admit"))
    expect_words(explained["sentence"], "Refused (stop): the input is too large", "256 KiB")
    expect("messages that say so", len(_messages(account, execution)), 1)
    yield Row(
        injected=f"an input of {INPUT_BYTES:,} bytes, so that Admit's arguments pass 256 KiB",
        happened=f"States.DataLimitExceeded, which no state can catch; explained from its event: {explained['sentence']}",
        attempts=0,
        lost="nothing was created",
        seconds=ended.seconds,
    )


def _messages(account: Account, words: str) -> list[Json]:
    """Published messages that hold ``words`` in subject or text."""
    lines = (account.aws.state_dir / "messages.jsonl").read_text().splitlines()
    return [line for text in lines if words in (line := json.loads(text))["subject"] + line["message"]]


def lost_schedule(account: Account) -> Iterator[Row]:
    """A schedule whose start is refused until it gives up (dead-letter queue)."""
    began, sqs = time.monotonic(), account.client("sqs")
    (queue,) = [url for url in sqs.list_queues()["QueueUrls"] if "Lost" in url]
    executions = len(_executions(account))
    account.aws.inject(Fault(id="lost", on="StartExecution", caller="schedule", error="AccessDeniedException", message="no", times=-1))
    set_schedule(account, "ENABLED")
    try:
        (letter,) = account.until(lambda: _letters(sqs, queue), "a dead letter", every=0.5)
        alarm = account.until(lambda: _alarming(account, "ScheduleLost"), "the alarm ScheduleLost", every=1)
    finally:
        set_schedule(account, "DISABLED")
        account.aws.inject()
    said = {key: value["StringValue"] for key, value in letter["MessageAttributes"].items()}
    expect("the letter's reason", said["ERROR_CODE"], "AccessDeniedException")
    kept = json.loads(json.loads(letter["Body"])["Input"])
    expect("schedule and minute that can be started again", kept["schedule"]["name"], SCHEDULE)
    expect("executions that were started", len(_executions(account)), executions)
    expect("messages of the alarm", len(_messages(account, alarm)) > 0, True)
    sqs.purge_queue(QueueUrl=queue)
    yield Row(
        injected="a schedule's StartExecution refused until Scheduler gives up",
        happened=f"its input for {kept['schedule']['time']} lies in the dead-letter queue; alarm ScheduleLost, message sent",
        attempts=0,
        lost="nothing was created; the letter's Input starts the run",
        seconds=time.monotonic() - began,
    )


def _executions(account: Account) -> list[Json]:
    pages = account.client("stepfunctions").get_paginator("list_executions").paginate(stateMachineArn=account.machine)
    return [item for page in pages for item in page["executions"]]


def _letters(sqs: Any, queue: str) -> list[Json]:
    found: list[Json] = sqs.receive_message(QueueUrl=queue, MessageAttributeNames=["All"], VisibilityTimeout=0).get("Messages", [])
    return found[:1]


def _alarming(account: Account, name: str) -> str | None:
    alarms = account.client("cloudwatch").describe_alarms(StateValue="ALARM")["MetricAlarms"]
    return next((str(alarm["AlarmName"]) for alarm in alarms if name in alarm["AlarmName"]), None)


def set_schedule(account: Account, state: str) -> None:
    """Enable or disable the deployment's schedule."""
    scheduler = account.client("scheduler")
    (summary,) = scheduler.list_schedules()["Schedules"]
    found = scheduler.get_schedule(Name=summary["Name"])
    kept = ("Name", "ScheduleExpression", "ScheduleExpressionTimezone", "FlexibleTimeWindow", "Target")
    scheduler.update_schedule(**{key: found[key] for key in kept}, State=state)


# -- the sync of checkpoints -----------------------------------------------------------------------------


def sync_stalled(account: Account) -> Iterator[Row]:
    """The checkpoint sync stalls while the job trains, an age of its own shows it, and the job ends in InternalServerError."""
    run = "sync-stalled"
    account.order(run, Fault(id="", on="TrainingJob", outcome="SyncStall", after=STALL_LINE, seconds=UPLOADING_SECONDS))
    execution = account.start(run_input(run))
    name = account.until(lambda: _uploading(account, run), f"Uploading of {run}", every=0.5)
    ages = []
    for _ in range(2):
        ages.append(_monitored(account)[name][published_metrics.SYNC_AGE.name])
        time.sleep(10)
    expect("whether the age of the newest write grows with the clock", ages[1] - ages[0] >= 9, True)
    ended = account.ended(execution)
    succeeded(ended)
    (verdict,) = ended.verdicts
    expect_words(verdict, "ServiceFault", "attempt 2 on on_demand ml.c7i.large in 0 s from", "/checkpoints/step-")
    yield Row(
        injected="the checkpoint sync stalls in step 24; the job trains on, uploads for ever and ends in InternalServerError",
        happened=f"{published_metrics.SYNC_AGE.name} grew to {ages[1]:.0f} s meanwhile; ServiceFault, resumed from what had arrived",
        attempts=len(account.training_jobs(run)),
        lost=resumed(account, run),
        seconds=ended.seconds,
    )


def fault_after_the_last_step(account: Account) -> Iterator[Row]:
    """InternalServerError after Uploading, when everything has arrived."""
    run = "fault-last"
    account.order(run, Fault(id="", on="TrainingJob", outcome="SyncStall", after=NEVER, seconds=1.0))
    ended = account.run(run_input(run))
    succeeded(ended)
    (job,) = account.training_jobs(run)
    expect("the job", (job["TrainingJobStatus"], job["FailureReason"].split(":")[0]), ("Failed", "InternalServerError"))
    expect("what triage said", ended.verdicts, ["the job had reached its last step, and everything it made is in S3"])
    report = json.loads(account.read(f"runs/{run}/report.json"))
    expect("the report's outcome", report["outcome"], "succeeded")
    yield Row(
        injected="InternalServerError after Uploading, result and export have arrived",
        happened=f"{ended.verdicts[0]}: no attempt is bought, the run succeeds and is reported",
        attempts=1,
        lost=unbroken(account, run),
        seconds=ended.seconds,
    )


def _uploading(account: Account, run: str) -> str | None:
    jobs = account.training_jobs(run)
    if any(job["TrainingJobStatus"] == "Failed" for job in jobs):
        raise Unexpected(f"{run} ended before it was seen Uploading")
    return next((str(job["TrainingJobName"]) for job in jobs if job["SecondaryStatus"] == "Uploading"), None)


def _monitored(account: Account) -> Json:
    """One round of the deployed monitor: values by job. A round fails when a job of another case ends meanwhile."""
    functions = account.client("lambda")
    (name,) = [item["FunctionName"] for item in functions.list_functions()["Functions"] if "Monitor" in item["FunctionName"]]

    def look() -> Json | None:
        answer: Json = json.loads(functions.invoke(FunctionName=name, Payload=b"{}")["Payload"].read())
        return answer.get("jobs")

    return account.until(look, "a round of the monitor", every=0.5)


FIRST = (no_builds_allowed,)
"""Before there are images: else no build is asked for."""
PROOFS = (oversize_state,)
SYNC = (sync_stalled, fault_after_the_last_step)
LAST = (lost_schedule,)
"""Once no other case needs the schedule; it refuses every start by a schedule."""
