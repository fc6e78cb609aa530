"""Monitor: active jobs every five minutes, quotas and old checkpoints once a day.

Event: EventBridge's own, or {"check": "daily"}.
"""

from __future__ import annotations

import datetime

from contracts.config import Json
from infra.edge import log
from infra.edge.function import Container, lambda_function
from infra.monitor.active_jobs import Clients, MonitorRound, active_legs, check_quotas, look_at_active_jobs
from infra.monitor.job_logs import limit_job_logs
from infra.monitor.prune_checkpoints import prune_checkpoints
from infra.run.deployment import MonitorDeployment


class NotPruned(Exception):
    """S3 refused to delete checkpoints that are no longer kept; the alarm on the monitor's failures tells somebody."""


class NotLookedAt(Exception):
    """What an active job left could not be read, after all the others were looked at; the same alarm tells somebody."""


@lambda_function("Monitor", MonitorDeployment)
def handler(event: Json, container: Container[MonitorDeployment]) -> Json:
    """One round, or the daily check; what it found is its answer and its log line."""
    deployment = container.deployment
    current = MonitorRound(deployment=deployment, region=container.region, now=datetime.datetime.now(datetime.UTC))
    clients = Clients(
        s3=container.client("s3"),
        sagemaker=container.client("sagemaker"),
        cloudwatch=container.client("cloudwatch"),
        quotas=container.client("service-quotas"),
    )
    if event.get("check") != "daily":
        found = look_at_active_jobs(current, clients)
        log.info("looked at the active jobs", **found)
        if found["unread"]:
            raise NotLookedAt("; ".join(f"{job}: {'; '.join(told)}" for job, told in found["unread"].items())[:1000])
        return found
    found = check_quotas(current, clients)
    active = active_legs(clients.sagemaker, deployment.bucket)
    pruned = prune_checkpoints(clients.s3, deployment.bucket, deployment.checkpoint_days, current.now, active)
    found |= {"pruned": pruned.deleted, "not_pruned": pruned.errors}
    if deployment.job_log_days is not None:
        found["limited_logs"] = limit_job_logs(container.client("logs"), deployment.job_log_days)
    log.info("looked at quotas and old checkpoints", **found)
    if pruned.errors:
        raise NotPruned("; ".join(pruned.errors)[:1000])
    return found
