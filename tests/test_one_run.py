"""The whole product on the embedded AWS: real stacks, jobs and text; one run resumes after a kill, others fail.

The tests share one deployment and depend on their order: the second uses the image that the first built.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from contracts.metric_line import parse_line
from infra.report.series import once_per_step
from infra.run.layout import RunLayout
from infra.run.leg_files import attempt_folders, metrics_keys

if TYPE_CHECKING:  # the name conftest is not unique at run time
    from conftest import EmbeddedStacks

pytestmark = pytest.mark.embedded

T = TypeVar("T")
PREFIX = "source/stdlib/"
STEPS = 24
KILL_AFTER_STEP = 12  # past more checkpoints than are kept, before the last step
DATA = {
    "source": PREFIX,
    "tokenizer": {"train": {"vocab_size": 1024, "sample_bytes": 1 << 20}},
    "validation_share": 0.05,
    "shard_tokens": 200_000,
}
TRAINING = {
    "model": {"dim": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_dim": 128, "vocab_size": 1024, "max_sequence_length": 128},
    "steps": STEPS,
    "sequence_length": 128,
    "local_batch_size": 4,
    "schedule": {"warmup_steps": 2},
    "checkpoint": {"interval_steps": 2, "async_mode": "async"},
    "validation": {"interval_steps": 0, "batches": 2},
    "log_interval_steps": 1,
}


def stdlib_text(first: int = 0, last: int = 60) -> bytes:
    """Python's own library as JSONL: real text on every machine, about 1 MB."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[first:last]
    lines = [json.dumps({"text": paragraph}) for file in files for paragraph in file.read_text(errors="replace").split("\n\n")]
    return gzip.compress("\n".join(lines).encode(), mtime=0)


@pytest.fixture(scope="module")
def stacks(embedded_aws: EmbeddedStacks) -> Iterator[EmbeddedStacks]:
    embedded_aws.client("s3").put_object(Bucket=embedded_aws.bucket, Key=PREFIX + "a.jsonl.gz", Body=stdlib_text())
    yield embedded_aws


def until(look: Callable[[], T | None], what: str, seconds: float = 300) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def read(stacks: EmbeddedStacks, key: str) -> str:
    return str(stacks.client("s3").get_object(Bucket=stacks.bucket, Key=key)["Body"].read().decode())


def keys(stacks: EmbeddedStacks, prefix: str) -> set[str]:
    pages = stacks.client("s3").get_paginator("list_objects_v2").paginate(Bucket=stacks.bucket, Prefix=prefix)
    return {item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])}


def attempts(stacks: EmbeddedStacks, run: str) -> list[str]:
    return attempt_folders(stacks.client("s3"), stacks.bucket, RunLayout(run), "main")


def metrics(stacks: EmbeddedStacks, run: str) -> list[dict[str, float]]:
    """Lines of all attempts; of a step that was trained twice the later attempt's."""
    there = keys(stacks, "")
    texts = [read(stacks, key) for key in metrics_keys(attempts(stacks, run)) if key in there]
    return once_per_step([line for text in texts for row in text.splitlines() if (line := parse_line(row))])


def processes_of(run: str, mark: bytes = b"", kind: str = "TRAINING") -> list[int]:
    """Process ids of a run's training (or PROCESSING) jobs, those whose environment holds ``mark`` as well."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"{kind}_JOB_NAME={run}-".encode() in environment and mark in environment:
            found.append(int(entry.name))
    return found


def run_spec(stacks: EmbeddedStacks) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(read(stacks, "runs/whole/run.json"))
    return content


def jobs(stacks: EmbeddedStacks, run: str) -> list[str]:
    listed = stacks.client("sagemaker").list_training_jobs(NameContains=run)["TrainingJobSummaries"]
    return sorted(job["TrainingJobName"] for job in listed)


def reasons(stacks: EmbeddedStacks, run: str) -> list[str]:
    """Why each of a run's jobs ended."""
    described = (stacks.client("sagemaker").describe_training_job(TrainingJobName=job) for job in jobs(stacks, run))
    return [str(job.get("FailureReason")) for job in described]


def describe_failure(stacks: EmbeddedStacks, ended: dict[str, Any]) -> str:
    return f"{ended.get('error')}: {ended.get('cause')}; states {stacks.states(ended['executionArn'])}"


def test_run_survives_a_killed_job_and_leaves_everything_it_promises(stacks: EmbeddedStacks) -> None:
    training = TRAINING | {"profile": {"steps": [4, 5]}}
    asked = {"run_id": "whole", "data": DATA, "training": training, "compute": {"tensorboard": True}}
    execution = stacks.start(asked, name="whole-1")
    late = until(lambda: [row for row in metrics(stacks, "whole") if row["step"] >= KILL_AFTER_STEP], "step 12")
    assert late
    for process in processes_of("whole", b"LOCAL_RANK="):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    ended = stacks.wait(execution)
    assert ended["status"] == "SUCCEEDED", describe_failure(stacks, ended)

    states = stacks.states(execution)
    order = [states.index(name) for name in ("Admit", "Prepare data", "Train legs", "Train", "Triage", "Report", "Done")]
    assert order == sorted(order)
    image = stacks.client("sagemaker").describe_training_job(TrainingJobName=jobs(stacks, "whole")[0])["AlgorithmSpecification"]
    assert "@sha256:" in image["TrainingImage"]  # built by this session's first run, whichever test that was
    assert len(jobs(stacks, "whole")) == states.count("Train") == 2, reasons(stacks, "whole")  # a fresh name for the second attempt

    rows = metrics(stacks, "whole")
    steps = [int(row["step"]) for row in rows if "loss" in row]
    assert steps == list(range(1, STEPS + 1))  # every step once, killed and resumed
    first, second = attempts(stacks, "whole")
    result = json.loads(read(stacks, f"{second}metrics/result.json"))
    assert result["resumed_from"] == result["restored"]["step"] >= 8
    report = json.loads(read(stacks, "runs/whole/report.json"))
    (leg,) = report["legs"]
    assert (leg["figures"]["steps"], leg["figures"]["attempts"]) == (STEPS, 2)
    assert leg["figures"]["loss_last"] < leg["figures"]["loss_first"] - 0.5  # the first is the first attempt's
    assert leg["export"] == f"s3://{stacks.bucket}/{second}export/"

    (trace,) = leg["profiles"]
    assert trace["uri"] == f"s3://{stacks.bucket}/{first}diagnostics/trace-steps-4-5-rank-0.json.gz"
    assert trace["name"] in read(stacks, "runs/whole/report.html")

    given = stacks.client("sagemaker").describe_training_job(TrainingJobName=jobs(stacks, "whole")[1])
    assert given["CheckpointConfig"]["S3Uri"] == f"s3://{stacks.bucket}/{second}"
    (channel,) = (channel for channel in given["InputDataConfig"] if channel["ChannelName"] == "checkpoint")
    source = channel["DataSource"]["S3DataSource"]["S3Uri"]
    assert (channel["InputMode"], source) == ("FastFile", f"s3://{stacks.bucket}/{first}checkpoints/step-{result['resumed_from']}/")

    sagemaker = stacks.client("sagemaker")  # registered once, whatever else this deployment has registered
    versions = sagemaker.list_model_packages(ModelPackageGroupName="pretrain-local", MaxResults=100)["ModelPackageSummaryList"]
    (arn,) = [one["ModelPackageArn"] for one in versions if one["ModelPackageDescription"].startswith("Run whole, leg main: ")]
    assert report["sinks"][0]["places"] == {"main": arn}, report["sinks"]
    model = sagemaker.describe_model_package(ModelPackageName=arn)
    assert (model["ModelApprovalStatus"], model["SourceUri"]) == ("PendingManualApproval", leg["export"])
    lineage = model["CustomerMetadataProperties"]
    assert (lineage["training_job"], lineage["image"]) == (given["TrainingJobArn"], given["AlgorithmSpecification"]["TrainingImage"])
    measured = model["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"].removeprefix(f"s3://{stacks.bucket}/")
    assert json.loads(read(stacks, measured))["figures"] == leg["figures"]

    assert {"run.json", "report.html", "report.json"} <= keys(stacks, "runs/whole/")
    left = keys(stacks, second)
    assert any(re.fullmatch(r"export/.*\.safetensors", key) for key in left)
    assert {"export/config.json", "export/tokenizer.json"} <= left
    events = [key.split("/tensorboard-output/")[0] for key in keys(stacks, "runs/whole/main/tensorboard/") if "events.out.tfevents" in key]
    assert sorted(events) == jobs(stacks, "whole")  # each attempt's
    keep_latest = run_spec(stacks)["legs"][0]["training"]["checkpoint"]["keep_latest"]
    for attempt in (first, second):  # what a job deleted on its disk is gone from S3; one more may have been on its way when it was killed
        whole = [key for key in keys(stacks, attempt) if re.fullmatch(r"checkpoints/step-\d+/manifest\.json", key)]
        assert len(whole) <= keep_latest + 1, whole
    run = run_spec(stacks)
    index = json.loads(read(stacks, f"tokens/{run['tokens']['fingerprint']}/index.json"))
    assert index["fingerprint"] == run["tokens"]["fingerprint"]


def test_second_run_makes_neither_image_nor_data_again_and_stopping_it_ends_its_processes(stacks: EmbeddedStacks) -> None:
    training = TRAINING | {"steps": 5000}
    execution = stacks.start({"run_id": "stopped", "data": DATA, "training": training}, name="stopped-1")
    until(lambda: metrics(stacks, "stopped"), "the first step")
    states = stacks.states(execution)
    assert "Build image" not in states and "Prepare data" not in states
    assert processes_of("stopped")
    stacks.client("stepfunctions").stop_execution(executionArn=execution, error="Test", cause="enough")
    until(lambda: not processes_of("stopped"), "the end of the job's processes", 150)
    job = stacks.client("sagemaker").describe_training_job(TrainingJobName=jobs(stacks, "stopped")[0])
    assert job["TrainingJobStatus"] in ("Stopping", "Stopped")
    assert stacks.describe(execution)["status"] == "ABORTED"


def test_a_corrupt_file_stops_the_run_with_its_name_and_leaves_no_index(stacks: EmbeddedStacks) -> None:
    s3 = stacks.client("s3")
    s3.put_object(Bucket=stacks.bucket, Key="source/broken/good.jsonl.gz", Body=stdlib_text())
    s3.put_object(Bucket=stacks.bucket, Key="source/broken/bad.jsonl.gz", Body=stdlib_text()[:5000])
    execution = stacks.start({"run_id": "broken", "data": DATA | {"source": "source/broken/"}, "training": TRAINING})
    ended = stacks.wait(execution)
    assert ended["status"] == "FAILED"
    assert ended["error"] == "CorruptSource", describe_failure(stacks, ended)
    assert "bad.jsonl.gz" in ended["cause"]
    fingerprint = json.loads(read(stacks, "runs/broken/run.json"))["tokens"]["fingerprint"]
    assert "index.json" not in keys(stacks, f"tokens/{fingerprint}/")
    assert jobs(stacks, "broken") == []
    report = json.loads(read(stacks, "runs/broken/report.json"))
    assert "bad.jsonl.gz" in json.dumps(report)


BAD_INPUTS: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
    ({"recipie": "local"}, ("recipie", 'did you mean "recipe"')),
    ({"recipe": "lokal"}, ('there is no recipe "lokal"', 'did you mean "local"')),
    ({"training": {"steps": "many", "modle": {}}, "compute": {"instance_count": 0}},
     ("training.steps", "training.modle", "compute.instance_count")),
    ({"data": {"source": "source/nothing/"}}, ("source/nothing/",)),
    ({"data": DATA, "compute": {"instance_type": "ml.p5.48xlarge", "instance_count": 9}},
     ("ml.p5.48xlarge for training job usage", "9")),
)  # fmt: skip


@pytest.mark.parametrize(("value", "words"), BAD_INPUTS)
def test_bad_input_is_refused_with_every_reason_before_anything_is_created(
    stacks: EmbeddedStacks, value: dict[str, Any], words: tuple[str, ...]
) -> None:
    if "compute" in value and "instance_type" in value["compute"]:
        stacks.aws.set_quota("ml.p5.48xlarge for training job usage", 0)
    before = stacks.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    ended = stacks.wait(stacks.start(value), 60)
    assert (ended["status"], ended["error"]) == ("FAILED", "Refused"), describe_failure(stacks, ended)
    assert [word for word in words if word not in ended["cause"]] == [], ended["cause"]
    assert len(stacks.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]) == len(before)
    assert stacks.states(ended["executionArn"])[0:2] == ["Admit", "Explain"]
