"""`pretrain logs`: the log of any stage of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from botocore.exceptions import ClientError

from infra.cli.exits import CommandError, Exit
from infra.cli.find_run import FoundRun
from infra.cli.job_logs import JobChoice, LogLine, chosen_job, job_lines, job_name, why_empty
from infra.cli.progress import ENDED
from infra.cli.target import Target

T = TypeVar("T")
LATE_SECONDS = 5.0
"""A function's last lines may be written after the execution has ended; the next run's must not be shown."""
REPORT_SECONDS = 660.0
"""Of an execution that was stopped or timed out Report is invoked after the end, and has ten minutes (infra/report/handler.py)."""
Stage = Literal["admit", "build", "prepare", "train", "evaluate", "triage", "report"]


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


def stage_log(
    target: Target, found: FoundRun, stage: Stage, *, follow: bool, say: Callable[[str], None], choice: JobChoice | None = None
) -> Iterator[LogLine]:
    """Lines of one stage of a run; with ``follow`` a stage that is not reached yet is waited for, announced through ``say``.

    ``choice`` names a job of the stages prepare, train and evaluate; without one it is the newest job of the run's execution.
    """
    if choice is not None and choice.made:
        if stage not in ("prepare", "train", "evaluate") or (stage == "prepare" and choice.leg is not None):
            raise CommandError("--leg belongs to the stages train and evaluate, --attempt to these and prepare", Exit.USAGE)
        yield from job_lines(target, stage, chosen_job(target, stage, found.run_id, choice).name, follow=follow, say=say)
        return
    arn = found.execution
    steps = target.client("stepfunctions")
    execution = steps.describe_execution(executionArn=arn)

    def ended() -> bool:
        return str(steps.describe_execution(executionArn=arn)["status"]) in ENDED

    def reached(look: Callable[[], T]) -> T:
        return _reached(look, lambda: not follow or ended(), lambda: say(f"waiting for the {stage} stage ..."), _pause(target))

    if stage in ("prepare", "train", "evaluate"):
        yield from job_lines(target, stage, reached(lambda: job_name(target, arn, stage, found.run_id)), follow=follow, say=say)
        return
    span = execution_span(execution) if stage == "build" else functions_span(execution)
    group, streams = reached(lambda: build_log(target, *span)) if stage == "build" else (function_group(target, stage), [])
    lines = group_lines(target, group, streams, span, ended, follow=follow)
    count = 0
    for line in lines if stage == "build" else of_execution(lines, arn):
        count += 1
        yield LogLine(message=line)
    if not count:
        say(why_empty(target, group, f"the {stage} stage", ended=ended()))


def execution_span(execution: dict[str, Any], late: float = LATE_SECONDS) -> tuple[float, float | None]:
    """When an execution's build wrote, in epoch seconds; None: it still runs."""
    stopped = execution.get("stopDate")
    return execution["startDate"].timestamp(), stopped.timestamp() + late if stopped else None


def functions_span(execution: dict[str, Any]) -> tuple[float, float | None]:
    """When an execution's functions wrote, likewise."""
    return execution_span(execution, REPORT_SECONDS if execution.get("status") in ("ABORTED", "TIMED_OUT") else LATE_SECONDS)


def of_execution(lines: Iterator[str], execution_arn: str) -> Iterator[str]:
    """Lines of a function without those that name another execution: one function serves all runs."""
    for line in lines:
        if _field(line, "execution") in (None, execution_arn):
            yield line


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


def build_log(target: Target, since: float, until: float | None) -> tuple[str, list[str]]:
    """Log group and streams of the newest build within a span of epoch seconds.

    Raises:
        CommandError: there is none.
    """
    client = target.client("codebuild")
    project = target.output("BuildProjectName")
    ids = client.list_builds_for_project(projectName=project, sortOrder="DESCENDING").get("ids") or []
    builds = client.batch_get_builds(ids=ids[:100])["builds"] if ids else []  # as many as one call describes
    own = [build for build in builds if since <= build["startTime"].timestamp() <= (until or time.time())]
    if not own:
        raise CommandError("this run has built no image; it was there already, or the stage is not reached", Exit.NOT_FOUND)
    logs = max(own, key=lambda build: build["startTime"]).get("logs") or {}
    return str(logs.get("groupName") or f"/aws/codebuild/{project}"), [str(logs["streamName"])] if logs.get("streamName") else []


def function_group(target: Target, stage: str) -> str:
    """The log group of a stage's Lambda function, found through the stack, since physical names are CDK's.

    Raises:
        CommandError: the stack has no such function.
    """
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
    value = None if raw else _object(line)
    if value is None:
        return line
    parts = [
        f"{key}={item:.6g}" if isinstance(item, float) else f"{key}={item}"
        for key, item in value.items()
        if item is not None and key != "time"
    ]
    return " ".join(parts)


def _field(line: str, name: str) -> Any:
    return (_object(line) or {}).get(name)


def _object(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
