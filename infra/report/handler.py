"""Report: the run's last stage, on success and on failure. Writes report.html and report.json, returns the execution's output.

For an execution that was stopped or timed out Triage invokes it in the background, with ``ended`` in the event: then the jobs may
still be writing their last checkpoints, and are waited for. A stop does not end the function that the state Report has invoked: it would
write "succeeded" over the report of the stop, so it looks at the execution again before it writes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import boto3

from infra.edge import log
from infra.edge.function import Container, lambda_function
from infra.report.document import build_document, summary
from infra.report.mlflow import TrackingServer
from infra.report.model_registry import Registry, register
from infra.report.page import render
from infra.report.read import Json, RunFacts, epoch_seconds, read_run
from infra.report.sinks import Tracker, follow, with_deliveries
from infra.report.wandb import WandbServer
from infra.run.deployment import ReportDeployment
from infra.run.layout import REPORT_HTML, REPORT_JSON, uri
from infra.run.run_jobs import UNDER_WAY, UsdPerHour, run_jobs
from infra.sagemaker.prices import admitted_usd_per_hour

SETTLE_SECONDS = 420.0
"""A stopped training job has 120 s for its last checkpoint, then uploads it; three of the function's ten minutes are for the report."""
LOOK_SECONDS = 5.0
ENDED_BY_OTHERS = ("ABORTED", "TIMED_OUT")
"""Statuses of an execution whose report Triage orders."""


@lambda_function("Report", ReportDeployment)
def handler(event: Json, container: Container[ReportDeployment]) -> Json:
    """Read the run, write its report."""
    s3, where = container.client("s3"), container.deployment
    late = wait_for_jobs(event, container.client("sagemaker"), where.bucket) if event.get("ended") else ()
    facts = read_run(
        event,
        bucket=where.bucket,
        region=container.region,
        dashboard=where.dashboard,
        s3=s3,
        sagemaker=container.client("sagemaker"),
        now=time.time(),
    )
    if not event.get("ended") and _ended_meanwhile(container.client("stepfunctions"), facts.execution_arn):
        log.info("nothing is written: the execution was ended meanwhile, and the report of its end follows", outcome=facts.outcome)
        return {}
    facts = dataclasses.replace(facts, read=time.time(), unread=(*facts.unread, *late))
    prices = functools.partial(admitted_usd_per_hour, facts.run)
    # An execution that does not own its run sends nothing on: the one that does may still be training it.
    registry, trackers = (registry_of(container), trackers_of(container)) if facts.owner else (None, [])
    return write_report(facts, s3=s3, usd_per_hour=prices, registry=registry, trackers=trackers)


def registry_of(container: Container[ReportDeployment]) -> Registry | None:
    """Model Registry, where a setting asks for it."""
    where = container.deployment
    if where.model_registry is None:
        return None
    clients = {name: container.client(name) for name in ("sagemaker", "s3")}
    return Registry(settings=where.model_registry, deployment=where.name, tags=where.tags, **clients)


def trackers_of(container: Container[ReportDeployment]) -> list[Tracker]:
    """The trackers that settings name."""
    where, found = container.deployment, list[Tracker]()
    if where.mlflow_tracking_server_arn is not None:
        found.append(
            TrackingServer(
                arn=where.mlflow_tracking_server_arn,
                region=container.region,
                credentials=boto3.Session().get_credentials(),
                experiment=where.name,
                url=container.endpoint,
            )
        )
    if where.wandb is not None:
        found.append(WandbServer(project=where.wandb, secrets=container.client("secretsmanager")))
    return found


def _ended_meanwhile(states: Any, execution_arn: str | None) -> bool:
    return execution_arn is not None and states.describe_execution(executionArn=execution_arn)["status"] in ENDED_BY_OTHERS


def wait_for_jobs(
    event: Json, sagemaker: Any, bucket: str, *, clock: Callable[[], float] = time.time, pause: Callable[[float], None] = time.sleep
) -> tuple[str, ...]:
    """Wait until no job of an ended execution can write any more; a sentence for each that still can after ``SETTLE_SECONDS``."""
    ended, deadline = epoch_seconds(event["ended"]) or clock(), clock() + SETTLE_SECONDS
    while True:
        jobs = run_jobs(sagemaker, bucket, str(event["run_id"]), clock(), statuses=UNDER_WAY)
        own = [job.name for job in jobs if job.created <= ended]  # not those of an execution that has followed
        if not own or clock() >= deadline:
            return tuple(
                f"Job {name} was still stopping when this was written: what it does and costs after that is missing." for name in own
            )
        pause(LOOK_SECONDS)


def write_report(
    facts: RunFacts, *, s3: Any, usd_per_hour: UsdPerHour, registry: Registry | None = None, trackers: Sequence[Tracker] = ()
) -> Json:
    """Write the report, send the run on, write the report again with what became of that; returns the summary. The first writing is what
    no sink can cost."""
    document = build_document(facts, usd_per_hour)
    _put(document, facts, s3)
    given = [register(registry, document, facts)] if registry is not None else []
    deliveries = [each for each in (*given, *(follow(tracker, facts) for tracker in trackers)) if each is not None]
    if deliveries:
        document = with_deliveries(document, deliveries)
        log.info("the run was sent on", sinks=[each.sentence for each in deliveries])
        _put(document, facts, s3)
    return summary(document)


def _put(document: Json, facts: RunFacts, s3: Any) -> None:
    """Put report.json, then report.html, into the report's folder. Writing again replaces both."""
    body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    s3.put_object(Bucket=facts.bucket, Key=facts.folder + REPORT_JSON, Body=body, ContentType="application/json")
    page = render(document).encode()
    s3.put_object(Bucket=facts.bucket, Key=facts.folder + REPORT_HTML, Body=page, ContentType="text/html; charset=utf-8")
    attempts = sum(len(leg.attempts) for leg in facts.legs)
    log.info(
        "the report is written",
        outcome=facts.outcome,
        legs=len(facts.legs),
        attempts=attempts,
        unread=list(facts.unread),
        report=uri(facts.bucket, facts.folder + REPORT_HTML),
    )
