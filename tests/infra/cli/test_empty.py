"""`pretrain empty`, the first half of `make destroy`: what it may delete, and a second try after half a destroy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infra.cli.empty import buckets_to_empty, empty_bucket, refuse_while_runs_are_active
from infra.cli.exits import CommandError, Exit

TEMPLATE = {
    "Resources": {
        "Data": {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Delete"},
        "Kept": {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain"},
        "Key": {"Type": "AWS::KMS::Key", "DeletionPolicy": "Delete"},
    }
}


class Target:
    """A deployment whose pipeline stack may be gone already."""

    settings = SimpleNamespace(name="pretrain")

    def __init__(self, *, running: list[str], pipeline: bool = True, foundation: bool = True) -> None:
        self.running, self.pipeline, self.foundation = running, pipeline, foundation

    @property
    def state_machine(self) -> str:
        if not self.pipeline:
            raise CommandError('there is no stack "pretrain-pipeline"', Exit.NOT_FOUND)
        return "arn:machine"

    def client(self, service: str) -> Any:
        if service == "stepfunctions":
            return SimpleNamespace(list_executions=lambda **_: {"executions": [{"name": name} for name in self.running]})
        names = ("Data", "Kept", "Key")
        resources = [{"LogicalResourceId": name, "PhysicalResourceId": name.lower()} for name in names]
        return SimpleNamespace(get_template=self.template, describe_stack_resources=lambda StackName: {"StackResources": resources})

    def template(self, StackName: str) -> Any:
        if not self.foundation:
            raise ClientError({"Error": {"Code": "ValidationError", "Message": "does not exist"}}, "GetTemplate")
        return {"TemplateBody": TEMPLATE}


def test_only_buckets_that_go_with_the_stack_are_emptied() -> None:
    assert buckets_to_empty(Target(running=[])) == ["data"]  # type: ignore[arg-type]


def test_an_active_run_is_in_the_way() -> None:
    with pytest.raises(CommandError, match="the run evening is active"):
        refuse_while_runs_are_active(Target(running=["evening"]))  # type: ignore[arg-type]


def test_a_second_try_after_half_a_destroy_goes_on() -> None:
    refuse_while_runs_are_active(Target(running=["evening"], pipeline=False))  # type: ignore[arg-type]
    assert buckets_to_empty(Target(running=[], foundation=False)) == []  # type: ignore[arg-type]


def test_every_version_is_named_in_lists_of_a_thousand_and_a_refusal_is_told() -> None:
    versions = [{"Key": f"k{number}", "VersionId": "1"} for number in range(1500)]
    markers = [{"Key": "gone", "VersionId": "2"}]
    sizes: list[int] = []

    def delete(Bucket: str, Delete: Any) -> Any:
        sizes.append(len(Delete["Objects"]))
        return {"Errors": [{"Key": "gone", "Code": "AccessDenied", "Message": "no"}]} if len(sizes) == 3 else {}

    pages = [{"Versions": versions}, {"DeleteMarkers": markers}]
    s3 = SimpleNamespace(get_paginator=lambda name: SimpleNamespace(paginate=lambda Bucket: pages), delete_objects=delete)
    assert empty_bucket(s3, "b") == 1501 and sizes == [1000, 501]
    with pytest.raises(CommandError, match="S3 kept gone: AccessDenied"):
        empty_bucket(s3, "b")
