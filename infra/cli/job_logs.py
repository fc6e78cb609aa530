"""Logs of a run's jobs: which job is meant, and its lines. They are followed by the sagemaker package's own stream handler."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from infra.cli.exits import CommandError, Exit
from infra.cli.target import Target
from infra.run.run_jobs import UNDER_WAY, JobStage, Kind, RunJob, run_jobs

KINDS: dict[JobStage, Kind] = {"prepare": "Processing", "train": "Training", "evaluate": "Training"}
GROUPS: dict[Kind, str] = {"Processing": "/aws/sagemaker/ProcessingJobs", "Training": "/aws/sagemaker/TrainingJobs"}


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of a log."""

    message: str
    host: str | None = None
    """``algo-1``; None of a log that is no job's."""

    def text(self, shown: str) -> str:
        """The line with its host, its message as ``shown``."""
        return f"{self.host}  {shown}" if self.host else shown


@dataclass(frozen=True, kw_only=True)
class JobChoice:
    """Which job of a run is meant."""

    leg: str | None = None
    """Only training jobs, or evaluations, of this leg."""
    attempt: int | None = None
    """Counts the jobs of the leg (or of the preparation) over all executions, oldest first, from 1; None: the newest."""

    @property
    def made(self) -> bool:
        """Whether a person chose."""
        return self.leg is not None or self.attempt is not None


def jobs_of(target: Target, stage: JobStage, run_id: str) -> list[RunJob]:
    """Jobs of a run's stage, of all its executions, oldest first."""
    jobs = run_jobs(target.client("sagemaker"), target.bucket, run_id, time.time())
    return [job for job in jobs if job.stage == stage]


def job_name(target: Target, execution_arn: str, stage: JobStage, run_id: str) -> str:
    """The newest processing or training job that an execution made for its run.

    Raises:
        CommandError: it has made none.
    """
    execution = target.client("stepfunctions").describe_execution(executionArn=execution_arn)
    began = execution["startDate"].timestamp()
    ended = execution["stopDate"].timestamp() if execution.get("stopDate") else float("inf")
    own = [job for job in jobs_of(target, stage, run_id) if began <= job.created <= ended]
    if not own:
        kind = KINDS[stage].lower()
        raise CommandError(f"this run has started no {kind} job; its stage may have been skipped, or not reached", Exit.NOT_FOUND)
    return own[-1].name


def chosen_job(target: Target, stage: JobStage, run_id: str, choice: JobChoice) -> RunJob:
    """The job that a person chose.

    Raises:
        CommandError: there is none, or the choice fits several legs; the sentence lists what there is.
    """
    jobs = jobs_of(target, stage, run_id)
    legs = list(dict.fromkeys(job.leg for job in jobs if job.leg is not None))
    if choice.leg is not None and choice.leg not in legs:
        raise CommandError(
            f"run {run_id} has no training job of leg {choice.leg}; it has those of: {', '.join(legs) or 'none'}", Exit.NOT_FOUND
        )
    if choice.leg is None and len(legs) > 1:
        raise CommandError(f"run {run_id} has the legs {', '.join(legs)}: choose one with --leg", Exit.USAGE)
    own = [job for job in jobs if choice.leg in (None, job.leg)]
    number = len(own) if choice.attempt is None else choice.attempt
    if not 1 <= number <= len(own):
        there = "; ".join(f"{place} {job.name} ({job.status})" for place, job in enumerate(own, 1)) or "none"
        raise CommandError(f"run {run_id} has no {stage} attempt {number}; it has: {there}", Exit.NOT_FOUND)
    return own[number - 1]


def job_lines(
    target: Target, stage: JobStage, name: str, *, follow: bool, say: Callable[[str], None], pause: Callable[[float], None] = time.sleep
) -> Iterator[LogLine]:
    """Lines of a job's streams, all hosts; with ``follow`` until the job has ended. A log that is gone is told through ``say``."""
    kind = KINDS[stage]
    handler = stream_handler(target, GROUPS[kind], name, _hosts(target, kind, name))
    found = False
    while True:
        ended = _status(target, kind, name) not in UNDER_WAY  # before reading, so that the last lines are read after the end
        if ended or not follow:
            handler.expected_stream_count = 1  # a host that never wrote a line must not hide what the others wrote
        for stream, event in handler.get_latest_log_events():
            found = True
            yield LogLine(message=str(event["message"]).rstrip("\n"), host=host_of(stream) if len(handler.streams) > 1 else None)
        if ended or not follow:
            if not found:
                say(why_empty(target, GROUPS[kind], f"{kind.lower()} job {name}", ended=ended))
            return
        pause(1.0 if target.embedded else 5.0)


def host_of(stream: str) -> str:
    """``algo-1`` of ``<job>/algo-1-1700000000``."""
    return "-".join(stream.rsplit("/", 1)[-1].split("-")[:2])


def why_empty(target: Target, group: str, what: str, *, ended: bool) -> str:
    """Why there is no line of a job, a build or a function in its log group."""
    try:
        groups = target.client("logs").describe_log_groups(logGroupNamePrefix=group).get("logGroups") or []
    except ClientError:
        groups = []
    found = next((one for one in groups if one["logGroupName"] == group), None)
    if found is None:
        return f"{what} has no log: the log group {group} does not exist; it was deleted, or nothing has written to it yet"
    days = found.get("retentionInDays")
    if not ended:
        return f"{what} has written no line yet (log group {group})"
    kept = f"which keeps lines for {days} days" if days else "which keeps lines for ever"
    return f"{what} has no line in the log group {group}, {kept}: it wrote none, or they were deleted"


def stream_handler(target: Target, group: str, prefix: str, hosts: int) -> Any:
    """The sagemaker package's handler with this target's client. Imported here, because the import takes seconds."""
    os.environ.setdefault("SAGEMAKER_ADMIN_CONFIG_OVERRIDE", str(Path(__file__).with_name("sagemaker-config.yaml")))  # telemetry off
    from sagemaker.core.utils.logs import CloudWatchLogsClient, MultiLogStreamHandler

    CloudWatchLogsClient.client = target.client("logs")  # otherwise it creates clients from ambient settings
    return MultiLogStreamHandler(log_group_name=group, log_stream_name_prefix=prefix, expected_stream_count=hosts)


def _hosts(target: Target, kind: Kind, name: str) -> int:
    job = _describe(target, kind, name)
    resources = job.get("ResourceConfig") or (job.get("ProcessingResources") or {}).get("ClusterConfig") or {}
    return int(resources.get("InstanceCount") or 1)


def _status(target: Target, kind: Kind, name: str) -> str:
    return str(_describe(target, kind, name)[f"{kind}JobStatus"])


def _describe(target: Target, kind: Kind, name: str) -> dict[str, Any]:
    call = getattr(target.client("sagemaker"), f"describe_{kind.lower()}_job")
    described: dict[str, Any] = call(**{f"{kind}JobName": name})
    return described
