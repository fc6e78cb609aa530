"""Cases of several executions: a schedule that continues one run, a data set made by one instance and by two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from account import Account, Json, Unexpected, expect
from capacity import succeeded
from small_run import DATA, MANY, STEPS, TRAINING, run_input, unbroken
from table import Row

SCHEDULE = "curve"
ZONE = "Asia/Kolkata"  # five and a half hours from UTC: read in UTC, the expression's hours would not come today
FIRING_STEPS = STEPS // 2


def schedule_settings(hour: int, *, enabled: bool) -> Json:
    """Every minute of ``hour`` and the next in ``ZONE``: half of the run's steps each, on the curve of all of them."""
    return {
        "name": SCHEDULE,
        "expression": f"cron(* {hour},{(hour + 1) % 24} * * ? *)",
        "timezone": ZONE,
        "enabled": enabled,
        "resume": "latest",
        "input": {"data": DATA, "training": {**TRAINING, "steps": FIRING_STEPS}, "compute": {"instance_type": "ml.m7i.large"}},
    }


def schedule_continues_one_run(account: Account) -> Iterator[Row]:
    """A schedule with resume=latest that fires every minute."""
    firings = account.until(lambda: _trained(account), "two firings that trained", every=2.0)
    _disable(account)
    lost = unbroken(account, SCHEDULE)
    times = [firing["input"]["schedule"]["time"] for firing in firings]
    expect("distinct scheduled times, each a whole minute", len({time for time in times if time.endswith(":00Z")}), 2)
    jobs = account.training_jobs(SCHEDULE)[:2]
    expect("the jobs", [job["TrainingJobStatus"] for job in jobs], ["Completed", "Completed"])
    steps = [account.steps_of(job["TrainingJobName"]) for job in jobs]
    expect("the first firing's steps", steps[0], list(range(1, FIRING_STEPS + 1)))
    expect("the second firing's steps", steps[1], list(range(FIRING_STEPS + 1, STEPS + 1)))
    yield Row(
        injected=f"a schedule firing every minute in {ZONE}, resume: latest",
        happened=f"fired for {times[0]} and {times[1]}: run {SCHEDULE} trained steps 1-{FIRING_STEPS}, then {FIRING_STEPS + 1}-{STEPS}",
        attempts=2,
        lost=lost,
        seconds=sum(firing["seconds"] for firing in firings[:2]),
    )


def _disable(account: Account) -> None:
    scheduler = account.client("scheduler")
    (summary,) = scheduler.list_schedules()["Schedules"]
    found = scheduler.get_schedule(Name=summary["Name"])
    kept = ("Name", "ScheduleExpression", "ScheduleExpressionTimezone", "FlexibleTimeWindow", "Target")
    scheduler.update_schedule(**{key: found[key] for key in kept}, State="DISABLED")


def _trained(account: Account) -> list[Json] | None:
    """The schedule's first two firings that trained, oldest first."""
    steps = account.client("stepfunctions")
    found: list[Json] = []
    executions = steps.list_executions(stateMachineArn=account.machine)["executions"]
    for execution in sorted(executions, key=lambda one: one["startDate"]):
        if execution["name"].startswith("test-"):
            continue  # started by another proof
        described = account.describe(execution["executionArn"])
        value = json.loads(described["input"])
        if described["status"] in ("FAILED", "ABORTED", "TIMED_OUT"):
            raise Unexpected(f"the firing for {value['schedule']['time']} ended {described['status']}: {described.get('cause')}")
        if described["status"] == "SUCCEEDED" and "Train" in account.states(execution["executionArn"]):  # others gave way
            seconds = (described["stopDate"] - described["startDate"]).total_seconds()
            found.append({"input": value, "seconds": seconds})
        if len(found) == 2:
            return found  # a third is refused: the curve ends
    return None


def two_instances_make_the_same_data(account: Account) -> Iterator[Row]:
    """A data set prepared by one instance, and again by two."""
    data = {"source": MANY, "shard_tokens": 50_000}
    made, seconds, jobs = [], 0.0, 0
    for instances in (1, 2):
        run = f"many-{instances}"
        ended = account.run(run_input(run, data={**data, "instance_count": instances}, training={"steps": 1}))
        succeeded(ended)
        seconds += ended.seconds
        (job,) = account.processing_jobs(run)
        jobs += 1
        expect("instances", job["ProcessingResources"]["ClusterConfig"]["InstanceCount"], instances)
        hosts = account.lines("Processing", job["ProcessingJobName"])
        expect("hosts with a log", sorted(hosts), [f"algo-{number}" for number in range(1, instances + 1)])
        fingerprint = json.loads(account.read(f"runs/{run}/run.json"))["tokens"]["fingerprint"]
        prefix = f"tokens/{fingerprint}/"
        made.append({key: hashlib.sha256(account.read(prefix + key)).hexdigest() for key in account.keys(prefix)})
        made[-1]["fingerprint"] = fingerprint
        index = json.loads(account.read(prefix + "index.json"))
        for key in account.keys(prefix):  # the next run must make it again
            account.client("s3").delete_object(Bucket=account.bucket, Key=prefix + key)
    differ = sorted(key for key in made[0].keys() | made[1].keys() if made[0].get(key) != made[1].get(key))
    expect("objects that differ", differ, [])
    shards = sum(len(split["shards"]) for split in index["splits"].values())
    yield Row(
        injected="data.instance_count 1, then 2, over the same six objects",
        happened=f"two processing instances ran; {len(made[0]) - 1} objects with {shards} shards are byte-identical",
        attempts=jobs,
        lost="nothing: one fingerprint, the same SHA-256 of every object",
        seconds=seconds,
    )


PROOFS = (schedule_continues_one_run, two_instances_make_the_same_data)
