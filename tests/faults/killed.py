"""Processes killed with SIGKILL, an execution that is stopped, a file that cannot be read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator

from account import Account, Unexpected, expect, expect_words
from capacity import succeeded
from small_run import BROKEN, FAULT_STEP, resumed, run_input
from table import Row


def killed_ranks(account: Account) -> Iterator[Row]:
    """Every rank killed with SIGKILL while it trains."""
    yield _killed(account, "ranks", "LOCAL_RANK=", "kill -9 of every rank", hosts=1)


def killed_container(account: Account) -> Iterator[Row]:
    """The whole container killed with SIGKILL."""
    yield _killed(account, "container", "/algo-1/home", "kill -9 of the whole container", hosts=1)


def killed_host(account: Account) -> Iterator[Row]:
    """One of two hosts killed with SIGKILL."""
    yield _killed(account, "host", "/algo-2/home", "kill -9 of everything on one of two hosts", hosts=2)


def frozen_rank(account: Account) -> Iterator[Row]:
    """A rank on one of two hosts stops answering (SIGSTOP)."""
    row = _killed(account, "frozen", "/algo-2/home", "a rank on one of two hosts stops answering (SIGSTOP)", hosts=2, number=signal.SIGSTOP)
    expect_words(row.happened, "CollectiveHang")  # the job's own watchdog, after a minute
    yield row


def _killed(account: Account, run: str, mark: str, what: str, *, hosts: int, number: signal.Signals = signal.SIGKILL) -> Row:
    execution = account.start(run_input(run, compute={"instance_count": hosts}))
    account.until_step(execution, run, FAULT_STEP)
    doomed = account.processes(run, mark)
    for process in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
    if not doomed:
        raise Unexpected(f"{run} has no process with {mark} in its environment")
    ended = account.ended(execution)
    succeeded(ended)
    first, second = account.training_jobs(run)
    expect("the jobs", [job["TrainingJobStatus"] for job in (first, second)], ["Failed", "Completed"])
    expect("their hosts", [job["ResourceConfig"]["InstanceCount"] for job in (first, second)], [hosts] * 2)
    (said,) = ended.verdicts
    expect_words(said, "attempt 2 on on_demand ml.c7i.large in 0 s")
    return Row(
        injected=f"{what} in step {FAULT_STEP}",
        happened=f"{said.partition(':')[0]}: the job failed as a whole and was resumed",
        attempts=2,
        lost=resumed(account, run, bitwise=hosts == 1),
        seconds=ended.seconds,
    )


def stopped_execution(account: Account) -> Iterator[Row]:
    """StopExecution while the job trains, and the run's lock."""
    run = "stopped"
    execution = account.start(run_input(run))
    account.until_step(execution, run, FAULT_STEP)
    refused = account.run(run_input(run))
    expect("the end of a second execution", (refused.status, refused.error), ("FAILED", "Refused"))
    expect_words(refused.cause, f'run_id: run "{run}" is active in execution {execution}', "wait for it, stop it, or choose another run_id")
    yield Row(
        injected="a second execution of a run that is active",
        happened=refused.cause.partition(" in execution")[0] + " in execution ...",
        attempts=0,
        lost="nothing: the first goes on",
        seconds=refused.seconds,
    )
    account.client("stepfunctions").stop_execution(executionArn=execution, error="Operator", cause="enough")
    account.until(lambda: not account.processes(run), f"the end of {run}'s processes")
    ended = account.ended(execution)
    expect("the execution", ended.status, "ABORTED")
    (job,) = account.training_jobs(run)
    expect("its job", job["TrainingJobStatus"] in ("Stopping", "Stopped"), True)
    again = account.run(run_input(run))  # the lock still names the execution that has ended
    succeeded(again)
    yield Row(
        injected=f"StopExecution after step {FAULT_STEP}, then the same run_id",
        happened="its job stopped, no process left; the stale lock was taken over, resumed",
        attempts=2,
        lost=resumed(account, run),
        seconds=ended.seconds + again.seconds,
    )


def corrupt_source(account: Account) -> Iterator[Row]:
    """One gzip file of the source is cut off."""
    run = "corrupt"
    ended = account.run(run_input(run, data={"source": BROKEN}))
    expect("the end", (ended.status, ended.error), ("FAILED", "CorruptSource"))
    expect_words(ended.cause, "CorruptSource (stop)", "bad.jsonl.gz")
    fingerprint = json.loads(account.read(f"runs/{run}/run.json"))["tokens"]["fingerprint"]
    expect("an index", "index.json" in account.keys(f"tokens/{fingerprint}/"), False)
    expect("training jobs", account.training_jobs(run), [])
    yield Row(
        injected="one gzip object of the source cut off",
        happened=ended.cause.replace(account.bucket, "BUCKET"),
        attempts=len(account.processing_jobs(run)),
        lost="nothing was trained; no index was written",
        seconds=ended.seconds,
    )


PROOFS = (frozen_rank, killed_host, killed_ranks, killed_container, stopped_execution, corrupt_source)
