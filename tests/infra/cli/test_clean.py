"""`pretrain clean`: what can go, what never goes, and that nothing goes unasked."""

from __future__ import annotations

import datetime as dt
import json
from types import SimpleNamespace
from typing import Any

import pytest
from cli_aws import BEGAN, Deployed
from small_s3 import SmallS3

from infra.cli import clean

LATER = BEGAN + dt.timedelta(days=9)
USED, FREE = "a" * 32, "b" * 32


class NoJobs:
    """SageMaker; ``busy`` runs have a job that is still stopping."""

    def __init__(self, *busy: str) -> None:
        self.busy = busy

    def get_paginator(self, operation: str) -> Any:
        def paginate(NameContains: str, StatusEquals: str) -> Any:
            stopping = NameContains in self.busy and operation == "list_training_jobs" and StatusEquals == "Stopping"
            return [
                {"TrainingJobSummaries": [{"TrainingJobName": f"{NameContains}-main-1"}] if stopping else [], "ProcessingJobSummaries": []}
            ]

        return SimpleNamespace(paginate=paginate)

    def describe_training_job(self, TrainingJobName: str) -> Any:
        run = TrainingJobName.split("-")[0]
        prefix = f"s3://bucket/runs/{run}/main/"
        return {"HyperParameters": {"run_id": run, "leg": "main"}, "CheckpointConfig": {"S3Uri": prefix}, "TrainingJobStatus": "Stopping"}


def deployed(*busy: str) -> Deployed:
    """Two runs with three checkpoints in two attempts each, exports and metrics; two token sets, one of which a run names."""
    aws, s3 = Deployed(), SmallS3()
    aws.s3 = aws.clients["s3"] = s3
    aws.clients["sagemaker"] = NoJobs(*busy)
    for run in ("evening", "morning"):
        s3.put(f"runs/{run}/run.json", json.dumps({"tokens": {"fingerprint": USED}, "legs": []}))
        for attempt, step in (("20260921T140000-aaaaaa-1", 10), ("20260921T140000-aaaaaa-1", 20), ("20260922T140000-bbbbbb-1", 30)):
            s3.put_checkpoint(f"runs/{run}/main/attempts/{attempt}/", step)
        s3.put(f"runs/{run}/main/attempts/20260922T140000-bbbbbb-1/checkpoints/step-40/0.distcp", "cut off")
        s3.put(f"runs/{run}/main/attempts/20260922T140000-bbbbbb-1/export/model.safetensors", "x" * 5000)
    for name in (USED, FREE):
        for file in ("index.json", "train/0.tokens"):
            s3.put(f"tokens/{name}/{file}", "x" * 1000)
    s3.put("source/text/a.jsonl", "x" * 700)
    return aws


def steps(aws: Deployed, run: str) -> set[str]:
    return {key.split("/")[6] for key in aws.s3.objects if key.startswith(f"runs/{run}/") and "/checkpoints/" in key}


def test_older_checkpoints_and_tokens_of_no_run_can_go_and_nothing_else():
    aws = deployed()
    found = clean.look(aws, LATER)
    assert sorted((run, folder.step) for run, folder in found.checkpoints) == [(r, s) for r in ("evening", "morning") for s in (10, 20)]
    assert found.token_sets == [FREE] and found.can_go == clean.delete(aws, found, LATER)
    assert steps(aws, "evening") == steps(aws, "morning") == {"step-30", "step-40"}  # the newest whole one, and what may become whole
    assert {key.split("/")[1] for key in aws.s3.objects if key.startswith("tokens/")} == {USED}
    assert sum("export" in key for key in aws.s3.objects) == 2 and clean.look(aws, LATER).can_go == 0


@pytest.mark.parametrize("how", ["an execution runs", "a job is stopping", "an execution starts meanwhile"])
def test_nothing_of_an_active_run_goes(how):
    aws = deployed("evening") if how == "a job is stopping" else deployed()
    before = steps(aws, "evening")
    if how == "an execution runs":
        aws.states.add("e1", "RUNNING", input='{"run_id": "evening"}')
    found = clean.look(aws, LATER)
    if how == "an execution starts meanwhile":
        aws.states.add("e1", "RUNNING", input='{"run_id": "evening"}')
    clean.delete(aws, found, LATER)
    assert steps(aws, "evening") == before and steps(aws, "morning") == {"step-30", "step-40"}


def test_tokens_stay_while_a_run_is_being_admitted():
    """It may have found them and not written its run.json yet."""
    aws = deployed()
    aws.states.add("e1", "RUNNING", input='{"run_id": "new"}')
    found = clean.look(aws, BEGAN + dt.timedelta(minutes=2))
    assert found.token_sets == [] and "run new has just started" in str(found.kept_tokens)
    assert clean.look(aws, LATER).token_sets == [FREE]


def test_it_asks_and_shows_first(monkeypatch, pretrain):
    aws = deployed()
    monkeypatch.setattr("infra.cli.where.choose_target", lambda **options: aws)
    before = dict(aws.s3.objects)
    asked = pretrain("clean", columns=120)
    assert "Delete 4 checkpoints older than their leg's newest whole one and 1 token sets of no run" in asked.out
    assert "evening" in asked.out and "source/" in asked.out and f"tokens/{FREE}" in asked.out and aws.s3.objects == before
    told = json.loads(pretrain("clean", "--json").out)
    assert (
        told["others"] == {"source": 700} and aws.s3.objects == before and told["deleted_bytes"] == 0 < told["can_go_bytes"] < told["bytes"]
    )
    assert json.loads(pretrain("clean", "--json", "--yes").out)["deleted_bytes"] == told["can_go_bytes"]
    assert "Nothing can go without loss." in pretrain("clean").out


def test_what_s3_keeps_is_told(monkeypatch, pretrain):
    aws = deployed()
    monkeypatch.setattr("infra.cli.where.choose_target", lambda **options: aws)
    aws.s3.undeletable.add(f"tokens/{FREE}/index.json")
    kept = pretrain("clean", "--yes")
    assert kept.code == 1 and f"tokens/{FREE}/: S3 kept tokens/{FREE}/index.json" in kept.out
    assert f"tokens/{FREE}/train/0.tokens" in aws.s3.objects  # an index without its shards would fail the next run
