"""Monitor: published metrics of a job, and pruning of checkpoints."""

from __future__ import annotations

import dataclasses
import datetime
import json
from types import SimpleNamespace
from typing import Any

import pytest
from admission_values import Jobs, Quotas
from small_s3 import NOW, SmallS3

from infra.monitor import published_metrics as names
from infra.monitor.active_jobs import Clients, MonitorRound, check_quotas, look_at_active_jobs
from infra.monitor.prune_checkpoints import prune_checkpoints
from infra.run.deployment import CheckedInput, MonitorDeployment
from infra.run.job_requests import job_name

Json = Any
EXECUTION = "arn:aws:states:us-east-1:111122223333:execution:m:e"
DEPLOYMENT = MonitorDeployment(name="pretrain", bucket="data", default_recipe="llama3_8b")
ROUND = MonitorRound(deployment=DEPLOYMENT, region="us-east-1", now=NOW)


def ago(**amount: float) -> datetime.datetime:
    return NOW - datetime.timedelta(**amount)


class OneJob:
    """A training job in progress."""

    def __init__(self, started: datetime.datetime | None) -> None:
        self.name = f"{job_name('main', 'r', EXECUTION)}-1"
        self.job: Json = {
            "TrainingJobName": self.name,
            "HyperParameters": {"run_id": "r", "leg": "main"},
            "CheckpointConfig": {"S3Uri": "s3://data/runs/r/main/"},
            "ResourceConfig": {"InstanceType": "ml.p5.48xlarge", "InstanceCount": 2},
            "CreationTime": ago(hours=3),
        }
        if started is not None:
            self.job["TrainingStartTime"] = started

    def get_paginator(self, name: str) -> Any:
        return SimpleNamespace(paginate=lambda **_: [{"TrainingJobSummaries": [{"TrainingJobName": self.name}]}])

    def describe_training_job(self, TrainingJobName: str) -> Json:
        return self.job


class Published:
    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.dimensions: list[Json] = []

    def put_metric_data(self, *, Namespace: str, MetricData: list[Json]) -> None:
        self.values |= {item["MetricName"]: item["Value"] for item in MetricData}
        self.dimensions += [item["Dimensions"] for item in MetricData]


def round_of(started: datetime.datetime | None, s3: SmallS3) -> Published:
    training = {"expected_tokens_per_second_per_device": 1000.0}
    admitted = {"execution_arn": EXECUTION, "estimate": {"usd_per_hour": {"ml.p5.48xlarge": 60.0}}}
    run = {"run_id": "r", "legs": [{"name": "main", "training": training}], "budget": {"max_usd": 480.0}, "admitted": admitted}
    s3.put("runs/r/run.json", json.dumps(run))
    published = Published()
    look_at_active_jobs(ROUND, Clients(s3=s3, sagemaker=OneJob(started), cloudwatch=published, quotas=None))
    return published


def test_a_waiting_job_shows_how_long_and_nothing_else() -> None:
    assert round_of(None, SmallS3()).values == {names.PENDING.name: 3 * 3600, names.ACTIVE_JOBS.name: 1}


def test_a_running_job_shows_progress_checkpoint_money_and_speed() -> None:
    s3 = SmallS3()
    row = {"step": 10, "time": ago(minutes=4).timestamp(), "loss": 5.5, "tokens_per_second_per_device": 600.0, "mfu": 31.0}
    s3.put("runs/r/main/metrics/metrics.jsonl", json.dumps(row) + '\n{"step": 11, "ti')  # the last line is being written
    s3.put("runs/r/main/checkpoints/step-10/.metadata", "x", ago(minutes=20))
    published = round_of(ago(hours=2), s3)
    assert published.values == {
        names.SINCE_STEP.name: pytest.approx(240),
        names.CHECKPOINT_AGE.name: 1200,
        names.LOSS.name: 5.5,
        names.SPEED.name: 600,
        names.SPEED_SHARE.name: 60,
        names.MFU.name: 31,
        names.SPEND.name: 240,  # two instances, two hours, $60
        names.BUDGET_SHARE.name: 50,
        names.ACTIVE_JOBS.name: 1,
    }
    assert all(dimensions == [{"Name": "Deployment", "Value": "pretrain"}] for dimensions in published.dimensions)


def test_a_resumed_job_is_not_blamed_for_the_gap_before_it() -> None:
    s3 = SmallS3()
    s3.put("runs/r/main/metrics/metrics.jsonl", json.dumps({"step": 10, "time": ago(days=1).timestamp(), "loss": 5.5}) + "\n")
    s3.put("runs/r/main/checkpoints/step-10/.metadata", "x", ago(days=1))
    values = round_of(ago(minutes=3), s3).values
    assert values[names.SINCE_STEP.name] == 180
    assert values[names.CHECKPOINT_AGE.name] == 180
    assert names.LOSS.name not in values


def test_a_quota_too_small_for_an_enabled_schedule_is_counted() -> None:
    published = Published()
    clients = Clients(s3=None, sagemaker=Jobs(), cloudwatch=published, quotas=Quotas({"ml.p5.48xlarge for training job usage": 0}, {}))
    inputs = (CheckedInput(name="weekly", watched=True, input={}), CheckedInput(name="other", watched=False, input={}))
    found = check_quotas(dataclasses.replace(ROUND, deployment=dataclasses.replace(DEPLOYMENT, inputs=inputs)), clients)
    assert published.values == {names.MISSING_QUOTAS.name: 2}  # no processing quota of that name, and none for p5
    assert any("weekly: 1 x ml.p5.48xlarge needs quota 1" in line for line in found["missing"])


def test_pruning_keeps_what_a_leg_resumes_from_and_what_is_young() -> None:
    s3 = SmallS3()
    for step, age in ((100, 40), (200, 35), (300, 34)):
        for file in ("__0_0.distcp", ".metadata"):
            s3.put(f"runs/r/main/checkpoints/step-{step}/{file}", "x", ago(days=age))
    s3.put("runs/r/main/checkpoints/step-400/__0_0.distcp", "x", ago(days=33))  # never finished
    s3.put("runs/r/main/export/model.safetensors", "x", ago(days=99))
    assert prune_checkpoints(s3, "data", 36, NOW) == ["runs/r/main/checkpoints/step-100/"]
    assert prune_checkpoints(s3, "data", 30, NOW) == ["runs/r/main/checkpoints/step-200/"]
    assert "runs/r/main/checkpoints/step-300/.metadata" in s3.objects
    assert "runs/r/main/export/model.safetensors" in s3.objects
