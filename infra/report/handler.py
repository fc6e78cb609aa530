"""Report: the run's last stage, on success and on failure. Writes report.html and report.json, returns the execution's output."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from typing import Any

import boto3

from infra.edge import log
from infra.edge.function import Container, lambda_function
from infra.report.document import build_document, summary
from infra.report.mlflow import TrackingServer, send
from infra.report.page import render
from infra.report.read import Json, RunFacts, read_run
from infra.run.deployment import ReportDeployment
from infra.run.layout import REPORT_HTML, REPORT_JSON, uri
from infra.run.run_jobs import UsdPerHour
from infra.sagemaker.prices import admitted_usd_per_hour


@lambda_function("Report", ReportDeployment)
def handler(event: Json, container: Container[ReportDeployment]) -> Json:
    """Read the run, write its report."""
    s3, where = container.client("s3"), container.deployment
    facts = read_run(
        event,
        bucket=where.bucket,
        region=container.region,
        dashboard=where.dashboard,
        s3=s3,
        sagemaker=container.client("sagemaker"),
        now=time.time(),
    )
    facts = dataclasses.replace(facts, read=time.time())
    written = write_report(facts, s3=s3, usd_per_hour=functools.partial(admitted_usd_per_hour, facts.run))
    if where.mlflow_tracking_server_arn is None:
        return written
    server = TrackingServer(arn=where.mlflow_tracking_server_arn, region=container.region, credentials=boto3.Session().get_credentials())
    told = send(facts, server, where.name)
    log.info(told)
    return {**written, "tracker": told}


def write_report(facts: RunFacts, *, s3: Any, usd_per_hour: UsdPerHour) -> Json:
    """Put report.json, then report.html, into the report's folder; returns the summary. Writing again replaces both."""
    document = build_document(facts, usd_per_hour)
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
    return summary(document)
