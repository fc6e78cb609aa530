"""Redrive of stopped executions, which skips Admit: one that still owns its run goes on, one whose run was taken over makes no job."""

from __future__ import annotations

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


PROOFS = (redriven_owner, redriven_after_take_over)
