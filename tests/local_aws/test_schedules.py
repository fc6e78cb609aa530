"""Schedules on the embedded AWS: due times in their zone, keywords in the input, and one real firing."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from example_machine import ROLE, Example

from local_aws.services.scheduler import soon

ROOT = Path(__file__).parents[2]
CASES = """
import json, sys
from datetime import datetime, UTC
from local_aws.services.schedule_delivery import iso
from local_aws.services.scheduler import firings
for case in json.load(sys.stdin):
    after, now = (datetime.fromisoformat(case[key]).timestamp() for key in ("after", "now"))
    created = datetime.fromisoformat(case.get("created", case["after"])).timestamp()
    print(json.dumps([iso(moment) for moment in firings({"CreationDate": created, **case["schedule"]}, after, now)]))
"""


def due(*cases: dict[str, Any]) -> list[list[str]]:
    """Due times as the launcher's Python works them out."""
    result = subprocess.run(
        [ROOT / ".venv-aws/bin/python", "-c", CASES], input=json.dumps(cases), capture_output=True, text=True, check=True, cwd=ROOT
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_due_times_follow_the_time_zone_and_its_daylight_saving() -> None:
    berlin = {"ScheduleExpression": "cron(30 2 * * ? *)", "ScheduleExpressionTimezone": "Europe/Berlin"}
    tokyo = {"ScheduleExpression": "at(2026-03-01T09:00:00)", "ScheduleExpressionTimezone": "Asia/Tokyo"}
    every_minute = {"ScheduleExpression": "cron(* * * * ? *)"}
    hourly = {"ScheduleExpression": "rate(1 hour)"}
    bounded = hourly | {"StartDate": "2026-01-01T01:00:00Z", "EndDate": "2026-01-01T02:00:00Z"}
    found = due(
        {"schedule": berlin, "after": "2026-03-27T12:00:00Z", "now": "2026-03-30T12:00:00Z"},
        {"schedule": tokyo, "after": "2026-02-28T12:00:00Z", "now": "2026-03-30T12:00:00Z"},
        {"schedule": every_minute, "after": "2026-01-01T00:00:59Z", "now": "2026-01-01T00:02:00Z"},
        {"schedule": hourly, "created": "2026-01-01T00:10:00Z", "after": "2026-01-01T03:00:00Z", "now": "2026-01-01T04:30:00Z"},
        {"schedule": hourly, "after": "2025-12-31T23:59:59.999Z", "created": "2026-01-01T00:00:00Z", "now": "2026-01-01T00:00:01Z"},
        {"schedule": bounded, "after": "2026-01-01T00:00:00Z", "now": "2026-01-01T09:00:00Z"},
    )
    # 28 March 2:30 is winter time; 29 March has no 2:30 and moves on; 30 March is summer time.
    assert found[0] == ["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]
    assert found[1] == ["2026-03-01T00:00:00Z"]
    assert found[2] == ["2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"]
    assert found[3] == ["2026-01-01T03:10:00Z", "2026-01-01T04:10:00Z"]
    assert found[4] == ["2026-01-01T00:00:00Z"]  # a rate without a start date begins at once
    assert found[5] == ["2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z"]


@pytest.mark.embedded
def test_schedule_starts_an_execution_with_its_time_in_the_input(example: Example) -> None:
    scheduler, steps = example.aws.client("scheduler"), example.aws.client("stepfunctions")
    definition = {"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}}
    machine = steps.create_state_machine(name="scheduled", definition=json.dumps(definition), roleArn=ROLE)["stateMachineArn"]
    given = {"schedule": {"name": "nightly", "time": "<aws.scheduler.scheduled-time>"}, "attempt": "<aws.scheduler.attempt-number>"}
    expression = soon(1.0, "Asia/Tokyo")
    scheduler.create_schedule(
        Name="nightly",
        ScheduleExpression=expression,
        ScheduleExpressionTimezone="Asia/Tokyo",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": machine, "RoleArn": ROLE, "Input": json.dumps(given)},
    )
    deadline = time.monotonic() + 30
    while not (executions := steps.list_executions(stateMachineArn=machine)["executions"]):
        assert time.monotonic() < deadline, f"{expression} did not fire"
        time.sleep(0.1)
    value = json.loads(steps.describe_execution(executionArn=executions[0]["executionArn"])["input"])
    [expected] = due(
        {
            "schedule": {"ScheduleExpression": expression, "ScheduleExpressionTimezone": "Asia/Tokyo"},
            "after": "2020-01-01T00:00:00Z",
            "now": "2100-01-01T00:00:00Z",
        }
    )
    assert value == {"schedule": {"name": "nightly", "time": expected[0]}, "attempt": "1"}
    assert len(executions) == 1
