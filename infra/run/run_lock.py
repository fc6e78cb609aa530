"""One active execution per run: a conditional write in S3 decides who owns runs/<run>/.

The lock is never released by the execution itself, which may die at any point: it is stale as soon as the
execution that it names has ended, and the next one takes it over, again by a conditional write.
"""

from __future__ import annotations

import json
from typing import Any

from infra.run.layout import RunLayout

ACTIVE = ("RUNNING", "PENDING_REDRIVE")
"""Statuses of an execution that has not ended."""
_LOST_RACE = ("PreconditionFailed", "ConditionalRequestConflict")


class RunIsActive(Exception):
    """Another execution owns the run and is still running."""

    def __init__(self, run_id: str, owner: str) -> None:
        self.owner = owner
        super().__init__(f'run "{run_id}" is active in execution {owner}; wait for it, stop it, or choose another run_id')


def acquire(s3: Any, states: Any, bucket: str, layout: RunLayout, execution_arn: str) -> None:
    """Make ``execution_arn`` the owner of the run. Calling it again for the same execution changes nothing.

    Raises:
        RunIsActive: another execution owns it and has not ended.
    """
    body = json.dumps({"execution_arn": execution_arn}).encode()
    for _ in range(3):  # a round fails only when another execution changed the lock in between
        try:
            s3.put_object(Bucket=bucket, Key=layout.lock, Body=body, IfNoneMatch="*", ContentType="application/json")
            return
        except s3.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in _LOST_RACE:
                raise
        current = s3.get_object(Bucket=bucket, Key=layout.lock)
        owner = str(json.loads(current["Body"].read())["execution_arn"])
        if owner == execution_arn:
            return
        if _is_running(states, owner):
            raise RunIsActive(layout.run_id, owner)
        try:
            s3.put_object(Bucket=bucket, Key=layout.lock, Body=body, IfMatch=current["ETag"], ContentType="application/json")
            return
        except s3.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in _LOST_RACE:
                raise
    raise RunIsActive(layout.run_id, "that started at the same moment")


def owner_of(s3: Any, bucket: str, layout: RunLayout) -> str | None:
    """ARN of the execution that the run's lock names, ended or not; None when no lock is there or it cannot be read."""
    try:
        content = json.loads(s3.get_object(Bucket=bucket, Key=layout.lock)["Body"].read())
    except s3.exceptions.NoSuchKey:
        return None
    except (ValueError, RecursionError):
        return None
    owner = content.get("execution_arn") if isinstance(content, dict) else None
    return owner if isinstance(owner, str) else None


def _is_running(states: Any, execution_arn: str) -> bool:
    try:
        return str(states.describe_execution(executionArn=execution_arn)["status"]) in ACTIVE
    except states.exceptions.ExecutionDoesNotExist:
        return False  # Step Functions deletes executions 90 days after they end
