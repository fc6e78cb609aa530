"""Input of the report: the run's folder in S3, and the values that the state machine passes.

A report is also written when the run failed, so every part may be missing: no run.json (Admit refused),
no metrics (a job died early), no result.json (a leg did not finish).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts.metric_line import parse_line
from infra.run.layout import RunLayout
from infra.run.leg_files import attempt_folders, metrics_keys, newest_result
from infra.run.stored import read_json, read_text

Json = dict[str, Any]
Row = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One training job of a leg, from DescribeTrainingJob."""

    job_name: str
    """SageMaker's name of it."""
    status: str
    """TrainingJobStatus."""
    started: float | None
    """TrainingStartTime, epoch seconds."""
    ended: float | None
    """TrainingEndTime, epoch seconds."""
    billable_seconds: float | None
    """BillableTimeInSeconds of one instance; the wall time of the job where SageMaker names none."""
    instance_type: str | None
    """ResourceConfig.InstanceType."""
    instance_count: int
    """ResourceConfig.InstanceCount."""
    spot: bool
    """Managed spot training."""
    failure: str | None
    """FailureReason."""


@dataclass(frozen=True, kw_only=True)
class LegFacts:
    """One leg: its settings, its files, and its jobs."""

    name: str
    training: Json
    """Its full TrainingSpec, from run.json."""
    folder: str = ""
    """Key prefix of the attempt that it ended in: the newest with a result, else the newest; "" before any has written."""
    rows: tuple[Row, ...] = ()
    """Metrics lines of all attempts, in the order written; a resumed attempt repeats steps."""
    result: Json = field(default_factory=dict)
    """result.json, or {} when the leg did not finish."""
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run as the report sees it."""

    run_id: str
    bucket: str
    region: str
    outcome: str
    """``succeeded`` or ``failed``."""
    dashboard: str = ""
    """Name of the deployment's CloudWatch dashboard."""
    now: float
    """When the report was written, epoch seconds."""
    started: float | None = None
    """When the execution started, epoch seconds."""
    execution_arn: str | None = None
    run: Json = field(default_factory=dict)
    """run.json, or {} when Admit refused the input."""
    image: Json = field(default_factory=dict)
    """``{"built": bool, "build": CodeBuild's Build}``."""
    data: Json = field(default_factory=dict)
    """``{"prepared": bool, "job": DescribeProcessingJob}``."""
    index: Json = field(default_factory=dict)
    """index.json of the token shards, or {}."""
    legs: tuple[LegFacts, ...] = ()
    explanation: Json | None = None
    """Explain's output, on failure."""


def read_run(event: Mapping[str, Any], *, bucket: str, region: str, s3: Any, now: float, dashboard: str = "") -> RunFacts:
    """RunFacts of the state machine's event.

    Args:
        event: ``run_id`` and, all optional, ``outcome``, ``started``, ``execution_arn``, ``image``, ``data``, ``legs``, ``explanation``.
        bucket: the run's bucket.
        region: for console links and prices.
        s3: a boto3 S3 client.
        now: epoch seconds.
        dashboard: name of the deployment's dashboard, for its link.
    """
    run_id = str(event["run_id"])
    layout = RunLayout(run_id)
    run = read_json(s3, bucket, layout.run_json)
    attempts = {str(leg["name"]): list(_jobs(leg.get("attempts"))) for leg in _items(event.get("legs"))}
    legs = tuple(_leg(leg, attempts, layout, bucket, s3) for leg in run.get("legs", []))
    fingerprint = (run.get("tokens") or {}).get("fingerprint")
    return RunFacts(
        run_id=run_id,
        bucket=bucket,
        region=region,
        outcome=str(event.get("outcome") or ("failed" if event.get("explanation") else "succeeded")),
        now=now,
        dashboard=dashboard,
        started=epoch_seconds(event.get("started") or (run.get("admitted") or {}).get("time")),
        execution_arn=event.get("execution_arn"),
        run=run,
        image=event.get("image") or {},
        data=event.get("data") or {},
        index=read_json(s3, bucket, f"tokens/{fingerprint}/index.json") if fingerprint else {},
        legs=legs,
        explanation=event.get("explanation") or None,
    )


def epoch_seconds(value: object) -> float | None:
    """Epoch seconds of what Step Functions passes on: ISO 8601, seconds or milliseconds."""
    if isinstance(value, dt.datetime):
        return value.timestamp()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value / 1000 if value > 1e11 else float(value)  # 1e11 s is the year 5138, 1e11 ms is 1973
    if isinstance(value, str):
        try:
            return dt.datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
        except ValueError:
            return None
    return None


def _items(value: Any) -> list[Any]:
    """A list, also where JSONata reduced a list of one element to the element."""
    return value if isinstance(value, list) else [value] if value else []


def _jobs(value: Any) -> Iterator[Json]:
    """Job descriptions, flattened from JSONata's nested lists."""
    for item in _items(value):
        if isinstance(item, list):
            yield from _jobs(item)
        elif isinstance(item, dict) and item:
            yield item


def _leg(leg: Json, attempts: Mapping[str, list[Json]], layout: RunLayout, bucket: str, s3: Any) -> LegFacts:
    name = str(leg["name"])
    folders = attempt_folders(s3, bucket, layout, name)
    lines = [line for key in metrics_keys(folders) for line in read_text(s3, bucket, key).splitlines()]
    ended = newest_result(s3, bucket, folders)
    return LegFacts(
        name=name,
        training=leg.get("training", {}),
        folder=ended[0] if ended is not None else (folders[-1] if folders else ""),
        rows=tuple(row for row in map(parse_line, lines) if row is not None),
        result=ended[1] if ended is not None else {},
        attempts=tuple(_attempt(job) for job in attempts.get(name, [])),
    )


def _attempt(job: Mapping[str, Any]) -> Attempt:
    started, ended = epoch_seconds(job.get("TrainingStartTime")), epoch_seconds(job.get("TrainingEndTime"))
    wall = ended - started if started is not None and ended is not None else None
    billable = job.get("BillableTimeInSeconds")
    resources = job.get("ResourceConfig") or {}
    return Attempt(
        job_name=str(job.get("TrainingJobName", "")),
        status=str(job.get("TrainingJobStatus", "Unknown")),
        started=started,
        ended=ended,
        billable_seconds=float(billable) if isinstance(billable, (int, float)) else wall,
        instance_type=resources.get("InstanceType"),
        instance_count=int(resources.get("InstanceCount") or 1),
        spot=bool(job.get("EnableManagedSpotTraining")),
        failure=job.get("FailureReason") or None,
    )
