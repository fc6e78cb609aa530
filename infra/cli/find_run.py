"""Which run and which execution a person means: one answer for every command.

By run id: the execution that owns the run (its lock) while it is active, else one that runs and has not come that far, else the
newest one that the run's own records name. Execution names and ARNs are understood too. Names of executions say nothing about
runs: they are cut, and the console and schedules choose their own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from infra.cli.exits import CommandError, Exit
from infra.cli.target import Target
from infra.run.layout import RunLayout
from infra.run.run_id import run_id_of
from infra.run.run_lock import ACTIVE, owner_of
from infra.run.run_record import read_records

RECENT = 50
"""Executions that are asked when a run has left no record: one that ended before Admit could write it is among the newest."""


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run, and the execution of it that commands act on."""

    run_id: str
    execution_arn: str | None
    """None: Step Functions and the run's records name none any more; reports and models outlive executions."""

    @property
    def execution(self) -> str:
        """The execution's ARN.

        Raises:
            CommandError: there is none.
        """
        if self.execution_arn is None:
            raise CommandError(f"run {self.run_id} has no execution any more; its report: pretrain report {self.run_id}", Exit.NOT_FOUND)
        return self.execution_arn


def find_run(target: Target, run: str | None) -> FoundRun:
    """The run that ``run`` means: a run id, an execution's name, or an execution's ARN; the newest run when it is None.

    Raises:
        CommandError: there is none.
    """
    asked = run
    if run is None:
        newest = executions(target, 1)
        run = run_of_execution(target, str(newest[0]["executionArn"])) if newest else None
    elif run.startswith("arn:"):
        return FoundRun(run_id=run_of_execution(target, run) or run.rsplit(":", 1)[-1], execution_arn=run)
    found = run and (_by_run_id(target, run) or _by_execution_name(target, run) or _among_recent(target, run))
    if not found:
        what = "no run yet" if asked is None else f'no run "{asked}"'
        raise CommandError(
            f"there is {what} in {target.settings.name}; pretrain list shows them, pretrain start starts one", Exit.NOT_FOUND
        )
    return found


def executions(target: Target, limit: int = 1000, status: str | None = None) -> list[dict[str, Any]]:
    """Executions of the state machine, newest first; only those of one status where one is given."""
    pages = target.client("stepfunctions").get_paginator("list_executions")
    only = {"statusFilter": status} if status else {}
    found: list[dict[str, Any]] = []
    for page in pages.paginate(stateMachineArn=target.state_machine, PaginationConfig={"MaxItems": limit}, **only):
        found.extend(page["executions"])
    return sorted(found, key=lambda execution: execution["startDate"], reverse=True)[:limit]


def describe(target: Target, execution_arn: str) -> dict[str, Any] | None:
    """DescribeExecution; None when there is no such execution (Step Functions forgets them after 90 days)."""
    try:
        described: dict[str, Any] = target.client("stepfunctions").describe_execution(executionArn=execution_arn)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("ExecutionDoesNotExist", "InvalidArn", "ValidationException"):
            return None
        raise
    return described


def run_of(description: dict[str, Any]) -> str:
    """The run that a described execution belongs to."""
    try:
        value = json.loads(description.get("input") or "{}")
    except (ValueError, RecursionError):
        value = None
    return run_id_of(value, str(description["executionArn"]).rsplit(":", 1)[-1])


def run_of_execution(target: Target, execution_arn: str) -> str | None:
    """The run that an execution belongs to; None when there is no such execution."""
    described = describe(target, execution_arn)
    return run_of(described) if described is not None else None


def _by_run_id(target: Target, run_id: str) -> FoundRun | None:
    s3, bucket, layout = target.client("s3"), target.bucket, RunLayout(run_id)
    owner = owner_of(s3, bucket, layout)
    described = describe(target, owner) if owner is not None else None
    if described is not None and described["status"] in ACTIVE:
        return FoundRun(run_id=run_id, execution_arn=owner)
    for execution in executions(target, status="RUNNING"):
        arn = str(execution["executionArn"])
        if execution["status"] in ACTIVE and run_of_execution(target, arn) == run_id:
            return FoundRun(run_id=run_id, execution_arn=arn)
    records = read_records(s3, bucket, layout)
    if records:
        return FoundRun(run_id=run_id, execution_arn=records[-1].execution_arn)
    if owner is not None:
        return FoundRun(run_id=run_id, execution_arn=owner)
    return (_among_recent(target, run_id) or FoundRun(run_id=run_id, execution_arn=None)) if _has_left(target, layout) else None


def _has_left(target: Target, layout: RunLayout) -> bool:
    """Whether run.json or a report is there."""
    for key in (layout.run_json, layout.report_json):
        try:
            target.client("s3").get_object(Bucket=target.bucket, Key=key, Range="bytes=0-0")
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("NoSuchKey", "404", "InvalidRange", "416"):
                raise
        else:
            return True
    return False


def _by_execution_name(target: Target, name: str) -> FoundRun | None:
    arn = f"{target.state_machine.replace(':stateMachine:', ':execution:')}:{name}"
    run_id = run_of_execution(target, arn)
    return FoundRun(run_id=run_id, execution_arn=arn) if run_id is not None else None


def _among_recent(target: Target, run_id: str) -> FoundRun | None:
    for execution in executions(target, RECENT):
        arn = str(execution["executionArn"])
        if run_of_execution(target, arn) == run_id:
            return FoundRun(run_id=run_id, execution_arn=arn)
    return None
