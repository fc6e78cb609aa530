"""Schedules that start runs: each with its input, checked at synth, and the scheduled time filled in when it fires."""

from __future__ import annotations

import json

from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra import roles
from infra.settings import ScheduleSettings, Settings, schedule_input

SCHEDULED_TIME = "<aws.scheduler.scheduled-time>"  # EventBridge Scheduler replaces it by the scheduled minute, ISO 8601 in UTC


class Schedules(Construct):
    """One EventBridge schedule for each of the settings."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, machine: sfn.StateMachine) -> None:
        super().__init__(scope, construct_id)
        if not settings.schedules:
            return
        role = roles.schedule_role(self, machine.state_machine_arn)
        for schedule in settings.schedules:
            self._schedule(schedule, machine.state_machine_arn, role.role_arn)

    def _schedule(self, schedule: ScheduleSettings, machine_arn: str, role_arn: str) -> None:
        window = scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF")
        if schedule.window_minutes:
            window = scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="FLEXIBLE", maximum_window_in_minutes=schedule.window_minutes)
        scheduler.CfnSchedule(
            self,
            schedule.name,
            flexible_time_window=window,
            schedule_expression=schedule.expression,
            schedule_expression_timezone=schedule.timezone,
            state="ENABLED" if schedule.enabled else "DISABLED",
            target=scheduler.CfnSchedule.TargetProperty(
                arn=machine_arn,
                role_arn=role_arn,
                input=json.dumps(schedule_input(schedule, SCHEDULED_TIME)),
                # A start that still fails after an hour is given up: the next firing starts a run of its own.
                retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(maximum_event_age_in_seconds=3600, maximum_retry_attempts=10),
            ),
        )
