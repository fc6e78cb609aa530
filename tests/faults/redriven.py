"""Redrive of stopped executions, which skips Admit: one that still owns its run goes on, one whose run was taken over makes no job, nor
an evaluation."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from account import Account, expect, expect_words
from botocore.exceptions import ClientError
from capacity import succeeded
from small_run import run_input, unbroken
from table import Row

from local_aws.injected_faults import Fault


def redriven_owner(account: Account) -> Iterator[Row]:
    """StopExecution between two attempts, then redrive."""
    run = "redriven"
    execution = _stopped_between_attempts(account, run)
    _redrive(account, execution)
    ended = account.ended(execution)
    succeeded(ended)
    jobs = account.training_jobs(run)
    expect("the jobs", [job["TrainingJobStatus"] for job in jobs], ["Failed", "Completed"])
    yield Row(
        injected="StopExecution between two attempts, then RedriveExecution",
        happened="it still owned the run: confirmed, trained and reported; image, data and the first attempt were not made again",
        attempts=len(jobs),
        lost=unbroken(account, run),
        seconds=ended.seconds,
    )


def redriven_after_take_over(account: Account) -> Iterator[Row]:
    """StopExecution between two attempts, another execution of the run, then redrive of the first."""
    run = "taken-over"
    execution = _stopped_between_attempts(account, run)
    other = account.start(run_input(run))
    account.until(lambda: len(account.training_jobs(run)) > 1, "the other execution's job", every=0.2)
    _redrive(account, execution)
    ended = account.ended(execution)
    expect("the redriven execution", (ended.status, ended.error), ("FAILED", "RunTakenOver"))
    expect_words(ended.cause, "RunTakenOver (stop)", f"is execution {other}'s now", "makes no further job")
    succeeded(account.ended(other))
    jobs = account.training_jobs(run)
    expect("the jobs", [job["TrainingJobStatus"] for job in jobs], ["Failed", "Completed"])
    yield Row(
        injected="StopExecution between two attempts, another execution with the same run_id, then RedriveExecution of the first",
        happened=ended.cause.replace(other, "..."),
        attempts=len(jobs),
        lost=unbroken(account, run),
        seconds=ended.seconds,
    )


def redriven_evaluation(account: Account) -> Iterator[Row]:
    """StopExecution between two attempts at an evaluation, another execution of the run, then redrive of the first."""
    run, held_out = "taken-over-late", [{"name": "novel", "source": "source/taken-over/"}]
    account.client("s3").put_object(Bucket=account.bucket, Key="source/taken-over/one.txt", Body=b"A held-out text. " * 200)
    value = run_input(run, evaluation={"held_out": held_out, "validation": False})
    account.order(run, Fault(id="", on="TrainingJob", outcome="CapacityError"), job="main-evaluate-")
    execution = account.start(value)
    account.until(lambda: "Wait to evaluate" in account.states(execution), f"the pause of {run}", every=0.2)
    account.client("stepfunctions").stop_execution(executionArn=execution, error="Operator", cause="enough")
    other = account.start(value)
    account.until(lambda: len(account.training_jobs(run)) > 2, "the other execution's job", every=0.2)
    _redrive(account, execution)
    ended = account.ended(execution)
    succeeded(ended)
    said = json.loads(account.describe(execution)["output"])["headline"]
    expect_words(said, "RunTakenOver (stop)", f"is execution {other}'s now", "makes no further job")
    succeeded(account.ended(other))
    jobs = account.training_jobs(run)
    expect("the jobs", [job["TrainingJobStatus"] for job in jobs], ["Completed", "Failed", "Completed"])
    report = json.loads(account.read(f"runs/{run}/report.json"))
    expect("whose report the run has", report["links"]["execution"].rpartition("/")[2], other)
    yield Row(
        injected="StopExecution between two attempts at an evaluation, another execution of the run, then RedriveExecution of the first",
        happened="the other one evaluated the finished leg without training it; the first made no job: RunTakenOver in its own report",
        attempts=len(jobs),
        lost=unbroken(account, run),
        seconds=ended.seconds,
    )


def _stopped_between_attempts(account: Account, run: str) -> str:
    """An execution whose first job found no capacity, stopped in the pause before the second."""
    account.order(run, Fault(id="", on="TrainingJob", outcome="CapacityError"))
    execution = account.start(run_input(run))
    account.until(lambda: "Wait" in account.states(execution), f"the pause of {run}", every=0.2)
    account.client("stepfunctions").stop_execution(executionArn=execution, error="Operator", cause="enough")
    return execution


def _redrive(account: Account, execution: str) -> None:
    """As soon as its last drive has ended."""
    deadline = time.monotonic() + 60
    while True:
        try:
            account.client("stepfunctions").redrive_execution(executionArn=execution)
        except ClientError as error:
            if "still stopping" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


PROOFS = (redriven_owner, redriven_after_take_over, redriven_evaluation)
