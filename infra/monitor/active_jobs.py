"""Monitor: reads every active training job of the deployment and publishes metrics for alarms and dashboard.

It reads what exists anyway (job descriptions, run.json, the metrics file, the checkpoint folder) and changes nothing.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from contracts.config import Json
from contracts.metric_line import parse_line
from infra.monitor import published_metrics as names
from infra.monitor.published_metrics import PublishedMetric
from infra.run.deployment import MonitorDeployment
from infra.run.expected import AMOUNT, TEXT, Each, fitting
from infra.run.layout import RunLayout, split_uri, uri
from infra.run.leg_files import folders_of, manifest_of, metrics_keys
from infra.run.quota_requests import quota_requests
from infra.run.run_jobs import is_evaluation, run_jobs
from infra.run.run_spec import resolve
from infra.run.stored import Unreadable, read_json
from infra.sagemaker.prices import admitted_usd_per_hour
from infra.sagemaker.quotas import status_of_each

RUN = {
    "legs": [{"name": TEXT, "training": {"expected_tokens_per_second_per_device": AMOUNT}}],
    "budget": {"max_usd": AMOUNT},
    "admitted": {"estimate": {"usd_per_hour": Each(AMOUNT)}},
}
"""What the monitor reads of run.json."""
TAIL_BYTES = 65_536  # the last hundreds of metrics lines; one line is enough

Values = dict[PublishedMetric, float]


@dataclass(frozen=True, kw_only=True)
class Clients:
    """AWS clients of the monitor."""

    s3: Any
    sagemaker: Any
    cloudwatch: Any
    quotas: Any


@dataclass(frozen=True, kw_only=True)
class MonitorRound:
    """Deployment, region and time of one invocation of the monitor."""

    deployment: MonitorDeployment
    """What the stacks told the function."""
    region: str
    """Its region."""
    now: datetime.datetime
    """When the round began."""


def look_at_active_jobs(current: MonitorRound, clients: Clients) -> Json:
    """One round; returns the values by job for the log, and in ``unread`` what could not be looked at, by job."""
    seen: Json = {}
    unread: dict[str, list[str]] = {}
    published: list[tuple[PublishedMetric, float]] = []
    for job in jobs_of(clients.sagemaker, current.deployment.bucket):
        name = str(job["TrainingJobName"])
        told: list[str] = []
        values: Values = {}
        try:
            values = values_of(job, current, clients, told)
        except Exception as error:  # whatever one job left behind, the others are looked at
            told.append(f"{type(error).__name__}: {error}")
        published.extend(values.items())
        seen[name] = {metric.name: round(value, 4) for metric, value in values.items()}
        if told:
            unread[name] = told
    published.append((names.ACTIVE_JOBS, float(len(seen))))
    publish(published, current, clients.cloudwatch)
    return {"jobs": seen, "unread": unread}


def check_quotas(current: MonitorRound, clients: Clients) -> Json:
    """The quota table of each input; publishes how many quotas are too small for the ``watched`` ones (the enabled schedules)."""
    missing: list[str] = []
    rows: Json = {}
    specs = [resolve(checked.input, default_recipe=current.deployment.default_recipe) for checked in current.deployment.inputs]
    requests = [quota_requests(spec, prepared=False) for spec in specs]
    statuses = iter(status_of_each([request for each in requests for request in each], clients.quotas, clients.sagemaker))
    for checked, asked in zip(current.deployment.inputs, requests, strict=True):
        quotas = [next(statuses) for _ in asked]
        # The daily check compares with the whole quota: instances in use at the moment do not matter for a later run.
        short = [quota for quota in quotas if not quota.possible]
        rows[checked.name] = [quota.row(current.region) for quota in quotas]
        if checked.watched:
            missing.extend(f"{checked.name}: {quota.message(current.region)}" for quota in short)
    publish([(names.MISSING_QUOTAS, float(len(missing)))], current, clients.cloudwatch)
    return {"quotas": rows, "missing": missing}


def jobs_of(sagemaker: Any, bucket: str, status: str = "InProgress") -> Iterator[Json]:
    """Training jobs of a status whose checkpoints go to this deployment's bucket."""
    for page in sagemaker.get_paginator("list_training_jobs").paginate(StatusEquals=status):
        for summary in page["TrainingJobSummaries"]:
            job: Json = sagemaker.describe_training_job(TrainingJobName=summary["TrainingJobName"])
            if job.get("CheckpointConfig", {}).get("S3Uri", "").startswith(uri(bucket, "runs/")):
                yield job


def active_legs(sagemaker: Any, bucket: str) -> set[str]:
    """Key prefixes of the legs, ``runs/<run>/<leg>/``, that a job trains or is about to stop training."""
    found = set()
    for status in ("InProgress", "Stopping"):
        for job in jobs_of(sagemaker, bucket, status):
            _, attempt = split_uri(job["CheckpointConfig"]["S3Uri"])
            found.add("/".join(attempt.split("/")[:3]) + "/")
    return found


def values_of(job: Json, current: MonitorRound, clients: Clients, unread: list[str]) -> Values:
    """The metrics of one job; what is not known yet is absent, and what cannot be read is told in ``unread``."""
    _, attempt = split_uri(job["CheckpointConfig"]["S3Uri"])
    parameters = job.get("HyperParameters") or {}
    run_id = parameters.get("run_id")
    if run_id is None:
        raise ValueError("it has no hyperparameter run_id, so it is no job of this pipeline")
    run = _run_of(run_id, current.deployment.bucket, clients.s3, unread)
    started = job.get("TrainingStartTime")
    values: Values = {}
    if started is None:
        values[names.PENDING] = _seconds(current.now, job["CreationTime"])
        return values
    if is_evaluation(job):  # it logs no steps and saves no checkpoints
        return _money(run_id, run, current, clients.sagemaker)
    row = last_row(clients.s3, current.deployment.bucket, *metrics_keys([attempt]))
    # A resumed leg has rows and checkpoints of earlier attempts: the clock starts with this one.
    values[names.SINCE_STEP] = min(_seconds(current.now, started), current.now.timestamp() - row["time"] if row else float("inf"))
    written, whole = _newest_writes(clients.s3, current.deployment.bucket, attempt)
    values[names.CHECKPOINT_AGE] = _seconds(current.now, max(started, whole or started))
    # Metrics are written every few steps, so a sync that stands still shows itself within minutes, long before a checkpoint is due.
    values[names.SYNC_AGE] = _seconds(current.now, max(started, written or started))
    if row is not None and row["time"] >= started.timestamp():
        leg: Json = next((leg for leg in run.get("legs") or () if leg.get("name") == parameters.get("leg")), {})
        values |= _progress(row, (leg.get("training") or {}).get("expected_tokens_per_second_per_device"))
    return values | _money(run_id, run, current, clients.sagemaker)


def _money(run_id: str, run: Json, current: MonitorRound, sagemaker: Any) -> Values:
    spent = spend(run_id, run, current, sagemaker)
    budget = (run.get("budget") or {}).get("max_usd") or 0
    return {names.SPEND: spent} | ({names.BUDGET_SHARE: 100 * spent / budget} if budget > 0 else {})


def _run_of(run_id: str, bucket: str, s3: Any, unread: list[str]) -> Json:
    """What the monitor reads of run.json, as far as it can be read."""
    key = RunLayout(run_id).run_json
    misfits: list[str] = []
    try:
        run: Json = fitting(read_json(s3, bucket, key), RUN, misfits)
    except Unreadable as error:
        unread.append(str(error))
        return {}
    if not run:
        unread.append(f"s3://{bucket}/{key} is missing")
    unread.extend(f"{key}: {misfit}" for misfit in misfits)
    return run


def _progress(row: dict[str, float], expected: float | None) -> Values:
    pairs = [(names.LOSS, "loss")]
    if not row.get("profiled_steps"):  # a profiler, not the fabric, has made these steps slow
        pairs += [(names.MFU, "mfu"), (names.SPEED, "tokens_per_second_per_device")]
    values: Values = {metric: row[key] for metric, key in pairs if key in row}
    if expected and names.SPEED in values:
        values[names.SPEED_SHARE] = 100 * values[names.SPEED] / expected
    return values


def spend(run_id: str, run: Json, current: MonitorRound, sagemaker: Any) -> float:
    """US dollars of all jobs of all the run's executions, at the prices that Admit used; jobs of no known price count nothing."""
    jobs = run_jobs(sagemaker, current.deployment.bucket, run_id, current.now.timestamp())
    return round(sum(job.usd(functools.partial(admitted_usd_per_hour, run)) or 0.0 for job in jobs), 4)


def last_row(s3: Any, bucket: str, key: str) -> dict[str, float] | None:
    """The last whole line of a metrics file, or None when there is none."""
    try:
        body = s3.get_object(Bucket=bucket, Key=key, Range=f"bytes=-{TAIL_BYTES}")["Body"].read()
    except s3.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "InvalidRange", "404"):
            return None
        raise
    rows = (parse_line(line) for line in reversed(body.decode(errors="replace").splitlines()))
    return next((row for row in rows if row is not None and "time" in row and "loss" in row), None)


def _newest_writes(s3: Any, bucket: str, attempt: str) -> tuple[datetime.datetime | None, datetime.datetime | None]:
    """When the newest object of an attempt was written, and when its newest whole checkpoint had arrived."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=attempt)
    objects = [item for page in pages for item in page.get("Contents", [])]
    written = max((item["LastModified"] for item in objects), default=None)
    folders = reversed(folders_of(objects, attempt))
    whole = next((folder for folder in folders if manifest_of(s3, bucket, folder) is not None), None)
    return written, whole.written if whole is not None else None


def publish(values: list[tuple[PublishedMetric, float]], current: MonitorRound, cloudwatch: Any) -> None:
    """One PutMetricData call for each 500 values (the API takes 1,000)."""
    dimensions = [{"Name": names.DIMENSION, "Value": current.deployment.name}]
    data = [
        {"MetricName": metric.name, "Value": value, "Unit": metric.unit, "Timestamp": current.now, "Dimensions": dimensions}
        for metric, value in values
    ]
    for start in range(0, len(data), 500):
        cloudwatch.put_metric_data(Namespace=names.NAMESPACE, MetricData=data[start : start + 500])


def _seconds(later: datetime.datetime, earlier: datetime.datetime) -> float:
    return max((later - earlier).total_seconds(), 0.0)
