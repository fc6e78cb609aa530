"""`pretrain empty`: deletes every object of the buckets that the deployment's stacks would delete, the first half of `make destroy`.

CloudFormation deletes only empty buckets, and a versioned bucket is empty when its old versions and delete markers are gone too.
What the deployed template keeps (setting ``retain_data``) is left alone, whatever cdk.json says by now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from infra.cli.exits import CommandError, Exit
from infra.cli.target import Target

BATCH = 1000  # DeleteObjects' limit


def buckets_to_empty(target: Target) -> list[str]:
    """Buckets of the foundation stack that go with it: those whose deletion policy, as deployed, is Delete."""
    name, client = f"{target.settings.name}-foundation", target.client("cloudformation")
    try:
        body = client.get_template(StackName=name)["TemplateBody"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":
            return []  # there is no such stack, or no more
        raise
    template = json.loads(body) if isinstance(body, str) else body
    doomed = {key for key, it in template["Resources"].items() if it["Type"] == "AWS::S3::Bucket" and it.get("DeletionPolicy") == "Delete"}
    resources = client.describe_stack_resources(StackName=name)["StackResources"]
    return sorted(str(it["PhysicalResourceId"]) for it in resources if it["LogicalResourceId"] in doomed)


def refuse_while_runs_are_active(target: Target) -> None:
    """A run would go on writing.

    Raises:
        CommandError: an execution is running.
    """
    try:
        machine = target.state_machine
    except CommandError:
        return  # an earlier `make destroy` got as far as the state machine, so nothing runs
    running = target.client("stepfunctions").list_executions(stateMachineArn=machine, statusFilter="RUNNING", maxResults=1)
    for execution in running["executions"]:
        raise CommandError(f"the run {execution['name']} is active; stop it first: pretrain stop {execution['name']}", Exit.REFUSED)


def versions(s3: Any, bucket: str) -> Iterator[list[dict[str, str]]]:
    """Every version and delete marker, in lists that one DeleteObjects call takes."""
    waiting: list[dict[str, str]] = []
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for item in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
            waiting.append({"Key": item["Key"], "VersionId": item["VersionId"]})
            if len(waiting) == BATCH:
                yield waiting
                waiting = []
    if waiting:
        yield waiting


def empty_bucket(s3: Any, bucket: str) -> int:
    """Delete every version and delete marker; returns how many.

    Raises:
        CommandError: S3 refused some of them.
    """
    deleted = 0
    for batch in list(versions(s3, bucket)):
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        for error in answer.get("Errors", ()):
            raise CommandError(f"{bucket}: S3 kept {error['Key']}: {error.get('Code')}: {error.get('Message')}", Exit.FAILED)
        deleted += len(batch)
    return deleted


def empty_buckets(target: Target, buckets: list[str]) -> dict[str, int]:
    """Empty each; access logging ends first, since deleting objects would otherwise write new logs into the last bucket."""
    s3 = target.client("s3")
    for bucket in buckets:
        s3.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={})
    return {bucket: empty_bucket(s3, bucket) for bucket in buckets}
