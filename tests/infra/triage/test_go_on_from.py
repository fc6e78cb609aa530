"""The checkpoint that the next attempt gets."""

from __future__ import annotations

import datetime
import json
from types import SimpleNamespace
from typing import Any

import pytest
from small_s3 import SmallS3

from contracts.config import to_json
from infra.run.deployment import TriageDeployment
from infra.triage.attempts import Attempt, Limits, Source, read_attempt, write_attempt
from infra.triage.triage import triage

DEPLOYMENT = TriageDeployment(
    name="pretrain", runbook="docs/runbook.md", bucket="data", topic_arn="arn:topic", report_function="arn:report"
)
STEM = "runs/r/main/attempts/20261122T060000-aaaaaa-"
LEG = {
    "name": "main",
    "job": "r-main",
    "limits": to_json(Limits(max_attempts=9, max_runtime_seconds=7200, max_usd=None, max_wait_seconds=600)),
    "sources": [to_json(Source(kind="on_demand", instance_type="ml.p5.48xlarge", usd_per_hour=64.0))],
    "request": {"HyperParameters": {"run_id": "r", "leg": "main"}, "CheckpointConfig": {"S3Uri": f"s3://data/{STEM}"}},
}


def after(
    s3: SmallS3,
    attempt: Attempt,
    reason: str = "AlgorithmError: HostLost (retry): rank 3 is gone, exit code: 1",
    *,
    leg: Any = LEG,
) -> dict[str, Any]:
    """What triage decides when ``attempt`` failed for ``reason``."""
    job = {"TrainingJobStatus": "Failed", "FailureReason": reason, "TrainingStartTime": 1.0, "TrainingEndTime": 61.0}
    described = {**job, "BillableTimeInSeconds": 60}
    clients = SimpleNamespace(
        sagemaker=SimpleNamespace(describe_training_job=lambda TrainingJobName: described), log_stream=lambda group, prefix: None, s3=s3
    )
    event = {"stage": "Train", "leg": leg, "attempt": write_attempt(attempt)}
    return triage(event, clients, DEPLOYMENT, jitter=0.0)


def attempt(number: int = 1, **values: Any) -> Attempt:
    return Attempt(number=number, max_runtime_seconds=7200, **values)


DAMAGED = "AlgorithmError: CheckpointDamaged (retry): the checkpoint to go on from is passed over: __0_0.distcp is damaged, exit code: 1"


def test_the_next_attempt_gets_the_newest_whole_checkpoint() -> None:
    s3 = SmallS3()
    s3.put_checkpoint(f"{STEM}1/", 100)
    newest = s3.put_checkpoint(f"{STEM}1/", 200)
    del s3.objects[s3.put_checkpoint(f"{STEM}1/", 300) + "__1_0.distcp"]  # on its way when the host was lost
    decided = after(s3, attempt())
    assert decided["attempt"]["checkpoint"] == f"s3://data/{newest}"
    assert decided["says"].endswith("in 0 s from 20261122T060000-aaaaaa-1/checkpoints/step-200")


def test_an_attempt_that_saved_nothing_is_followed_from_where_it_began() -> None:
    s3 = SmallS3()
    newest = s3.put_checkpoint(f"{STEM}2/", 200)
    assert after(s3, attempt(10, checkpoint=f"s3://data/{newest}"))["attempt"]["checkpoint"] == f"s3://data/{newest}"


def test_a_leg_that_has_saved_nothing_whole_starts_again() -> None:
    decided = after(SmallS3(), attempt())
    assert (decided["again"], decided["attempt"]["checkpoint"]) == (True, None)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_never_taken_again() -> None:
    s3 = SmallS3()
    older, newest = (s3.put_checkpoint(f"{STEM}1/", step) for step in (100, 200))
    decided = after(s3, attempt(2, checkpoint=f"s3://data/{newest}"), DAMAGED)
    assert decided["attempt"]["checkpoint"] == f"s3://data/{older}"
    again = after(s3, read_attempt(decided["attempt"]))  # which ends for another reason
    assert again["attempt"]["checkpoint"] == f"s3://data/{older}"


def test_when_every_checkpoint_is_damaged_the_leg_ends_and_does_not_start_from_nothing() -> None:
    s3 = SmallS3()
    only = s3.put_checkpoint(f"{STEM}1/", 100)
    decided = after(s3, attempt(2, checkpoint=f"s3://data/{only}"), DAMAGED)
    assert decided["again"] is False
    assert decided["explanation"]["sentence"].startswith("CheckpointUnusable (stop): none of the 1 checkpoints of leg main can be used")


def test_a_cool_down_starts_again_from_the_trunks_checkpoint_until_it_has_its_own() -> None:
    s3 = SmallS3()
    begun = "s3://data/runs/trunk/main/attempts/20261101T060000-bbbbbb-1/checkpoints/step-50/"
    leg = LEG | {"start": begun}
    first = attempt(checkpoint=begun)
    assert after(s3, first, leg=leg)["attempt"]["checkpoint"] == begun
    damaged = after(s3, first, DAMAGED, leg=leg)
    assert damaged["again"] is False
    assert "none of the 1 checkpoints of leg main can be used" in damaged["explanation"]["sentence"]
    assert "another step in training.initial" in damaged["explanation"]["sentence"]
    own = s3.put_checkpoint(f"{STEM}1/", 60)
    assert after(s3, first, leg=leg)["attempt"]["checkpoint"] == f"s3://data/{own}"
    again = after(s3, attempt(2, checkpoint=f"s3://data/{own}"), DAMAGED, leg=leg)
    assert again["again"] is False  # to fall back to the trunk would throw the leg's own training away silently


def finished(s3: SmallS3, files: int, **exported: str) -> None:
    s3.put(f"{STEM}1/metrics/result.json", json.dumps({"steps": 100, "export": {"files": 2, "bytes": 10, **exported}}))
    for number in range(files):
        s3.put(f"{STEM}1/export/model-{number}.safetensors", "weights")


def test_no_attempt_is_bought_when_the_last_step_was_reached_and_everything_has_arrived() -> None:
    s3 = SmallS3()
    finished(s3, files=2)
    decided = after(s3, attempt(), "InternalServerError: the upload took too long")
    assert (decided["completed"], decided["again"]) == (True, False)
    assert decided["job"]["TrainingJobStatus"] == "Failed"


@pytest.mark.parametrize("number", [1, 2])
def test_an_export_that_has_not_arrived_or_another_attempts_result_completes_nothing(number: int) -> None:
    s3 = SmallS3()
    finished(s3, files=number)  # of the second attempt the first one's result says nothing
    assert after(s3, attempt(number))["completed"] is False


def test_an_export_whose_manifest_has_not_arrived_completes_nothing() -> None:
    s3 = SmallS3()
    finished(s3, files=2, manifest_sha256="0" * 64)
    assert after(s3, attempt())["completed"] is False
    s3.put(f"{STEM}1/export/manifest.json", "{}")
    assert after(s3, attempt())["completed"] is True


@pytest.mark.parametrize(("age", "pause"), [(30, 60), (7200, 144)])
@pytest.mark.parametrize("status", ["InProgress", "Stopping"])
def test_a_job_that_is_under_way_although_its_task_failed_is_looked_at_again(status: str, age: int, pause: int) -> None:
    """A second one would be paid for beside it; its name is asked for again, which SageMaker refuses, and judged once it has ended."""
    created = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age)
    described = {"TrainingJobStatus": status, "CreationTime": created}
    clients = SimpleNamespace(sagemaker=SimpleNamespace(describe_training_job=lambda TrainingJobName: described), s3=SmallS3())
    before = write_attempt(attempt(3, spent_usd=5.0))
    error = {"Error": "SageMaker.ResourceInUseException", "Cause": "job names must be unique"}
    decided = triage({"stage": "Train", "leg": LEG, "attempt": before, "error": error}, clients, DEPLOYMENT, jitter=0.0)
    assert (decided["again"], decided["completed"], decided["under_way"]) == (True, False, True)
    assert decided["attempt"] == before | {"wait_seconds": pause} and "r-main-3" in decided["says"]
