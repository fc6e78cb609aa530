"""The same commands against the real stacks on the embedded AWS: a run that Admit refuses, seen from the command line."""

from __future__ import annotations

import json
import os
from unittest import mock

import pytest

from infra.cli import storage_commands, where
from infra.cli.empty import buckets_to_empty, empty_buckets
from infra.cli.local import target_of

pytestmark = pytest.mark.embedded


@pytest.fixture
def local(embedded_aws, monkeypatch):
    """The command line's target, with credentials of a real account lying about in the environment."""
    ambient = {
        "AWS_PROFILE": "production",
        "AWS_ACCESS_KEY_ID": "AKIAREAL",
        "AWS_SECRET_ACCESS_KEY": "real",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    with mock.patch.dict(os.environ, ambient):
        target = target_of(embedded_aws.aws)
        monkeypatch.setattr(where, "choose_target", lambda **options: target)
        yield target


def test_ambient_credentials_and_proxy_are_left_alone(local):
    assert "AWS_PROFILE" not in os.environ and os.environ["AWS_ACCESS_KEY_ID"] != "AKIAREAL"
    assert local.client("sts").get_caller_identity()["Account"] == "000000000000"


def test_refused_run_from_start_to_log(local, pretrain):
    refused = pretrain("start", "--run", "no-text", "--set", "data.source=source/nothing-here/", "--watch", "--plain")
    assert refused.code == 1
    assert "Admit refused" in refused.out and "The run was refused." in refused.out and "nothing-here" in refused.out
    listed = json.loads(pretrain("list", "--json").out)
    row = next(run for run in listed if run["run"] == "no-text")
    assert row["status"] == "refused" and "nothing-here" in row["reason"] and row["started_by"]
    assert [run["run"] for run in json.loads(pretrain("list", "--json", "--mine", "--status", "refused").out)].count("no-text") == 1
    assert pretrain("watch", "no-text").code == 1
    stopped = pretrain("stop", "no-text", "--yes")
    assert stopped.code == 4 and "is not running" in stopped.out
    assert pretrain("logs", "no-text", "--stage", "admit").code == 0
    job = pretrain("logs", "no-text", "--stage", "train")
    assert job.code == 4 and "has started no training job" in job.out


def test_versioned_buckets_are_emptied_to_the_last_marker(local):
    s3 = local.client("s3")
    s3.create_bucket(Bucket="to-be-emptied")
    s3.put_bucket_versioning(Bucket="to-be-emptied", VersioningConfiguration={"Status": "Enabled"})
    for number in range(3):
        s3.put_object(Bucket="to-be-emptied", Key="runs/r/run.json", Body=str(number).encode())
    s3.delete_object(Bucket="to-be-emptied", Key="runs/r/run.json")
    assert empty_buckets(local, ["to-be-emptied"]) == {"to-be-emptied": 4}
    s3.delete_bucket(Bucket="to-be-emptied")


def test_buckets_of_the_deployed_template_are_found_by_their_deletion_policy(local, pretrain, embedded_aws, monkeypatch):
    assert embedded_aws.bucket in buckets_to_empty(local) and len(buckets_to_empty(local)) == 2
    emptied = []
    monkeypatch.setattr(storage_commands, "empty_buckets", lambda target, buckets: emptied.append(buckets) or {})
    refused = pretrain("empty")  # nobody answers the question
    assert refused.code != 0 and emptied == []
    template = local.client("cloudformation").get_template(StackName="pretrain-foundation")["TemplateBody"]
    kept = json.loads(json.dumps(template).replace('"DeletionPolicy": "Delete"', '"DeletionPolicy": "Retain"'))
    monkeypatch.setattr(local.client("cloudformation"), "get_template", lambda StackName: {"TemplateBody": kept})
    assert "Nothing to empty" in pretrain("empty").out and emptied == []


def test_doctor_is_green_where_everything_is_there_and_red_without_text(local, pretrain, embedded_aws):
    key = "source/doctor/text.txt"
    embedded_aws.client("s3").put_object(Bucket=embedded_aws.bucket, Key=key, Body=b"Some text to look at.\n")
    green = pretrain("doctor", "--set", "data.source=source/doctor/", "--json")
    assert green.code == 0, green.out
    names = [check["name"] for check in json.loads(green.out)["checks"]]
    assert names[:5] == ["Account", "Stacks", "Image", "Data", "Hub token"] and names[-1] == "Budget"
    red = pretrain("doctor", "--set", "data.source=source/empty/", columns=140)
    assert red.code == 1 and "upload text under s3://" in red.out


def test_quota_of_zero_is_red_with_the_request_to_make(local, pretrain, embedded_aws):
    embedded_aws.aws.set_quota("ml.c7i.2xlarge for training job usage", 0)
    red = pretrain("plan", "--set", "compute.instance_type=ml.c7i.2xlarge", "--set", "data.source=source/doctor/", columns=140)
    assert "would be refused" in red.out and "ml.c7i.2xlarge for training job usage" in red.out
