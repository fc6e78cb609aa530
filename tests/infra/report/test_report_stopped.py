"""The report of a run that was stopped, timed out or was refused: what is there, what it cost, how to go on."""

from __future__ import annotations

import datetime as dt
import functools
from types import SimpleNamespace
from typing import Any

import pytest
from report_runs import START, event, metrics_lines, put_checkpoint, run_json, stored

from infra.report.document import build_document, summary
from infra.report.handler import LOOK_SECONDS, SETTLE_SECONDS, wait_for_jobs
from infra.report.page import render
from infra.report.read import read_run
from infra.sagemaker.prices import admitted_usd_per_hour

STOPPED = {
    "stage": "Train", "class": "StoppedByHand", "sentence": "StoppedByHand (stop): it was stopped", "retry": "stop",
    "runbook": "docs/runbook.md#stoppedbyhand",
}  # fmt: skip


class SageMaker:
    """One processing and one training job of the run; the second stops while it is looked at."""

    def __init__(self, statuses: list[str]) -> None:
        self.statuses, self.looks = statuses, 0

    def get_paginator(self, operation: str) -> Any:
        kind = "Training" if operation == "list_training_jobs" else "Processing"

        def paginate(NameContains: str, StatusEquals: str | None = None) -> Any:
            now = self.statuses[min(self.looks, len(self.statuses) - 1)] if kind == "Training" else "Completed"
            name = "evening-main-1" if kind == "Training" else "evening-prepare-1"
            return [{f"{kind}JobSummaries": [{f"{kind}JobName": name}] if StatusEquals in (None, now) else []}]

        return SimpleNamespace(paginate=paginate)

    def describe_training_job(self, TrainingJobName: str) -> Any:
        status = self.statuses[min(self.looks, len(self.statuses) - 1)]
        ended = {"TrainingEndTime": moment(1800), "BillableTimeInSeconds": 1800} if status == "Stopped" else {}
        return ended | {
            "TrainingJobName": TrainingJobName, "TrainingJobStatus": status, "CreationTime": moment(0), "TrainingStartTime": moment(0),
            "HyperParameters": {"run_id": "evening", "leg": "main"}, "CheckpointConfig": {"S3Uri": "s3://bucket/runs/evening/main/"},
            "ResourceConfig": {"InstanceType": "ml.p5.48xlarge", "InstanceCount": 2},
        }  # fmt: skip

    def describe_processing_job(self, ProcessingJobName: str) -> Any:
        return {
            "ProcessingJobName": ProcessingJobName, "ProcessingJobStatus": "Completed", "CreationTime": moment(-600),
            "ProcessingStartTime": moment(-600), "ProcessingEndTime": moment(-240),
            "ProcessingInputs": [{"S3Input": {"S3Uri": "s3://bucket/runs/evening/run.json"}}],
            "ProcessingResources": {"ClusterConfig": {"InstanceType": "ml.c7i.large", "InstanceCount": 1}},
        }  # fmt: skip


def moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(START + seconds, dt.UTC)


def stopped(outcome: str = "stopped") -> dict[str, Any]:
    """The report of a run that was stopped in step 40, with two whole checkpoints and one cut off."""
    s3 = stored(run_json(training={"steps": 150}), {"main": (metrics_lines(40), None)})
    for step in (20, 30):
        put_checkpoint(s3, "evening", step)
    put_checkpoint(s3, "evening", 40, whole=False)
    state = event(
        outcome=outcome, legs=[], explanation=STOPPED, image={"built": False}, data={"prepared": True}, ended="2026-09-21T14:43:20Z"
    )
    facts = read_run(state, bucket="bucket", region="us-east-1", s3=s3, sagemaker=SageMaker(["Stopped"]), now=START + 1900)
    return build_document(facts, functools.partial(admitted_usd_per_hour, facts.run))


def test_a_stopped_run_says_what_was_trained_what_it_cost_what_is_left_and_how_to_go_on():
    found = stopped()
    (leg,) = found["legs"]
    assert (found["outcome"], leg["figures"]["steps"], leg["figures"]["finished"]) == ("stopped", 40, False)
    prepared, trained = 0.1 * 360 / 3600, 63.296 * 2 / 2
    assert found["cost"]["total_usd"] == pytest.approx(prepared + trained)
    assert [job["usd"] for job in [*found["preparations"], *leg["attempts"]]] == [pytest.approx(prepared), pytest.approx(trained)]
    assert [kept["step"] for kept in leg["kept_checkpoints"]] == [30, 20] and leg["kept_checkpoints"][0]["bytes"] > 1000
    assert found["go_on"] == summary(found)["go_on"] == "pretrain start --again evening"
    states = {stage["name"]: stage["state"] for stage in found["stages"]}
    assert (states["Build image"], states["Prepare data"], states["Train"]) == ("skipped, already there", "done", "stopped")


def test_its_page_shows_them():
    page = render(stopped())
    for words in (
        "step 30, 0.00 GB: s3://bucket/runs/evening/main/",
        "pretrain start --again evening",
        "$63.30",
        'class="outcome stopped"',
    ):
        assert words in page
    assert 'class="outcome timed-out"' in render(stopped("timed out"))


def test_jobs_that_are_stopping_are_waited_for_and_only_those():
    sagemaker, pauses = SageMaker(["Stopping", "Stopping", "Stopped"]), []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        sagemaker.looks += 1

    ended = {"run_id": "evening", "ended": moment(1700).isoformat()}
    assert wait_for_jobs(ended, sagemaker, "bucket", clock=lambda: START + 1700, pause=pause) == () and pauses == [LOOK_SECONDS] * 2
    next_execution = {"run_id": "evening", "ended": moment(-1).isoformat()}  # its job came after this one's end
    assert (
        wait_for_jobs(next_execution, SageMaker(["InProgress"]), "bucket", clock=lambda: START, pause=lambda _: pytest.fail("waits")) == ()
    )


def test_a_job_that_does_not_stop_is_told():
    now = [START + 1700]

    def pause(seconds: float) -> None:
        now[0] += seconds

    (late,) = wait_for_jobs(
        {"run_id": "evening", "ended": moment(1700).isoformat()}, SageMaker(["Stopping"]), "bucket", clock=lambda: now[0], pause=pause
    )
    assert "Job evening-main-1 was still stopping" in late and now[0] - START - 1700 == SETTLE_SECONDS


def test_a_run_that_admit_refused_is_refused_and_one_whose_admit_failed_has_failed():
    for name, outcome in (("Refused", "refused"), ("Unexpected", "failed")):
        why = {"stage": "Admit", "class": name, "sentence": f"{name} (stop): no", "retry": "stop", "runbook": "x"}
        state = event(outcome="failed", legs=[], explanation=why, image={}, data={})
        facts = read_run(state, bucket="bucket", region="us-east-1", s3=stored(run_json("other"), {}), now=START)
        found = build_document(facts, lambda instance_type: None)
        assert (found["outcome"], found["stages"][0]["state"], found["go_on"]) == (outcome, outcome, None)
