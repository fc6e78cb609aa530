"""The real CDK command line: missing quotas fail a deployment; deployed again, changed, destroyed, the stacks do what they do on AWS."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import os
import re
import subprocess
import sys
import time
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from account import Account, Json, Unexpected, expect, expect_words
from rounds import SCHEDULE, ZONE, schedule_settings
from table import Row

from infra.cli.empty import buckets_to_empty, empty_buckets
from infra.cli.local import target_of
from infra.settings import Settings
from local_aws import embedded
from local_aws.embedded import PROJECT, Embedded, EmbeddedError

APP = "python tests/faults/app.py"
DEFAULT_QUOTA = "ml.c7i.large for training job usage"
SCHEDULE_QUOTA = "ml.m7i.large for training job usage"
ROOM = 16  # instances, so that runs side by side do not use up each other's quota


def deploy(aws: Embedded, *, on_line: Callable[[str], None] = lambda line: None, **changes: Any) -> dict[str, dict[str, str]]:
    """`cdk deploy --all` of the settings with ``changes``."""
    _choose(**changes)
    return embedded.deploy(aws, on_line, app=APP, context={})


def _choose(*, schedule_enabled: bool = False, **changes: Any) -> None:
    """Environment ``local`` with the quota check, one schedule, and data that outlives the stacks."""
    schedules = [schedule_settings(_hour(), enabled=schedule_enabled)]
    settings: Json = {"refuse_missing_quotas": True, "retain_data": True, "schedules": schedules}
    os.environ["FAULTS_SETTINGS"] = json.dumps({**settings, **changes})


@functools.cache
def _hour() -> int:
    """The hour in the schedule's zone, the same for every deployment of this process."""
    return datetime.datetime.now(zoneinfo.ZoneInfo(ZONE)).hour


def _cdk(aws: Embedded, *arguments: str) -> str:
    """The CDK's output for another command than deploy, against the settings chosen last."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [
        str(PROJECT / "node_modules/.bin/cdk"),
        *arguments,
        "--app",
        APP,
        "--ci",
        "--no-color",
        "--output",
        str(aws.state_dir / "cdk.out"),
    ]
    done = subprocess.run(
        command, cwd=PROJECT, env={**aws.environment(), "PATH": path}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unexpected(f"cdk {arguments[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-600:]}")
    return done.stdout + done.stderr


def refused(aws: Embedded, *, schedule_enabled: bool) -> tuple[str, float]:
    """Output and seconds of a deployment that must fail."""
    began = time.monotonic()
    try:
        deploy(aws, schedule_enabled=schedule_enabled)
    except EmbeddedError as error:
        return str(error), time.monotonic() - began
    raise Unexpected("cdk deploy succeeded although a quota is missing")


def first_deployment_without_quota(account: Account) -> Iterator[Row]:
    """A first deployment without the quota of the default recipe."""
    aws = account.aws
    aws.set_quota(DEFAULT_QUOTA, 0)
    try:
        said, seconds = refused(aws, schedule_enabled=False)
    finally:
        aws.set_quota(DEFAULT_QUOTA, ROOM)
    wanted = f'the default recipe: 1 x ml.c7i.large needs quota 1 for "{DEFAULT_QUOTA}", this account has 0'
    expect_words(said, wanted)
    expect("state machines that are left", aws.client("stepfunctions").list_state_machines()["stateMachines"], [])
    yield Row(
        injected="first `cdk deploy` with training quota 0 and refuse_missing_quotas",
        happened=f"CREATE failed and was rolled back: {wanted} ...",
        attempts=0,
        lost="nothing is left of the stack",
        seconds=seconds,
    )


def schedule_without_quota(account: Account) -> Iterator[Row]:
    """Enabling a schedule whose type has no quota, when that of the default recipe is gone too."""
    aws = account.aws
    for quota in (SCHEDULE_QUOTA, DEFAULT_QUOTA):  # so that what the rollback goes back to would be refused as well
        aws.set_quota(quota, 0)
    try:
        said, seconds = refused(aws, schedule_enabled=True)
    finally:
        for quota in (SCHEDULE_QUOTA, DEFAULT_QUOTA):
            aws.set_quota(quota, ROOM)
    wanted = f'schedule {SCHEDULE}: 1 x ml.m7i.large needs quota 1 for "{SCHEDULE_QUOTA}", this account has 0'
    expect_words(said, wanted, f'the default recipe: 1 x ml.c7i.large needs quota 1 for "{DEFAULT_QUOTA}", this account has 0')
    (stack,) = account.client("cloudformation").describe_stacks(StackName="pretrain-pipeline")["Stacks"]
    expect("the stack", stack["StackStatus"], "UPDATE_ROLLBACK_COMPLETE")
    expect("the schedule's state", _schedule_state(account), "DISABLED")
    deploy(aws, schedule_enabled=True)
    expect("the schedule's state once there are quotas", _schedule_state(account), "ENABLED")
    yield Row(
        injected="`cdk deploy` that enables a schedule, its type's quota and the default recipe's being 0",
        happened=f"UPDATE failed and was rolled back, the schedule stayed disabled: {wanted} ...; enabled once the quotas were raised",
        attempts=0,
        lost="nothing was changed",
        seconds=seconds,
    )


def _schedule_state(account: Account) -> str:
    scheduler = account.client("scheduler")
    (summary,) = scheduler.list_schedules()["Schedules"]
    return str(scheduler.get_schedule(Name=summary["Name"])["State"])


# -- deploy, change, diff, deploy again, destroy ---------------------------------------------------------

STACKS = ("pretrain-foundation", "pretrain-pipeline", "pretrain-monitoring")
NEW_RETENTION = 30


def deployed_again(account: Account) -> Iterator[Row]:
    """`cdk deploy` without a change."""
    before, began, lines = _updated(account), time.monotonic(), list[str]()
    deploy(account.aws, schedule_enabled=True, on_line=lines.append)
    unchanged = [stack for stack in STACKS if any(f"{stack} (no changes)" in line for line in lines)]
    expect("stacks without changes", unchanged, list(STACKS))
    expect("when the stacks were last updated", _updated(account), before)
    yield Row(
        injected="`cdk deploy` again without a change",
        happened="no changes in any of the three stacks",
        attempts=0,
        lost="nothing was touched",
        seconds=time.monotonic() - began,
    )


def one_setting_changed(account: Account) -> Iterator[Row]:
    """One setting changed: `cdk diff`, then `cdk deploy`."""
    began = time.monotonic()
    _choose(schedule_enabled=True, log_retention_days=NEW_RETENTION)
    shown = _cdk(account.aws, "diff")
    kinds = set(re.findall(r"^\[[~+-]\] (AWS::\w+::\w+|Custom::\w+)", shown, re.M))
    expect("what `cdk diff` would change", kinds, {"AWS::Logs::LogGroup"})
    expect_words(shown, "[-] 90", f"[+] {NEW_RETENTION}")
    deploy(account.aws, schedule_enabled=True, log_retention_days=NEW_RETENTION)
    ours, groups = _logs(account), account.client("logs").describe_log_groups()["logGroups"]
    kept = {group.get("retentionInDays") for group in groups if group["logGroupName"] in ours}
    expect("retention of the deployment's log groups", kept, {NEW_RETENTION})
    expect_words(_cdk(account.aws, "diff"), "Number of stacks with differences: 0")
    yield Row(
        injected=f"log_retention_days changed from 90 to {NEW_RETENTION}: `cdk diff`, `cdk deploy`, `cdk diff`",
        happened="the first diff names log groups and nothing else, the second nothing",
        attempts=0,
        lost="nothing: runs and data are where they were",
        seconds=time.monotonic() - began,
    )


def destroyed(account: Account) -> Iterator[Row]:
    """`cdk destroy` with retain_data."""
    began, kept = time.monotonic(), account.keys("")
    _cdk(account.aws, "destroy", "--all", "--force")
    left = [stack["StackName"] for stack in account.client("cloudformation").describe_stacks()["Stacks"]]
    expect("stacks that are left", [name for name in left if name in STACKS], [])
    gone = {
        "functions": account.client("lambda").list_functions()["Functions"],
        "state machines": account.client("stepfunctions").list_state_machines()["stateMachines"],
        "schedules": account.client("scheduler").list_schedules()["Schedules"],
        "rules": account.client("events").list_rules()["Rules"],
        "alarms": account.client("cloudwatch").describe_alarms()["MetricAlarms"],
        "build projects": account.client("codebuild").list_projects()["projects"],
    }
    expect("what is left of the stacks", {name: found for name, found in gone.items() if found}, {})
    expect("objects in the data bucket", account.keys(""), kept)
    images = [
        name for item in account.client("ecr").describe_repositories()["repositories"] if "pretrain" in (name := item["repositoryName"])
    ]
    yield Row(
        injected="`cdk destroy --all` with retain_data",
        happened="no stack, function, state machine, schedule, rule, alarm or build project is left",
        attempts=0,
        lost=f"nothing: the data bucket's {len(kept)} objects are unchanged, {len(images)} image repositories are there",
        seconds=time.monotonic() - began,
    )


def destroyed_without_retention(account: Account) -> Iterator[Row]:
    """`make destroy` with retain_data false: versioned, filled buckets, access logs too."""
    began, s3 = time.monotonic(), account.client("s3")
    deploy(account.aws, retain_data=False, refuse_missing_quotas=False, name="brief")
    target = dataclasses.replace(target_of(account.aws), settings=Settings(name="brief"))
    buckets = buckets_to_empty(target)
    expect("buckets that go with the stacks", len(buckets), 2)
    for bucket in buckets:
        for body in (b"old", b"new"):
            s3.put_object(Bucket=bucket, Key="runs/r/run.json", Body=body)
        s3.delete_object(Bucket=bucket, Key="runs/r/run.json")
    counts = empty_buckets(target, buckets)
    expect("versions and markers deleted", set(counts.values()), {3})
    _cdk(account.aws, "destroy", "--all", "--force")
    there = {item["Name"] for item in s3.list_buckets()["Buckets"]}
    expect("buckets that are left", there & set(buckets), set())
    yield Row(
        injected="`make destroy` with retain_data false: versions and delete markers in the data bucket and in the access logs",
        happened="every version and marker was deleted, then the stacks and both buckets",
        attempts=0,
        lost="everything, as asked",
        seconds=time.monotonic() - began,
    )


def _logs(account: Account) -> set[str]:
    """Log groups that the stacks made; services make others."""
    cloudformation = account.client("cloudformation")
    resources = [item for stack in STACKS for item in cloudformation.describe_stack_resources(StackName=stack)["StackResources"]]
    return {item["PhysicalResourceId"] for item in resources if item["ResourceType"] == "AWS::Logs::LogGroup"}


def _updated(account: Account) -> dict[str, object]:
    stacks = account.client("cloudformation").describe_stacks()["Stacks"]
    return {stack["StackName"]: stack.get("LastUpdatedTime", stack["CreationTime"]) for stack in stacks}


LIFE = (deployed_again, one_setting_changed, destroyed, destroyed_without_retention)
