"""Deployments with `refuse_missing_quotas`: a missing quota fails `cdk deploy`, on create and on update, with its sentence."""

from __future__ import annotations

import datetime
import json
import os
import time
import zoneinfo
from collections.abc import Iterator

from account import Account, Json, Unexpected, expect, expect_words
from rounds import SCHEDULE, ZONE, schedule_settings
from table import Row

from infra.local import embedded
from infra.local.embedded import Embedded, EmbeddedError

APP = "python tests/faults/app.py"
DEFAULT_QUOTA = "ml.c7i.large for training job usage"
SCHEDULE_QUOTA = "ml.m7i.large for training job usage"


def deploy(aws: Embedded, *, schedule_enabled: bool) -> dict[str, dict[str, str]]:
    """`cdk deploy --all` of environment ``local`` with the quota gate and one schedule."""
    hour = datetime.datetime.now(zoneinfo.ZoneInfo(ZONE)).hour
    changes: Json = {"refuse_missing_quotas": True, "schedules": [schedule_settings(hour, enabled=schedule_enabled)]}
    os.environ["FAULTS_SETTINGS"] = json.dumps(changes)
    return embedded.deploy(aws, lambda line: None, app=APP, context={})


def refused(aws: Embedded, *, schedule_enabled: bool) -> tuple[str, float]:
    """What a deployment that must fail says, and its seconds."""
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
        aws.set_quota(DEFAULT_QUOTA, 4)
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
    """Enabling a schedule whose type has no quota."""
    aws = account.aws
    aws.set_quota(SCHEDULE_QUOTA, 0)
    said, seconds = refused(aws, schedule_enabled=True)
    wanted = f'schedule {SCHEDULE}: 1 x ml.m7i.large needs quota 1 for "{SCHEDULE_QUOTA}", this account has 0'
    expect_words(said, wanted)
    expect("the schedule's state", _schedule_state(account), "DISABLED")
    aws.set_quota(SCHEDULE_QUOTA, 4)
    deploy(aws, schedule_enabled=True)
    expect("the schedule's state once there is a quota", _schedule_state(account), "ENABLED")
    yield Row(
        injected="`cdk deploy` that enables a schedule whose type has quota 0",
        happened=f"UPDATE failed and was rolled back, the schedule stayed disabled: {wanted} ...; enabled once the quota was raised",
        attempts=0,
        lost="nothing was changed",
        seconds=seconds,
    )


def _schedule_state(account: Account) -> str:
    scheduler = account.client("scheduler")
    (summary,) = scheduler.list_schedules()["Schedules"]
    return str(scheduler.get_schedule(Name=summary["Name"])["State"])
