"""Monitor: published metrics of a job, and pruning of checkpoints."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
from types import SimpleNamespace
from typing import Any

import pytest
from admission_values import Jobs, Quotas
from small_s3 import NOW, SmallS3

from infra.monitor import published_metrics as names
from infra.monitor.active_jobs import Clients, MonitorRound, active_legs, check_quotas, look_at_active_jobs
from infra.monitor.handler import NotLookedAt, handler
from infra.monitor.prune_checkpoints import prune_checkpoints
from infra.run.deployment import CheckedInput, MonitorDeployment
from infra.run.job_requests import job_name

Json = Any
ATTEMPT = "runs/r/main/attempts/20261122T060000-aaaaaa-1/"
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
            "CheckpointConfig": {"S3Uri": f"s3://data/{ATTEMPT}"},
            "ResourceConfig": {"InstanceType": "ml.p5.48xlarge", "InstanceCount": 2},
            "CreationTime": ago(hours=3),
        }
        if started is not None:
            self.job["TrainingStartTime"] = started

    def get_paginator(self, name: str) -> Any:
        found = [{"TrainingJobName": self.name}]
        return SimpleNamespace(paginate=lambda **_: [{"TrainingJobSummaries": found, "ProcessingJobSummaries": []}])

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
    s3.put(f"{ATTEMPT}metrics/metrics.jsonl", json.dumps(row) + '\n{"step": 11, "ti', ago(minutes=4))  # the last line is being written
    s3.put_checkpoint(ATTEMPT, 10, ago(minutes=20))
    s3.put(f"{ATTEMPT}checkpoints/step-15/__0_0.distcp", "x", ago(minutes=7))  # on its way
    published = round_of(ago(hours=2), s3)
    assert published.values == {
        names.SINCE_STEP.name: pytest.approx(240),
        names.CHECKPOINT_AGE.name: 1200,
        names.SYNC_AGE.name: 240,
        names.LOSS.name: 5.5,
        names.SPEED.name: 600,
        names.SPEED_SHARE.name: 60,
        names.MFU.name: 31,
        names.SPEND.name: 240,  # two instances, two hours, $60
        names.BUDGET_SHARE.name: 50,
        names.ACTIVE_JOBS.name: 1,
    }
    assert all(dimensions == [{"Name": "Deployment", "Value": "pretrain"}] for dimensions in published.dimensions)


def test_steps_that_a_profiler_slowed_raise_no_alarm_of_speed() -> None:
    s3 = SmallS3()
    row = {"step": 10, "time": ago(minutes=4).timestamp(), "loss": 5.5, "tokens_per_second_per_device": 60.0, "profiled_steps": 2}
    s3.put(f"{ATTEMPT}metrics/metrics.jsonl", json.dumps(row) + "\n", ago(minutes=4))
    values = round_of(ago(hours=2), s3).values
    assert values[names.LOSS.name] == 5.5 and names.SPEED.name not in values and names.SPEED_SHARE.name not in values


def test_a_resumed_job_is_not_blamed_for_the_gap_before_it() -> None:
    s3 = SmallS3()
    s3.put(f"{ATTEMPT}metrics/metrics.jsonl", json.dumps({"step": 10, "time": ago(days=1).timestamp(), "loss": 5.5}) + "\n", ago(days=1))
    s3.put_checkpoint(ATTEMPT, 10, ago(days=1))
    values = round_of(ago(minutes=3), s3).values
    assert values[names.SINCE_STEP.name] == 180
    assert values[names.CHECKPOINT_AGE.name] == 180
    assert values[names.SYNC_AGE.name] == 180
    assert names.LOSS.name not in values


def test_a_quota_too_small_for_an_enabled_schedule_is_counted() -> None:
    published = Published()
    quotas = Quotas({"ml.p5.48xlarge for training job usage": 0}, {})
    clients = Clients(s3=None, sagemaker=Jobs(), cloudwatch=published, quotas=quotas)
    inputs = (CheckedInput(name="weekly", watched=True, input={}), CheckedInput(name="other", watched=False, input={}))
    found = check_quotas(dataclasses.replace(ROUND, deployment=dataclasses.replace(DEPLOYMENT, inputs=inputs)), clients)
    assert published.values == {names.MISSING_QUOTAS.name: 2}  # no processing quota of that name, and none for p5
    assert quotas.read == 2  # applied and default quotas, once for both inputs
    assert any("weekly: 1 x ml.p5.48xlarge needs quota 1" in line for line in found["missing"])


def first(number: int) -> str:
    return f"runs/r/main/attempts/20261101T000000-aaaaaa-{number}/"


def prune(s3: SmallS3, days: int | None = None, active: tuple[str, ...] = ()) -> list[str]:
    pruned = prune_checkpoints(s3, "data", days, NOW, active)
    assert pruned.errors == []
    return pruned.deleted


def left(s3: SmallS3) -> list[str]:
    """Checkpoints of which anything is left."""
    return sorted({key.rsplit("/", 1)[0] + "/" for key in s3.objects if "/checkpoints/" in key})


def test_the_newest_whole_checkpoints_of_all_attempts_are_kept_and_what_is_older_goes() -> None:
    s3 = SmallS3()
    older = [s3.put_checkpoint(first(2), step) for step in (100, 200, 300)]
    newer = [s3.put_checkpoint(first(10), step) for step in (250, 350)]
    s3.put(f"{first(10)}checkpoints/step-400/__0_0.distcp", "never finished")
    s3.put(f"{first(2)}checkpoints/step-150/__0_0.distcp", "never finished")
    s3.put(f"{first(2)}export/model.safetensors", "x", ago(days=99))
    assert prune(s3) == [older[0], f"{first(2)}checkpoints/step-150/", older[1]]
    assert left(s3) == sorted([older[2], *newer, f"{first(10)}checkpoints/step-400/"])
    assert f"{first(2)}export/model.safetensors" in s3.objects
    assert prune(s3) == []


def test_a_manifest_without_its_parts_does_not_make_the_only_whole_checkpoint_deletable() -> None:
    s3 = SmallS3()
    whole = s3.put_checkpoint(first(1), 100, ago(days=50))
    for step, missing in ((200, "__1_0.distcp"), (300, ".metadata"), (400, "checksums.json"), (500, "manifest.json")):
        del s3.objects[s3.put_checkpoint(first(1), step, ago(days=40)) + missing]
    cut = s3.put_checkpoint(first(1), 600, ago(days=40))
    s3.put(f"{cut}__0_0.distcp", "short", ago(days=40))
    assert prune(s3, 30) == []
    assert whole in left(s3)


def test_pruning_by_age_keeps_what_a_leg_resumes_from_and_what_is_young() -> None:
    s3 = SmallS3()
    folders = [s3.put_checkpoint(first(1), step, ago(days=age), keep_latest=9) for step, age in ((100, 40), (200, 35), (300, 34))]
    assert prune(s3, 36) == folders[:1]
    assert prune(s3, None) == []
    assert prune(s3, 30) == folders[1:2]
    assert left(s3) == folders[2:]


def test_a_leg_with_an_active_job_is_left_alone() -> None:
    s3 = SmallS3()
    folders = [s3.put_checkpoint(first(1), step, ago(days=40)) for step in (1, 2, 3, 4, 5)]
    other = [s3.put_checkpoint(first(1).replace("/main/", "/other/"), step, ago(days=40)) for step in (1, 2)]
    active = active_legs(OneJob(ago(hours=1)), "data")
    assert active == {"runs/r/main/"}
    assert prune(s3, 30, tuple(active)) == other[:1]
    assert left(s3) == sorted([*folders, other[1]])


def test_what_another_leg_begins_from_is_kept_until_it_has_a_checkpoint_of_its_own() -> None:
    s3 = SmallS3()
    folders = [s3.put_checkpoint(ATTEMPT, step, ago(days=40), keep_latest=2) for step in (50, 100, 150, 200)]
    start = {"source": "run:r/main@50", "kind": "checkpoint", "uri": f"s3://data/{folders[0]}", "checksum": "c"}
    s3.put("runs/cool/run.json", json.dumps({"initial": {"end": start, "other": {"kind": "weights", "uri": f"s3://data/{folders[1]}"}}}))
    s3.put("runs/odd/run.json", "{")
    assert prune(s3) == [folders[1]]
    s3.put("runs/old/run.json", json.dumps({"initial": {"end": start}}), ago(days=60))  # never started again
    s3.put_checkpoint("runs/cool/end/attempts/20261120T060000-cccccc-1/", 60)
    assert prune(s3) == [folders[0]]


def test_what_s3_refuses_to_delete_is_said_and_the_rest_of_that_checkpoint_stays() -> None:
    s3 = SmallS3()
    folders = [s3.put_checkpoint(first(1), step) for step in (1, 2, 3, 4, 5)]
    s3.undeletable = {f"{folders[0]}manifest.json", f"{folders[1]}__1_0.distcp"}
    pruned = prune_checkpoints(s3, "data", None, NOW, ())
    assert pruned.deleted == []
    assert [error.partition(" could not")[0] for error in pruned.errors] == [
        f"1 of 1 objects of {folders[0]}", f"1 of 4 objects of {folders[1]}",
    ]  # fmt: skip
    assert "AccessDenied" in pruned.errors[0]
    assert f"{folders[0]}__0_0.distcp" in s3.objects
    assert f"{folders[1]}manifest.json" not in s3.objects


@pytest.mark.parametrize(
    "run",
    [
        None,
        "",
        '{"run_id": "r"',
        "[]",
        "NaN",
        '{"legs": 7, "budget": []}',
        '{"legs": [{"name": 7}, {"training": {}}], "admitted": {"estimate": 1}}',
    ],
)
def test_a_damaged_run_json_costs_its_job_the_budget_and_the_others_nothing(run: str | None) -> None:
    s3, published = SmallS3(), Published()
    row = {"step": 10, "time": ago(minutes=4).timestamp(), "loss": 5.5}
    for name in ("r", "good"):
        s3.put(f"runs/{name}/main/attempts/a-1/metrics/metrics.jsonl", json.dumps(row) + "\n")
    admitted = {"execution_arn": EXECUTION, "estimate": {"usd_per_hour": {"ml.p5.48xlarge": 60.0}}}
    s3.put("runs/good/run.json", json.dumps({"run_id": "good", "legs": [{"name": "main", "training": {}}], "admitted": admitted}))
    if run is not None:
        s3.put("runs/r/run.json", run)
    jobs = {name: copy.deepcopy(OneJob(ago(hours=2)).job) | {"TrainingJobName": name} for name in ("r-1", "foreign", "good-1")}
    for name, run_id in (("r-1", "r"), ("good-1", "good")):
        jobs[name]["HyperParameters"]["run_id"] = run_id
        jobs[name]["CheckpointConfig"] = {"S3Uri": f"s3://data/runs/{run_id}/main/attempts/a-1/"}
    del jobs["foreign"]["HyperParameters"], jobs["foreign"]["ResourceConfig"]

    class Three(OneJob):
        def get_paginator(self, name: str) -> Any:
            found = [{"TrainingJobName": job} for job in jobs]
            return SimpleNamespace(paginate=lambda **_: [{"TrainingJobSummaries": found, "ProcessingJobSummaries": []}])

        def describe_training_job(self, TrainingJobName: str) -> Json:
            return jobs[TrainingJobName]

    found = look_at_active_jobs(ROUND, Clients(s3=s3, sagemaker=Three(None), cloudwatch=published, quotas=None))
    assert found["jobs"]["good-1"][names.SPEND.name] == 240 and published.values[names.ACTIVE_JOBS.name] == 3
    assert found["jobs"]["r-1"][names.SINCE_STEP.name] == 240 and found["jobs"]["r-1"][names.SPEND.name] > 240  # at the table's price
    assert set(found["unread"]) == {"r-1", "foreign"}
    assert any("run.json" in sentence for sentence in found["unread"]["r-1"])


def test_a_job_that_cannot_be_looked_at_at_all_does_not_end_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    published = Published()
    broken = OneJob(ago(hours=2))
    del broken.job["CreationTime"], broken.job["TrainingStartTime"]
    found = look_at_active_jobs(ROUND, Clients(s3=SmallS3(), sagemaker=broken, cloudwatch=published, quotas=None))
    assert published.values == {names.ACTIVE_JOBS.name: 1} and "KeyError: 'CreationTime'" in found["unread"][broken.name]
    monkeypatch.setattr("infra.monitor.handler.look_at_active_jobs", lambda *_: found)
    monkeypatch.setenv("DEPLOYMENT", json.dumps(dataclasses.asdict(DEPLOYMENT)))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with pytest.raises(NotLookedAt, match="CreationTime"):
        handler({}, None)
