"""What a run cost: every job of every execution, billed seconds, once; never the pauses between them."""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from typing import Any

from infra.run.job_requests import job_name
from infra.run.run_jobs import run_jobs, total_usd

HOUR = 3600
BEGAN = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
ARNS = [f"arn:aws:states:us-east-1:111122223333:execution:machine:e{n}" for n in (1, 2, 3)]


def training(run_id: str, arn: str, *, start: float, hours: float | None, billed: float | None = None, number: int = 1) -> Any:
    """A training job on one p5 that began ``start`` hours after BEGAN; None hours: it runs."""
    job: Any = {
        "TrainingJobName": f"{job_name('main', run_id, arn)}-{number}",
        "TrainingJobStatus": "InProgress" if hours is None else "Stopped",
        "HyperParameters": {"run_id": run_id, "leg": "main"},
        "CheckpointConfig": {"S3Uri": f"s3://data/runs/{run_id}/main/attempts/x/"},
        "ResourceConfig": {"InstanceType": "ml.p5.48xlarge", "InstanceCount": 2},
        "CreationTime": BEGAN + datetime.timedelta(hours=start),
        "TrainingStartTime": BEGAN + datetime.timedelta(hours=start),
    }
    if hours is not None:
        job["TrainingEndTime"] = job["TrainingStartTime"] + datetime.timedelta(hours=hours)
        job["BillableTimeInSeconds"] = int((billed if billed is not None else hours) * HOUR)
    return job


class SageMaker:
    """SageMaker's jobs of an account."""

    def __init__(self, *jobs: Any) -> None:
        self.jobs = {job.get("TrainingJobName") or job["ProcessingJobName"]: job for job in jobs}

    def get_paginator(self, operation: str) -> Any:
        kind = "Training" if operation == "list_training_jobs" else "Processing"

        def paginate(NameContains: str) -> Any:
            found = [name for name, job in self.jobs.items() if f"{kind}JobName" in job and NameContains in name]
            return [{f"{kind}JobSummaries": [{f"{kind}JobName": name} for name in found]}]

        return SimpleNamespace(paginate=paginate)

    def describe_training_job(self, TrainingJobName: str) -> Any:
        return self.jobs[TrainingJobName]

    def describe_processing_job(self, ProcessingJobName: str) -> Any:
        return self.jobs[ProcessingJobName]


def usd(sagemaker: SageMaker, run_id: str = "evening", hours: float = 100) -> float | None:
    jobs = run_jobs(sagemaker, "data", run_id, BEGAN.timestamp() + hours * HOUR)
    return total_usd(jobs, {"ml.p5.48xlarge": 60.0, "ml.c7i.large": 1.0}.get)


def test_a_pause_between_jobs_costs_nothing() -> None:
    first, second = (training("evening", ARNS[0], start=start, hours=2, number=n) for n, start in ((1, 0), (2, 14)))  # 12 h apart
    assert usd(SageMaker(first, second)) == 4 * 2 * 60


def test_every_execution_counts_and_a_running_job_counts_up_to_now() -> None:
    jobs = [training("evening", arn, start=10 * n, hours=1) for n, arn in enumerate(ARNS[:2])]
    assert usd(SageMaker(*jobs, training("evening", ARNS[2], start=30, hours=None)), hours=33) == (1 + 1 + 3) * 2 * 60


def test_the_billed_seconds_count_where_they_differ_from_the_wall_time() -> None:
    assert usd(SageMaker(training("evening", ARNS[0], start=0, hours=2, billed=0.5))) == 0.5 * 2 * 60  # spot


def test_preparation_is_part_of_it_and_other_runs_are_not() -> None:
    prepare = {
        "ProcessingJobName": f"{job_name('prepare', 'evening', ARNS[0])}-1",
        "ProcessingJobStatus": "Completed",
        "ProcessingInputs": [{"S3Input": {"S3Uri": "s3://data/runs/evening/run.json"}}],
        "ProcessingResources": {"ClusterConfig": {"InstanceType": "ml.c7i.large", "InstanceCount": 3}},
        "ProcessingStartTime": BEGAN,
        "ProcessingEndTime": BEGAN + datetime.timedelta(hours=2),
    }
    others = (training("evening-2", ARNS[1], start=0, hours=5), training("evening2", ARNS[1], start=0, hours=5))
    assert usd(SageMaker(prepare, *others)) == 2 * 3 * 1.0
    assert usd(SageMaker(prepare, *others), "evening-2") == 5 * 2 * 60


def test_long_run_ids_that_are_cut_alike_are_told_apart() -> None:
    one, two = "r" * 79 + "1", "r" * 79 + "2"
    jobs = SageMaker(training(one, ARNS[0], start=0, hours=1), training(two, ARNS[0], start=0, hours=3))
    assert (usd(jobs, one), usd(jobs, two)) == (120, 360)


def test_an_unknown_price_makes_the_sum_unknown() -> None:
    job = training("evening", ARNS[0], start=0, hours=1)
    job["ResourceConfig"]["InstanceType"] = "ml.p9.unheard"
    assert usd(SageMaker(job)) is None
