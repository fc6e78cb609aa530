"""The jobs of a run, of all its executions, and what they cost: one place for watch, list, report, monitor and the lock.

SageMaker keeps every job for ever; which run a job belongs to stands in its request. A job's seconds are the billed ones, those
of a running job up to now; pauses between jobs and executions are in no job, and each job is counted once.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from contracts.config import Json
from infra.run.job_requests import JOB_WORDS
from infra.run.layout import RUNS_PREFIX, RunLayout, uri

Kind = Literal["Training", "Processing"]
JobStage = Literal["prepare", "train", "evaluate"]
KINDS: tuple[Kind, ...] = ("Training", "Processing")
UNDER_WAY = ("InProgress", "Stopping")
"""Statuses of a job that may still write."""
UsdPerHour = Callable[[str], float | None]
"""Price of one instance of a type; None when it is not known."""


@dataclass(frozen=True, kw_only=True)
class RunJob:
    """One job of a run."""

    name: str
    kind: Kind
    stage: JobStage
    """Evaluations are training jobs for SageMaker; their hyperparameters say what they are."""
    leg: str | None
    """The leg that it trained or evaluated; None for a processing job."""
    status: str
    created: float
    """Epoch seconds."""
    billed_seconds: float
    """Billed seconds of one instance so far."""
    instance_type: str
    instance_count: int
    description: Json
    """What DescribeTrainingJob or DescribeProcessingJob said."""

    @property
    def waiting(self) -> bool:
        """Whether it is under way and has no instances yet."""
        return self.status == "InProgress" and self.description.get(f"{self.kind}StartTime") is None

    def usd(self, usd_per_hour: UsdPerHour) -> float | None:
        """Dollars so far; None when the type's price is not known."""
        price = usd_per_hour(self.instance_type)
        return None if price is None else self.billed_seconds / 3600 * price * self.instance_count


def run_jobs(sagemaker: Any, bucket: str, run_id: str, now: float, *, statuses: Sequence[str | None] = (None,)) -> list[RunJob]:
    """Jobs of all executions of a run, oldest first; only those of some ``statuses`` where they are given."""
    found = [
        job
        for kind in KINDS
        for status in statuses
        for name in _names(sagemaker, kind, run_id, status)
        if (job := _described(sagemaker, kind, name, bucket, run_id, now)) is not None
    ]
    return sorted(found, key=lambda job: job.created)


def total_usd(jobs: Iterable[RunJob], usd_per_hour: UsdPerHour) -> float | None:
    """Dollars of jobs, each once; None when a price is not known: an incomplete sum would mislead."""
    parts = [job.usd(usd_per_hour) for job in {job.name: job for job in jobs}.values()]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _names(sagemaker: Any, kind: Kind, run_id: str, status: str | None) -> Iterator[str]:
    words = re.sub(r"[^a-zA-Z0-9]+", "-", run_id)[:JOB_WORDS].strip("-")
    pages = sagemaker.get_paginator(f"list_{kind.lower()}_jobs").paginate(
        NameContains=words, **({"StatusEquals": status} if status else {})
    )
    for page in pages:
        for summary in page[f"{kind}JobSummaries"]:
            if str(summary[f"{kind}JobName"]).startswith(words):
                yield str(summary[f"{kind}JobName"])


def _described(sagemaker: Any, kind: Kind, name: str, bucket: str, run_id: str, now: float) -> RunJob | None:
    """The job, or None when it is of another run whose name begins alike."""
    job: Json = getattr(sagemaker, f"describe_{kind.lower()}_job")(**{f"{kind}JobName": name})
    if kind == "Training":
        own = job.get("HyperParameters", {}).get("run_id") == run_id
        own &= str(job.get("CheckpointConfig", {}).get("S3Uri", "")).startswith(uri(bucket, RUNS_PREFIX))
        resources = job.get("ResourceConfig", {})
    else:
        inputs = [item.get("S3Input", {}).get("S3Uri") for item in job.get("ProcessingInputs", [])]
        own = uri(bucket, RunLayout(run_id).run_json) in inputs
        resources = job.get("ProcessingResources", {}).get("ClusterConfig", {})
    if not own:
        return None
    started, ended = _seconds(job.get(f"{kind}StartTime")), _seconds(job.get(f"{kind}EndTime"))
    billed = job.get("BillableTimeInSeconds")
    if not isinstance(billed, (int, float)):
        billed = 0.0 if started is None else max(0.0, (now if ended is None else ended) - started)
    return RunJob(
        name=name,
        kind=kind,
        stage="prepare" if kind == "Processing" else "evaluate" if is_evaluation(job) else "train",
        leg=job["HyperParameters"].get("leg") if kind == "Training" else None,
        status=str(job.get(f"{kind}JobStatus", "Unknown")),
        created=_seconds(job.get("CreationTime")) or 0.0,
        billed_seconds=float(billed),
        instance_type=str(resources.get("InstanceType", "")),
        instance_count=int(resources.get("InstanceCount") or 1),
        description=job,
    )


def is_evaluation(job: Json) -> bool:
    """Whether a training job's description is that of an evaluation."""
    return (job.get("HyperParameters") or {}).get("stage") == "evaluate"


def _seconds(value: Any) -> float | None:
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    return float(value) if isinstance(value, (int, float)) else None
