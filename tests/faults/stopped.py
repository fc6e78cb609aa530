"""Jobs that end Stopped: time limit, money, spot, a person. Whether ``.sync`` returns or raises is undocumented; both are tested."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from account import Account, expect, expect_words
from capacity import succeeded
from small_run import FAULT_LINE, resumed, run_input
from table import Row

from local_aws.injected_faults import Fault

Reported = Literal["error", "return"]
MAX_RUNTIME = 60  # the shortest that the settings allow; the launcher ends the job in step 12 as that limit would
P5_MINUTE_USD = 1.06  # ml.p5.48xlarge costs $63.296 an hour: a minute is affordable, a minute and a second is not


def spot_interrupted(account: Account) -> Iterator[Row]:
    """Spot capacity taken back while the job trains."""
    run = "spot"
    account.order(run, Fault(id="", on="TrainingJob", outcome="Spot", after=FAULT_LINE))
    ended = account.run(run_input(run, compute={"capacity": [{"kind": "spot"}]}))
    succeeded(ended)
    (said,) = ended.verdicts
    expect_words(said, "SpotInterrupted: the spot instances were taken back", "attempt 2 on spot ml.c7i.large in 0 s")
    first, second = account.training_jobs(run)
    expect("the first job", (first["TrainingJobStatus"], first["SecondaryStatus"]), ("Stopped", "MaxWaitTimeExceeded"))
    expect("the second job", second["TrainingJobStatus"], "Completed")
    yield Row(
        injected="spot interruption in step 12",
        happened="SpotInterrupted, resumed on spot",
        attempts=2,
        lost=resumed(account, run),
        seconds=ended.seconds,
    )


def time_limit(account: Account, reported: Reported) -> Iterator[Row]:
    """The job's time limit, with money left."""
    run = f"limit-{reported}"
    account.order(run, Fault(id="", on="TrainingJob", outcome="TimeLimit", after=FAULT_LINE), stopped_as=reported)
    ended = account.run(run_input(run, compute={"max_runtime_seconds": MAX_RUNTIME}))
    succeeded(ended)
    (said,) = ended.verdicts
    expect_words(said, "TimeLimit: the job reached its time limit and was stopped", "attempt 2 on on_demand")
    first, second = account.training_jobs(run)
    expect("the first job", (first["TrainingJobStatus"], first["SecondaryStatus"]), ("Stopped", "MaxRuntimeExceeded"))
    expect("the limits", [job["StoppingCondition"]["MaxRuntimeInSeconds"] for job in (first, second)], [MAX_RUNTIME] * 2)
    yield Row(
        injected=f"time limit in step 12; `.sync` {_words(reported)}",
        happened="TimeLimit, resumed",
        attempts=2,
        lost=resumed(account, run),
        seconds=ended.seconds,
    )


def time_limit_without_money(account: Account) -> Iterator[Row]:
    """The job's time limit, with the budget spent."""
    run = "poor"
    account.order(run, Fault(id="", on="TrainingJob", outcome="TimeLimit", after=FAULT_LINE))
    compute = {"instance_type": "ml.p5.48xlarge", "max_runtime_seconds": MAX_RUNTIME}
    ended = account.run(run_input(run, compute=compute, budget={"max_usd": P5_MINUTE_USD}))
    expect("the end", (ended.status, ended.error), ("FAILED", "BudgetSpent"))
    expect_words(ended.cause, "BudgetSpent (stop)", "this leg may spend $1.06", "raise budget.max_usd and start the same run_id again")
    expect("jobs", len(account.training_jobs(run)), 1)
    yield Row(
        injected="time limit in step 12 with no money for another minute",
        happened=ended.cause,
        attempts=1,
        lost="nothing: see the next line",
        seconds=ended.seconds,
    )
    again = account.run(run_input(run, compute=compute, budget={"max_usd": 100.0}))
    succeeded(again)
    yield Row(
        injected="the same run_id with a larger budget",
        happened="resumed",
        attempts=1,
        lost=resumed(account, run),
        seconds=again.seconds,
    )


def stopped_by_hand(account: Account, reported: Reported) -> Iterator[Row]:
    """StopTrainingJob by a person."""
    run = f"by-hand-{reported}"
    account.order(run, Fault(id="", on="TrainingJob", outcome="Stopped", after=FAULT_LINE), stopped_as=reported)
    ended = account.run(run_input(run))
    expect("the end", (ended.status, ended.error), ("FAILED", "StoppedByHand"))
    expect_words(ended.cause, "StoppedByHand (stop): somebody stopped the job", "with the same run_id")
    expect("jobs", len(account.training_jobs(run)), 1)
    again = account.run(run_input(run))
    succeeded(again)
    yield Row(
        injected=f"StopTrainingJob in step 12; `.sync` {_words(reported)}",
        happened="StoppedByHand, no further attempt; started again with the same run_id: resumed",
        attempts=2,
        lost=resumed(account, run),
        seconds=ended.seconds + again.seconds,
    )


def _words(reported: Reported) -> str:
    return {"error": "raises an error", "return": "returns"}[reported]


def _both(proof: object, reported: Reported) -> object:
    made = partial(proof, reported=reported)  # type: ignore[arg-type]
    made.__doc__ = f"{proof.__doc__} ({_words(reported)})"
    return made


PROOFS = (spot_interrupted, time_limit_without_money, _both(time_limit, "error"), _both(stopped_by_hand, "error"))
RETURNED = (_both(time_limit, "return"), _both(stopped_by_hand, "return"))
"""How a stopped job is reported is set for all jobs of the embedded AWS at once, so these come after the others."""
