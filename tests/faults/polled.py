"""Training jobs by SageMaker's API and polling (setting training_task) in place of `.sync`: resumed, and stopped with the execution."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import deployments
from account import Account, expect, expect_words
from capacity import succeeded
from service import set_schedule
from small_run import FAULT_STEP, resumed, run_input
from table import Row

ENDLESS = 20_000


def polling(account: Account) -> Iterator[Row]:
    """training_task: polling, a job that is killed and an execution that is stopped."""
    began = time.monotonic()
    _deploy(account, "polling")
    deployed = time.monotonic() - began
    yield _killed(account, deployed)
    yield _stopped(account)
    _deploy(account, "sync")


def _deploy(account: Account, task: str) -> None:
    deployments.deploy(account.aws, schedule_enabled=True, training_task=task)  # enabled in the template, as before
    set_schedule(account, "DISABLED")


def _killed(account: Account, deployed: float) -> Row:
    run = "polled"
    execution = account.start(run_input(run))
    account.until_step(execution, run, FAULT_STEP)
    for process in account.processes(run, "LOCAL_RANK="):
        os.kill(process, signal.SIGKILL)
    ended = account.ended(execution)
    succeeded(ended)
    first, second = account.training_jobs(run)
    expect("the jobs", [job["TrainingJobStatus"] for job in (first, second)], ["Failed", "Completed"])
    expect_words(ended.verdicts[0], "HostLost", "attempt 2 on on_demand ml.c7i.large in 0 s")
    polls = ended.states.count("Job status")
    return Row(
        injected=f"training_task: polling, deployed within {deployed:.0f} s; kill -9 of every rank in step {FAULT_STEP}",
        happened=f"HostLost: resumed; {polls} polls saw both jobs' ends",
        attempts=2,
        lost=resumed(account, run),
        seconds=ended.seconds,
    )


def _stopped(account: Account) -> Row:
    run = "polled-stop"
    # Long: an event, a function and a call pass before the job is stopped, where `.sync` stops it itself.
    endless = {"steps": ENDLESS, "schedule": {"warmup_steps": 2, "total_steps": ENDLESS}}
    execution = account.start(run_input(run, training=endless))
    account.until_step(execution, run, FAULT_STEP)
    account.client("stepfunctions").stop_execution(executionArn=execution, error="Operator", cause="enough")
    account.until(lambda: not account.processes(run), f"the end of {run}'s processes")
    ended = account.ended(execution)
    expect("the execution", ended.status, "ABORTED")
    (status,) = {job["TrainingJobStatus"] for job in account.training_jobs(run)}
    expect("its job's status", "Stopped" if status == "Stopping" else status, "Stopped")
    return Row(
        injected=f"training_task: polling; StopExecution after step {FAULT_STEP}",
        happened="the rule on the execution's end had its job stopped; no process left",
        attempts=1,
        lost="nothing: its last checkpoint is kept",
        seconds=ended.seconds,
    )


PROOFS = (polling,)
