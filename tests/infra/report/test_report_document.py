"""report.json: figures equal what the run wrote, and any part of the run may be missing."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import ATTEMPT, START, event, metrics_lines, result_json, run_json, stored, training_job

from contracts.metric_line import format_line, parse_line
from infra.edge.function import forget_clients
from infra.report import handler as report_function
from infra.report.document import build_document, summary
from infra.report.handler import write_report
from infra.report.read import epoch_seconds, read_run
from infra.report.series import find_interruptions, once_per_step, read_series, thin
from infra.sagemaker.prices import admitted_usd_per_hour


def document(s3, state, prices=None):
    facts = read_run(state, bucket="bucket", region="us-east-1", s3=s3, now=START + 400)
    return build_document(facts, prices or functools.partial(admitted_usd_per_hour, facts.run))


def test_figures_come_from_the_legs_own_result():
    found = document(stored(run_json(), {"main": (metrics_lines(150, 5), result_json())}), event())
    figures = found["legs"][0]["figures"]
    assert (figures["loss_first"], figures["loss_last"], figures["validation_loss"]) == (8.4, 2.71, 2.81)
    assert figures["finished"] and figures["steps"] == 150 and figures["attempts"] == 1
    assert found["headline"] == "150 steps trained, loss 8.400 to 2.710."


def test_cost_is_billable_seconds_times_instances_times_the_admitted_price():
    job = training_job("evening-main-1", 1800, ResourceConfig={"InstanceType": "ml.p5.48xlarge", "InstanceCount": 4})
    found = document(stored(run_json(), {"main": (metrics_lines(10), result_json())}), event(legs=[{"name": "main", "attempts": [job]}]))
    assert found["cost"]["total_usd"] == pytest.approx(0.5 * 4 * 63.296)


def test_a_price_that_is_not_known_leaves_the_total_unknown():
    s3 = stored(run_json(), {"main": (metrics_lines(10), result_json())})
    found = document(s3, event(), prices=lambda instance_type: None)
    assert found["cost"]["total_usd"] is None


def test_unfinished_leg_is_described_by_its_metrics_lines():
    lines = metrics_lines(40)
    figures = document(stored(run_json(), {"main": (lines, None)}), event(outcome="failed"))["legs"][0]["figures"]
    rows = [row for row in map(parse_line, lines) if row]
    assert not figures["finished"] and figures["steps"] == 40
    assert (figures["loss_first"], figures["loss_last"]) == (rows[0]["loss"], rows[-1]["loss"])


def test_what_a_profiler_recorded_is_linked_and_the_steps_it_slowed_count_for_no_speed():
    lines = [format_line(step, START + step, {"loss": 5.0, "tokens_per_second_per_device": 900.0 + step}) for step in range(1, 10)]
    slow = [
        format_line(step, START + step, {"loss": 5.0, "tokens_per_second_per_device": 1.0, "profiled_steps": 1}) for step in range(10, 30)
    ]
    s3 = stored(run_json(), {"main": (lines + slow, None)})
    trace = f"runs/evening/main/{ATTEMPT}diagnostics/trace-steps-10-12-rank-0.json.gz"
    s3.objects |= {trace: b"x" * 10, f"runs/evening/main/{ATTEMPT}metrics/other": b""}
    found = document(s3, event(outcome="failed"))["legs"][0]
    assert found["figures"]["tokens_per_second_per_device"] == 905.5  # of steps 2 to 9
    (file,) = found["profiles"]
    assert (file["uri"], file["bytes"], file["name"]) == (f"s3://bucket/{trace}", 10, "trace-steps-10-12-rank-0.json.gz")
    write_report(read_run(event(), bucket="bucket", region="us-east-1", s3=s3, now=START), s3=s3, usd_per_hour=lambda instance_type: None)
    page = s3.objects["runs/evening/report.html"].decode()
    assert f'href="https://us-east-1.console.aws.amazon.com/s3/object/bucket?region=us-east-1&amp;prefix={trace}"' in page
    assert "pretrain logs evening --to DIR" in page


def test_refused_run_has_a_report_without_run_json():
    why = {"stage": "Admit", "class": "Refused", "sentence": "Refused (stop): training.stepz: unknown key", "retry": "stop"}
    # a run of that name was trained before, and its report is not touched; Admit's Catch knows the execution's name only
    s3 = stored(run_json(), {"main": (metrics_lines(10), result_json())})
    s3.objects |= {"runs/evening/report.html": b"the good one", "runs/evening/report.json": b"{}"}
    state = event("evening-2", outcome="failed", legs=[], image={"built": False}, data={"prepared": False}, explanation=why)
    state |= {"asked": {"run_id": "evening"}, "execution_arn": state["execution_arn"] + "-2"}
    facts = read_run(state, bucket="bucket", region="us-east-1", s3=s3, now=START)
    output = write_report(facts, s3=s3, usd_per_hour=lambda instance_type: None)
    assert output["headline"] == why["sentence"] and output["legs"] == []
    assert s3.objects["runs/evening/report.html"] == b"the good one"
    assert b"training.stepz: unknown key" in s3.objects["runs/evening/executions/evening-2/report.html"]
    assert output["run_id"] == "evening" and output["report"] == "s3://bucket/runs/evening/executions/evening-2/report.html"
    assert document(s3, state)["stages"][0] == {"name": "Admit", "state": "refused", "seconds": None}


def test_text_from_outside_cannot_become_markup():
    s3 = stored(run_json(), {"main": (metrics_lines(10), result_json(sample={"prompt": "<script>", "text": "</script><img src=x>"}))})
    facts = read_run(event(), bucket="bucket", region="us-east-1", s3=s3, now=START)
    write_report(facts, s3=s3, usd_per_hour=lambda instance_type: None)
    page = s3.objects["runs/evening/report.html"].decode()
    assert "<img src=x>" not in page and "&lt;/script&gt;&lt;img src=x&gt;" in page


def test_attempts_that_jsonata_nested_or_left_single_are_all_read():
    jobs = [[training_job("a-1", 10, "Failed")], training_job("a-2")]
    s3 = stored(run_json(), {"main": (metrics_lines(10), result_json())})
    found = document(s3, event(legs={"name": "main", "attempts": jobs}))
    assert [job["job_name"] for job in found["legs"][0]["attempts"]] == ["a-1", "a-2"]


def test_final_output_fits_a_state_and_links_what_was_made():
    legs = {f"leg{i:02}": (metrics_lines(200), result_json()) for i in range(16)}
    run = run_json(legs=[{"name": name} for name in legs])
    found = document(stored(run, legs), event(legs=[{"name": name, "attempts": [training_job(name)]} for name in legs]))
    output = json.dumps(summary(found))
    assert len(output) < 32_000  # of the 262,144 bytes that a state may hold
    assert summary(found)["legs"][3]["export"] == "s3://bucket/runs/evening/leg03/attempts/20260921T141320-aaaaaa-1/export/"
    assert summary(found)["links"]["report"] == "s3://bucket/runs/evening/report.html"


def test_first_leg_is_the_baseline_of_every_ratio():
    run = run_json(legs=[{"name": "base"}, {"name": "fast"}])
    legs = {"base": (metrics_lines(10), result_json()), "fast": (metrics_lines(10), result_json(tokens_per_second_per_device=13501.5))}
    ratios = [leg["figures"]["ratio_to_baseline"] for leg in document(stored(run, legs), event(legs=[]))["legs"]]
    assert ratios == [1.0, 1.5]


def test_reference_figures_stand_only_beside_the_references_own_model():
    small = document(stored(run_json(ablation="reference", training={"device": "cuda"}), {}), event(legs=[]))
    assert [leg["figures"]["reference_tokens_per_second"] for leg in small["legs"]] == [None] * 4


def test_validation_lines_join_the_step_they_belong_to():
    rows = [
        {"step": 50.0, "loss": 5.0, "time": 1.0},
        {"step": 50.0, "validation_loss": 5.1, "time": 2.0},
        {"step": 55.0, "loss": 4.9, "time": 3.0},
    ]
    assert once_per_step(rows) == [{"step": 50.0, "loss": 5.0, "validation_loss": 5.1, "time": 2.0}, rows[2]]
    assert find_interruptions(rows) == []


def test_resumed_attempt_is_one_interruption_and_its_steps_count_once():
    rows = [row for row in map(parse_line, metrics_lines(80, 2) + metrics_lines(110, 2, start=50, at=START + 120)) if row]
    found = read_series(rows)
    assert [(item.step, item.resumed_from) for item in found.interruptions] == [(80, 50)]
    assert len(found.steps) == len(set(found.steps)) and found.steps[-1] == 110


@given(st.lists(st.floats(0.1, 20), min_size=1, max_size=900), st.integers(2, 300))
def test_thinning_keeps_ends_extremes_and_every_validation(losses, limit):
    rows = [{"step": float(i), "loss": loss} | ({"validation_loss": loss} if i % 97 == 5 else {}) for i, loss in enumerate(losses)]
    kept = thin(rows, limit)
    assert kept[0] == rows[0] and kept[-1] == rows[-1]
    assert {min(losses), max(losses)} <= {row["loss"] for row in kept}
    assert [row for row in rows if "validation_loss" in row] == [row for row in kept if "validation_loss" in row]
    assert len(kept) <= max(limit, 0) + 4 + sum("validation_loss" in row for row in rows)


def test_not_a_number_in_the_metrics_is_left_out_of_the_curve():
    rows = [row for row in (parse_line(format_line(1, 0.0, {"loss": 3.0})), parse_line(format_line(2, 1.0, {"loss": math.nan}))) if row]
    assert read_series(rows).columns["loss"] == (3.0, None)


@pytest.mark.parametrize("value", ["2026-09-21T14:13:20Z", "2026-09-21T14:13:20.000+00:00", 1790000000, 1790000000000])
def test_times_are_read_however_aws_writes_them(value):
    assert epoch_seconds(value) == START


def test_handler_reads_its_deployment_and_region_from_the_environment(monkeypatch):
    s3 = stored(run_json(), {"main": (metrics_lines(10), result_json())})
    monkeypatch.setenv("DEPLOYMENT", '{"bucket": "bucket", "dashboard": "pretrain-us-east-1"}')
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    forget_clients()
    earlier = training_job("evening-main-0fab12-1", 100.0, "Stopped", HyperParameters={"run_id": "evening", "leg": "main"})
    earlier |= {"CheckpointConfig": {"S3Uri": "s3://bucket/runs/evening/main/"}, "TrainingStartTime": START, "TrainingEndTime": START + 100}
    jobs = Jobs([earlier])
    monkeypatch.setattr("boto3.client", lambda service, **_: s3 if service == "s3" else jobs)
    jobs.execution = "ABORTED"  # while the report was being written: that of the stop counts, and Triage orders it
    assert report_function.handler(event(), None) == {} and "runs/evening/report.json" not in s3.objects
    jobs.execution = "RUNNING"
    output = report_function.handler(event(), None)
    assert output["outcome"] == "succeeded"
    report = json.loads(s3.objects["runs/evening/report.json"])
    assert [job["billable_seconds"] for job in report["legs"][0]["attempts"]] == [100, 180]  # an earlier execution's, and this one's
    assert output["usd"] == report["cost"]["total_usd"] == pytest.approx(280 / 3600 * 0.1)


class Jobs:
    """SageMaker's training jobs."""

    def __init__(self, jobs: list[dict[str, Any]]) -> None:
        self.jobs = {job["TrainingJobName"]: job for job in jobs}
        self.execution = "RUNNING"

    def describe_execution(self, executionArn: str) -> dict[str, Any]:
        return {"status": self.execution}

    def get_paginator(self, name: str) -> Any:
        found = [{"TrainingJobName": job} for job in self.jobs] if name == "list_training_jobs" else []
        return SimpleNamespace(paginate=lambda **_: [{"TrainingJobSummaries": found, "ProcessingJobSummaries": []}])

    def describe_training_job(self, TrainingJobName: str) -> dict[str, Any]:
        return self.jobs[TrainingJobName]


def test_final_output_and_page_lead_to_execution_logs_and_dashboard():
    s3 = stored(run_json(), {"main": (metrics_lines(10), result_json())})
    facts = read_run(event(), bucket="bucket", region="us-west-2", dashboard="pretrain-us-west-2", s3=s3, now=START)
    links = write_report(facts, s3=s3, usd_per_hour=lambda instance_type: None)["links"]
    console = "https://us-west-2.console.aws.amazon.com"
    assert links["dashboard"] == f"{console}/cloudwatch/home?region=us-west-2#dashboards/dashboard/pretrain-us-west-2"
    assert links["execution"].startswith(f"{console}/states/home?region=us-west-2#/v2/executions/details/arn:aws:states:")
    assert links["logs"].endswith("$252Faws$252Fsagemaker$252FTrainingJobs$3FlogStreamNameFilter$3Devening-main-1")
    page = s3.objects["runs/evening/report.html"].decode()
    assert all(f'href="{links[name]}"' in page for name in ("execution", "logs", "dashboard"))


def test_a_checkpoint_stands_at_the_step_it_was_saved_at():
    rows = [{"step": float(step), "loss": 2.0, "checkpoint_seconds": 1.5 if step == 55 else 0.0} for step in range(5, 101, 5)]
    assert read_series(rows).checkpoints == (50,)
    lines = [format_line(int(row["step"]), START, {name: row[name] for name in ("loss", "checkpoint_seconds")}) for row in rows]
    saved = result_json(checkpoints=[{"step": 50, "time": START, "seconds": 1.5}, {"step": 100, "time": START, "seconds": 1.5}])
    found = document(stored(run_json(), {"main": (lines, saved)}), event())
    assert found["legs"][0]["series"]["checkpoints"] == [50, 100]  # the last one is followed by no line


def test_stages_have_the_times_of_admit_and_report():
    s3 = stored(run_json(), {"main": (metrics_lines(10), result_json())})
    facts = read_run(event(), bucket="bucket", region="us-east-1", s3=s3, now=START + 400)
    facts = dataclasses.replace(facts, admitted=START + 7, read=START + 403)
    stages = {stage["name"]: stage for stage in build_document(facts, lambda instance_type: None)["stages"]}
    assert list(stages) == ["Admit", "Build image", "Prepare data", "Train", "Report"]
    assert (stages["Admit"]["seconds"], stages["Report"]["seconds"]) == (7, 3)
