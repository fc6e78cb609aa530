"""One active execution per run: a conditional write in S3 decides who owns runs/<run>/.

The lock is never released by the execution itself, which may die at any point. The next execution takes it over, again by a
conditional write, once the one that it names has ended and none of the run's jobs can write any more: a stopped training job
has two minutes for its last checkpoint. An execution that was stopped can be redriven, without Admit, so before each job the owner
confirms its lock by a third conditional write: whoever looked at the lock before and takes it over now is late, and looks again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from infra.run.layout import RunLayout, uri

ACTIVE = ("RUNNING", "PENDING_REDRIVE")
"""Statuses of an execution that has not ended."""
_LOST_RACE = ("PreconditionFailed", "ConditionalRequestConflict")

Busy = Callable[[], str | None]
"""Name of a job of the run that can still write, or None."""


class RunIsActive(Exception):
    """Another execution owns the run and is still running."""

    def __init__(self, run_id: str, owner: str) -> None:
        self.owner = owner
        super().__init__(f'run "{run_id}" is active in execution {owner}; wait for it, stop it, or choose another run_id')


class RunIsStopping(Exception):
    """The execution that owned the run has ended, and a job of it has not."""

    def __init__(self, run_id: str, job: str) -> None:
        super().__init__(
            f'run "{run_id}": job {job} of an execution that has ended is still stopping (it has two minutes for its last checkpoint); '
            f"start again when it has ended, or end it: aws sagemaker stop-training-job --training-job-name {job}"
        )


class RunTakenOver(Exception):
    """The lock names another execution."""

    def __init__(self, run_id: str, owner: str) -> None:
        super().__init__(
            f"run {run_id} is execution {owner}'s now, so this one makes no further job; watch that one, or start the run again"
        )


class DamagedLock(Exception):
    """lock.json names no execution."""

    def __init__(self, bucket: str, layout: RunLayout) -> None:
        super().__init__(
            f"{uri(bucket, layout.lock)} cannot be read, so who owns the run is not known; when no execution of it is active "
            f"(pretrain list), delete that object: aws s3 rm {uri(bucket, layout.lock)}"
        )


def acquire(s3: Any, states: Any, bucket: str, layout: RunLayout, execution_arn: str, *, busy: Busy = lambda: None) -> None:
    """Make ``execution_arn`` the owner of the run. Calling it again for the same execution changes nothing.

    Args:
        s3: a boto3 S3 client.
        states: a boto3 Step Functions client.
        bucket: the data bucket.
        layout: the run's keys.
        execution_arn: who asks.
        busy: asked before the lock of an execution that has ended is taken over.

    Raises:
        RunIsActive: another execution owns it and has not ended.
        RunIsStopping: the other execution has ended, and a job of it has not.
        DamagedLock: lock.json names no execution.
    """
    body = json.dumps({"execution_arn": execution_arn}).encode()
    for _ in range(3):  # a round fails only when another execution changed the lock in between
        try:
            s3.put_object(Bucket=bucket, Key=layout.lock, Body=body, IfNoneMatch="*", ContentType="application/json")
            return
        except s3.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in _LOST_RACE:
                raise
        try:
            current = s3.get_object(Bucket=bucket, Key=layout.lock)
        except s3.exceptions.NoSuchKey:  # deleted by a person in between
            continue
        owner = _owner(current["Body"].read())
        if owner is None:
            raise DamagedLock(bucket, layout)
        if owner == execution_arn:
            return
        if _is_running(states, owner):
            raise RunIsActive(layout.run_id, owner)
        job = busy()
        if job is not None:
            raise RunIsStopping(layout.run_id, job)
        try:
            s3.put_object(Bucket=bucket, Key=layout.lock, Body=body, IfMatch=current["ETag"], ContentType="application/json")
            return
        except s3.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in _LOST_RACE:
                raise
    raise RunIsActive(layout.run_id, "that started at the same moment")


def confirm(s3: Any, bucket: str, layout: RunLayout, execution_arn: str) -> None:
    """Make sure that ``execution_arn`` owns the run as long as it runs. Asked right before a job is created.

    The lock is written again, with a higher number in it: an `acquire` that has already looked up the owner's status fails its own
    conditional write, and finds the owner running. A lock that somebody deleted is made again.

    Raises:
        RunTakenOver: another execution owns it, whether that has ended or not; this one's plan is older than what it left.
        DamagedLock: lock.json names no execution.
    """
    for _ in range(3):  # a round fails only when somebody changed the lock in between
        condition, number = {"IfNoneMatch": "*"}, 0
        try:
            current = s3.get_object(Bucket=bucket, Key=layout.lock)
        except s3.exceptions.NoSuchKey:
            pass
        else:
            body = current["Body"].read()
            owner = _owner(body)
            if owner is None:
                raise DamagedLock(bucket, layout)
            if owner != execution_arn:
                raise RunTakenOver(layout.run_id, owner)
            condition, number = {"IfMatch": current["ETag"]}, json.loads(body).get("confirmed", 0)
        body = json.dumps({"execution_arn": execution_arn, "confirmed": number + 1}).encode()
        try:
            s3.put_object(Bucket=bucket, Key=layout.lock, Body=body, ContentType="application/json", **condition)
            return
        except s3.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in _LOST_RACE:
                raise
    raise RunTakenOver(layout.run_id, "that started at the same moment")


def owner_of(s3: Any, bucket: str, layout: RunLayout) -> str | None:
    """ARN of the execution that the run's lock names, ended or not; None when no lock is there or it cannot be read."""
    try:
        return _owner(s3.get_object(Bucket=bucket, Key=layout.lock)["Body"].read())
    except s3.exceptions.NoSuchKey:
        return None


def _owner(body: bytes) -> str | None:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("confirmed", 0), int):
        return None
    owner = content.get("execution_arn")
    return owner if isinstance(owner, str) and re.fullmatch(r"arn:[\w-]+:states:[\w-]*:\d*:execution:[^:\s]+:[^:\s]+", owner) else None


def _is_running(states: Any, execution_arn: str) -> bool:
    try:
        return str(states.describe_execution(executionArn=execution_arn)["status"]) in ACTIVE
    except states.exceptions.ExecutionDoesNotExist:
        return False  # Step Functions deletes executions 90 days after they end
