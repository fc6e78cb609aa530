"""Schedules that start runs: each with its input, checked at synth, and the scheduled time filled in when it fires."""

from __future__ import annotations

import json

import aws_cdk as cdk
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra import roles
from infra.constructs.acknowledge import acknowledge
from infra.settings import ScheduleSettings, Settings, schedule_input

SCHEDULED_TIME = "<aws.scheduler.scheduled-time>"  # EventBridge Scheduler replaces it by the scheduled minute, ISO 8601 in UTC


class Schedules(Construct):
    """One EventBridge schedule for each of the settings."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, machine: sfn.StateMachine) -> None:
        super().__init__(scope, construct_id)
        self.lost: sqs.Queue | None = None
        """Firings that could not start an execution; none where there are no schedules."""
        if not settings.schedules:
            return
        self.lost = sqs.Queue(
            self,
            "Lost",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=cdk.Duration.days(14),  # SQS's longest; the alarm stays until somebody has read and purged them
        )
        acknowledge(self.lost, "AwsSolutions-SQS3", "it is the dead-letter queue of the schedules, which the rule cannot see")
        role = roles.schedule_role(self, machine.state_machine_arn, self.lost.queue_arn)
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
                # A start that still fails after an hour is given up and kept in the queue: the next firing starts a run of its own.
                dead_letter_config=None if self.lost is None else scheduler.CfnSchedule.DeadLetterConfigProperty(arn=self.lost.queue_arn),
                retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(maximum_event_age_in_seconds=3600, maximum_retry_attempts=10),
            ),
        )
