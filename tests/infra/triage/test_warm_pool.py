"""A warm pool with faulty hosts is given up; a sound one is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from small_s3 import SmallS3

import training.failure_classes
from contracts.config import to_json
from infra.run.deployment import TriageDeployment
from infra.triage.attempts import Attempt, Limits, Source, write_attempt
from infra.triage.triage import triage
from infra.triage.warm_pool import OTHER_HOSTS

LEG = {
    "name": "main",
    "job": "r-main",
    "limits": to_json(Limits(max_attempts=3, max_runtime_seconds=7200, max_usd=None, max_wait_seconds=600)),
    "sources": [to_json(Source(kind="on_demand", instance_type="ml.p5.48xlarge", usd_per_hour=64.0))],
    "request": {"HyperParameters": {"run_id": "r", "leg": "main"}, "CheckpointConfig": {"S3Uri": "s3://data/runs/r/main/attempts/a-"}},
}


def triaged(sentence: str, *, keep_alive: int, refused: bool = False) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The decision after a job that left this sentence, and the calls of UpdateTrainingJob."""
    updates: list[dict[str, Any]] = []

    def update(**request: Any) -> None:
        updates.append(request)
        if refused:
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "no pool"}}, "UpdateTrainingJob")

    job = {
        "TrainingJobName": "r-main-1", "TrainingJobStatus": "Failed", "TrainingStartTime": 1.0, "BillableTimeInSeconds": 60,
        "FailureReason": f"AlgorithmError: {sentence}, exit code: 1", "ResourceConfig": {"KeepAlivePeriodInSeconds": keep_alive},
    }  # fmt: skip
    sagemaker = SimpleNamespace(describe_training_job=lambda TrainingJobName: job, update_training_job=update)
    clients = SimpleNamespace(sagemaker=sagemaker, log_stream=lambda group, prefix: None, s3=SmallS3())
    event = {"stage": "Train", "leg": LEG, "attempt": write_attempt(Attempt(max_runtime_seconds=7200))}
    return triage(
        event,
        clients,
        TriageDeployment(name="pretrain", runbook="docs/runbook.md", bucket="data", topic_arn="arn:topic", report_function="arn:report"),
        jitter=0.0,
    ), updates


@pytest.mark.parametrize(
    ("sentence", "keep_alive", "calls"),
    [
        ("DeviceFault (retry): GPU 3", 600, 1),
        ("FabricSlow (retry): NET/Socket", 600, 1),
        ("DeviceFault (retry): GPU 3", 0, 0),
        ("HostLost (retry): gone", 600, 0),
        ("LossDiverged (stop): NaN", 600, 0),
    ],
)
def test_the_warm_pool_is_given_up_when_its_hosts_are_at_fault(sentence: str, keep_alive: int, calls: int) -> None:
    decided, updates = triaged(sentence, keep_alive=keep_alive)
    assert updates == [{"TrainingJobName": "r-main-1", "ResourceConfig": {"KeepAlivePeriodInSeconds": 0}}] * calls
    assert ("its warm pool is given up, so that other hosts can come" in decided["says"]) is bool(calls)
    if decided["again"]:
        assert decided["attempt"]["wait_seconds"] == 60 * calls


def test_a_warm_pool_that_cannot_be_given_up_costs_no_attempt() -> None:
    decided, _ = triaged("DeviceFault (retry): GPU 3", keep_alive=600, refused=True)
    assert decided["again"]
    assert "could not be given up (An error occurred (ValidationException)" in decided["says"]


def test_the_classes_that_other_hosts_may_heal_exist_and_are_retried() -> None:
    assert {getattr(training.failure_classes, name).retry for name in OTHER_HOSTS} == {"retry"}
