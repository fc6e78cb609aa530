"""Faults of capacity: none available, quotas used up, throttled API, service errors; the run waits or takes another source."""

from __future__ import annotations

from collections.abc import Iterator

from account import Account, Ended, Json, Unexpected, expect, expect_words
from small_run import FAULT_LINE, REFERENCE, resumed, run_input, unbroken
from table import Row

from local_aws.injected_faults import Fault

FAST = 1000.0  # times: the shortest pending limit that SageMaker knows is half an hour
PENDING_LIMIT = 1800


def succeeded(ended: Ended) -> None:
    """Raises Unexpected when the execution did not succeed."""
    if ended.status != "SUCCEEDED":
        raise Unexpected(f"the execution ended {ended.status}: {ended.cause or ended.error}; states {ended.states}")


def undisturbed(account: Account) -> Iterator[Row]:
    """A run that nothing disturbs."""
    ended = account.run(run_input(REFERENCE))
    succeeded(ended)
    made = "Build image" in ended.states and "Prepare data" in ended.states
    expect("image and data made", made, True)
    yield Row(
        injected="nothing: the run that others are compared with",
        happened="image built, data prepared, trained, reported",
        attempts=2,
        lost=unbroken(account, REFERENCE),
        seconds=ended.seconds,
    )


def no_capacity_then_elsewhere(account: Account) -> Iterator[Row]:
    """CapacityError on the first two capacity sources."""
    run = "elsewhere"
    sources: list[Json] = [{"kind": "spot"}, {"instance_type": "ml.c7i.2xlarge"}, {"instance_type": "ml.c7i.xlarge"}]
    account.order(run, Fault(id="", on="TrainingJob", outcome="CapacityError", times=2))
    ended = account.run(run_input(run, compute={"capacity": sources, "max_capacity_wait_seconds": 0}))
    succeeded(ended)
    jobs = account.training_jobs(run)
    got = [(job["EnableManagedSpotTraining"], job["ResourceConfig"]["InstanceType"], job["TrainingJobStatus"]) for job in jobs]
    expect("the jobs", got, [(True, "ml.c7i.large", "Failed"), (False, "ml.c7i.2xlarge", "Failed"), (False, "ml.c7i.xlarge", "Completed")])
    for verdict, following in zip(ended.verdicts, ("on_demand ml.c7i.2xlarge", "on_demand ml.c7i.xlarge"), strict=True):
        expect_words(verdict, "NoCapacity: SageMaker has no capacity for this instance type now", f"on {following} in 0 s")
    yield Row(
        injected="CapacityError on spot, then on the second type",
        happened="NoCapacity twice, trained on the third source",
        attempts=len(jobs),
        lost=unbroken(account, run),
        seconds=ended.seconds,
    )


def never_any_capacity(account: Account) -> Iterator[Row]:
    """CapacityError on every source."""
    run = "nowhere"
    account.order(run, Fault(id="", on="TrainingJob", outcome="CapacityError", times=-1))
    capacity = {"capacity": [{"kind": "spot"}, {}], "max_capacity_wait_seconds": 0}
    ended = account.run(run_input(run, compute=capacity))
    expect("the end", (ended.status, ended.error), ("FAILED", "NoCapacity"))
    expect_words(ended.cause, "NoCapacity (retry)", "tried spot ml.c7i.large, on_demand ml.c7i.large", "2 requests in all")
    jobs = account.training_jobs(run)
    expect("billed seconds", [job.get("BillableTimeInSeconds", 0) for job in jobs], [0, 0])
    yield Row(
        injected="CapacityError on every source",
        happened=f"NoCapacity (retry): ... {ended.cause[ended.cause.index('(tried') :]}",
        attempts=len(jobs),
        lost="nothing was trained, nothing is billed",
        seconds=ended.seconds,
    )


def no_capacity_for_preparation(account: Account) -> Iterator[Row]:
    """CapacityError for the processing job."""
    run = "prepare-later"
    account.order(run, Fault(id="", on="ProcessingJob", outcome="CapacityError"))
    ended = account.run(run_input(run, data={"shard_tokens": 60_000}, training={"steps": 1}))
    succeeded(ended)
    (said,) = ended.verdicts
    expect_words(said, "NoCapacity: SageMaker has no capacity for this instance type now", "attempt 2 on on_demand ml.c7i.large in ")
    jobs = account.processing_jobs(run)
    got = sorted((job["ProcessingJobStatus"], "ProcessingStartTime" in job) for job in jobs)
    expect("the jobs and whether they had instances", got, [("Completed", True), ("Failed", False)])
    yield Row(
        injected="CapacityError for the processing job",
        happened=f"NoCapacity; prepared after {said.rpartition(' in ')[2]}, then trained",
        attempts=len(jobs) + len(account.training_jobs(run)),
        lost="nothing: the first job had no instances",
        seconds=ended.seconds,
    )


def slow_api(account: Account) -> Iterator[Row]:
    """ThrottlingException at six calls of CreateTrainingJob: the first and the five that follow at once."""
    throttled = Fault(id="", on="CreateTrainingJob", error="ThrottlingException", times=6)
    yield _asked_again(account, "throttled", throttled, "Throttled: SageMaker's API did not answer", created=1)


def used_up_quota(account: Account) -> Iterator[Row]:
    """ResourceLimitExceeded at CreateTrainingJob."""
    message = (
        "The account-level service limit 'ml.c7i.large for training job usage' is 4 Instances, with current utilization of 4 Instances"
    )
    limit = Fault(id="", on="CreateTrainingJob", error="ResourceLimitExceeded", message=message)
    yield _asked_again(account, "quota-used", limit, "QuotaExceeded: the account's quota is used up", created=1)


def fault_before_instances(account: Account) -> Iterator[Row]:
    """InternalServerError before the job has instances."""
    fault = Fault(id="", on="TrainingJob", outcome="InternalServerError")
    yield _asked_again(account, "fault-early", fault, "ServiceFault: SageMaker reports a fault of its own", created=2)


def _asked_again(account: Account, run: str, fault: Fault, verdict: str, *, created: int) -> Row:
    """One request gets nothing; after a pause the same source is asked again, and no attempt is counted."""
    account.order(run, fault)
    ended = account.run(run_input(run, compute={"max_attempts": 1}))
    succeeded(ended)
    (said,) = ended.verdicts
    expect_words(said, verdict, "attempt 2 on on_demand ml.c7i.large in ")
    pause = int(said.rpartition(" in ")[2].removesuffix(" s"))
    expect("a pause between 30 and 60 seconds", 30 <= pause <= 60, True)
    jobs = account.training_jobs(run)
    expect("jobs created", len(jobs), created)
    expect("the last job's number", jobs[-1]["TrainingJobName"].rpartition("-")[2], "2")
    calls = f", {fault.times} calls" if fault.times > 1 else ""
    what = f"{fault.error} at CreateTrainingJob{calls}" if fault.error else "InternalServerError before the job had instances"
    happened = f"{said.partition(':')[0]}; the same source after {pause} s, with compute.max_attempts=1"
    return Row(injected=what, happened=happened, attempts=len(jobs), lost=unbroken(account, run), seconds=ended.seconds)


def pending_too_long(account: Account) -> Iterator[Row]:
    """Pending beyond MaxPendingTimeInSeconds."""
    run = "pending"
    account.order(run, Fault(id="", on="TrainingJob", outcome="Pending", seconds=2 * PENDING_LIMIT, times_faster=FAST))
    sources: list[Json] = [{}, {"instance_type": "ml.c7i.xlarge"}]
    ended = account.run(run_input(run, compute={"capacity": sources, "max_pending_seconds": PENDING_LIMIT}))
    succeeded(ended)
    (said,) = ended.verdicts
    expect_words(said, "PendingTooLong: no capacity came within the pending limit", "on on_demand ml.c7i.xlarge in 0 s")
    first, second = account.training_jobs(run)
    expect("the limit that SageMaker was given", first["StoppingCondition"]["MaxPendingTimeInSeconds"], PENDING_LIMIT)
    expect("the first job", (first["TrainingJobStatus"], "TrainingStartTime" in first), ("Stopped", False))
    expect("the second job's type", second["ResourceConfig"]["InstanceType"], "ml.c7i.xlarge")
    yield Row(
        injected=f"Pending beyond MaxPendingTimeInSeconds={PENDING_LIMIT} ({FAST:g} times faster)",
        happened="PendingTooLong, trained on the next source at once",
        attempts=2,
        lost=unbroken(account, run),
        seconds=ended.seconds,
    )


def pending_then_capacity(account: Account) -> Iterator[Row]:
    """Pending within the limit."""
    run = "patient"
    account.order(run, Fault(id="", on="TrainingJob", outcome="Pending", seconds=PENDING_LIMIT / 2, times_faster=FAST))
    ended = account.run(run_input(run, compute={"max_pending_seconds": PENDING_LIMIT}))
    succeeded(ended)
    (job,) = account.training_jobs(run)
    waits = [transition["Status"] for transition in job["SecondaryStatusTransitions"]]
    expect("the job's first states", waits[:3], ["Starting", "Pending", "Downloading"])
    yield Row(
        injected=f"Pending for half of MaxPendingTimeInSeconds ({FAST:g} times faster)",
        happened="the same job trains",
        attempts=1,
        lost=unbroken(account, run),
        seconds=ended.seconds,
    )


def fault_while_training(account: Account) -> Iterator[Row]:
    """InternalServerError while the job trains."""
    run = "fault-late"
    account.order(run, Fault(id="", on="TrainingJob", outcome="InternalServerError", after=FAULT_LINE))
    ended = account.run(run_input(run))
    succeeded(ended)
    (said,) = ended.verdicts
    expect_words(said, "ServiceFault: SageMaker reports a fault of its own", "attempt 2 on on_demand ml.c7i.large in 0 s")
    yield Row(
        injected="InternalServerError in step 12, every process killed",
        happened="ServiceFault, resumed at once",
        attempts=len(account.training_jobs(run)),
        lost=resumed(account, run),
        seconds=ended.seconds,
    )


PROOFS = (
    slow_api, used_up_quota, fault_before_instances, no_capacity_for_preparation, no_capacity_then_elsewhere, never_any_capacity,
    pending_too_long, pending_then_capacity, fault_while_training,
)  # fmt: skip
