"""`pretrain logs`: the log of any stage. Job logs are followed by the sagemaker package's own stream handler."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from botocore.exceptions import ClientError

from infra.cli.exits import CommandError, Exit
from infra.cli.find_run import run_of
from infra.cli.progress import ENDED
from infra.cli.target import Target

T = TypeVar("T")
LATE_SECONDS = 5.0
"""A function's last lines may be written after the execution has ended; the next run's must not be shown."""
Stage = Literal["admit", "build", "prepare", "train", "report"]
JOB_GROUPS = {"prepare": ("Processing", "/aws/sagemaker/ProcessingJobs"), "train": ("Training", "/aws/sagemaker/TrainingJobs")}


def job_name(target: Target, execution_arn: str, stage: Stage, run_id: str) -> str:
    """The newest processing or training job that an execution made for its run.

    Raises:
        CommandError: it has made none.
    """
    kind, _ = JOB_GROUPS[stage]
    execution = target.client("stepfunctions").describe_execution(executionArn=execution_arn)
    pages = target.client("sagemaker").get_paginator(f"list_{kind.lower()}_jobs")
    arguments = {"CreationTimeAfter": execution["startDate"], "SortBy": "CreationTime", "SortOrder": "Descending"}
    if execution.get("stopDate"):
        arguments["CreationTimeBefore"] = execution["stopDate"]
    for page in pages.paginate(**arguments):
        for job in page[f"{kind}JobSummaries"]:
            name = str(job[f"{kind}JobName"])
            # Every job of a run reads its run.json: that prefix is in the request, whatever the job is called.
            if f"/runs/{run_id}/" in json.dumps(_describe(target, kind, name), default=str):
                return name
    raise CommandError(f"this run has started no {kind.lower()} job; its stage may have been skipped, or not reached", Exit.NOT_FOUND)


def job_lines(target: Target, stage: Stage, name: str, *, follow: bool, pause: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Lines of a job's streams, all hosts; with ``follow`` until the job has ended."""
    kind, group = JOB_GROUPS[stage]
    handler = _stream_handler(target, group, name, _hosts(target, kind, name))
    while True:
        ended = _job_ended(target, kind, name)  # before reading, so that the last lines are read after the end
        for stream, event in handler.get_latest_log_events():
            host = stream.rsplit("/", 1)[-1].split("-")[0:2]
            prefix = f"{'-'.join(host)}  " if len(handler.streams) > 1 else ""
            yield prefix + str(event["message"]).rstrip("\n")
        if ended or not follow:
            return
        pause(_pause(target))


def _stream_handler(target: Target, group: str, prefix: str, hosts: int) -> Any:
    """The sagemaker package's handler with this target's client. Imported here, because the import takes seconds."""
    os.environ.setdefault("SAGEMAKER_ADMIN_CONFIG_OVERRIDE", str(Path(__file__).with_name("sagemaker-config.yaml")))  # telemetry off
    from sagemaker.core.utils.logs import CloudWatchLogsClient, MultiLogStreamHandler

    CloudWatchLogsClient.client = target.client("logs")  # otherwise it creates clients from ambient settings
    return MultiLogStreamHandler(log_group_name=group, log_stream_name_prefix=prefix, expected_stream_count=hosts)


def _hosts(target: Target, kind: str, name: str) -> int:
    job = _describe(target, kind, name)
    resources = job.get("ResourceConfig") or (job.get("ProcessingResources") or {}).get("ClusterConfig") or {}
    return int(resources.get("InstanceCount") or 1)


def _job_ended(target: Target, kind: str, name: str) -> bool:
    return str(_describe(target, kind, name)[f"{kind}JobStatus"]) in ("Completed", "Failed", "Stopped")


def _describe(target: Target, kind: str, name: str) -> dict[str, Any]:
    call = getattr(target.client("sagemaker"), f"describe_{kind.lower()}_job")
    described: dict[str, Any] = call(**{f"{kind}JobName": name})
    return described


def group_lines(
    target: Target,
    group: str,
    streams: list[str],
    span: tuple[float, float | None],
    ended: Callable[[], bool],
    *,
    follow: bool,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Lines of a log group within ``span`` (epoch seconds; None: no end yet), in order; all streams when none is named."""
    seen: set[str] = set()
    since, until = span
    when = {"startTime": int(since * 1000)} | ({"endTime": int(until * 1000)} if until is not None else {})
    while True:
        last = ended()
        arguments: dict[str, Any] = {"logGroupName": group, **when} | ({"logStreamNames": streams} if streams else {})
        try:
            for page in target.client("logs").get_paginator("filter_log_events").paginate(**arguments):
                for event in page["events"]:
                    key = str(
                        event.get("eventId") or (event["logStreamName"], event["timestamp"], event["message"])
                    )  # ministack gives no id
                    if key not in seen:
                        seen.add(key)
                        yield str(event["message"]).rstrip("\n")
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
        if last or not follow:
            return
        pause(_pause(target))


def stage_log(target: Target, execution_arn: str, stage: Stage, *, follow: bool, say: Callable[[str], None]) -> Iterator[str]:
    """Lines of one stage of a run; with ``follow`` a stage that is not reached yet is waited for, announced through ``say``."""
    steps = target.client("stepfunctions")
    execution = steps.describe_execution(executionArn=execution_arn)

    def ended() -> bool:
        return str(steps.describe_execution(executionArn=execution_arn)["status"]) in ENDED

    def job() -> str:
        return job_name(target, execution_arn, stage, run_of(execution))

    def reached(look: Callable[[], T]) -> T:
        return _reached(look, lambda: not follow or ended(), lambda: say(f"waiting for the {stage} stage ..."), _pause(target))

    if stage in JOB_GROUPS:
        yield from job_lines(target, stage, reached(job), follow=follow)
        return
    stopped = execution.get("stopDate")
    span = execution["startDate"].timestamp(), stopped.timestamp() + LATE_SECONDS if stopped else None
    group, streams = reached(lambda: _build_log(target, *span)) if stage == "build" else (_function_group(target, stage), [])
    yield from group_lines(target, group, streams, span, ended, follow=follow)


def _reached(look: Callable[[], T], last: Callable[[], bool], waiting: Callable[[], None], seconds: float) -> T:
    """Result of ``look``, repeated until ``last`` says that no more can come; ``waiting`` is called once."""
    told = False
    while True:
        final = last()  # before looking, so that what was started at the very end is found
        try:
            return look()
        except CommandError:
            if final:
                raise
        if not told:
            waiting()
            told = True
        time.sleep(seconds)


def _pause(target: Target) -> float:
    return 1.0 if target.embedded else 5.0


def _build_log(target: Target, since: float, until: float | None) -> tuple[str, list[str]]:
    client = target.client("codebuild")
    project = target.output("BuildProjectName")
    ids = client.list_builds_for_project(projectName=project, sortOrder="DESCENDING").get("ids") or []
    builds = client.batch_get_builds(ids=ids[:100])["builds"] if ids else []  # as many as one call describes
    own = [build for build in builds if since <= build["startTime"].timestamp() <= (until or time.time())]
    if not own:
        raise CommandError("this run has built no image; it was there already, or the stage is not reached", Exit.NOT_FOUND)
    logs = max(own, key=lambda build: build["startTime"]).get("logs") or {}
    return str(logs.get("groupName") or f"/aws/codebuild/{project}"), [str(logs["streamName"])] if logs.get("streamName") else []


def _function_group(target: Target, stage: str) -> str:
    """The log group of a stage's Lambda function, found through the stack, since physical names are CDK's."""
    stack = f"{target.settings.name}-pipeline"
    for page in target.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack):
        for resource in page["StackResourceSummaries"]:
            logical = str(resource["LogicalResourceId"]).lower()
            if resource["ResourceType"] == "AWS::Lambda::Function" and logical.startswith((stage, f"functions{stage}")):
                name = str(resource["PhysicalResourceId"])
                configuration = target.client("lambda").get_function_configuration(FunctionName=name)
                return str((configuration.get("LoggingConfig") or {}).get("LogGroup") or f"/aws/lambda/{name}")
    raise CommandError(f"stack {stack} has no {stage} function", Exit.NOT_FOUND)


def shown(line: str, raw: bool) -> str:
    """A line for people: metrics and progress lines, which are JSON, as ``name=value`` pairs."""
    if raw or not line.startswith("{"):
        return line
    try:
        value = json.loads(line)
    except ValueError:
        return line
    if not isinstance(value, dict):
        return line
    parts = [
        f"{key}={item:.6g}" if isinstance(item, float) else f"{key}={item}"
        for key, item in value.items()
        if item is not None and key != "time"
    ]
    return " ".join(parts)
