"""Patrol: the function, and the two rhythms that call it."""

from __future__ import annotations

import json

import aws_cdk as cdk
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from constructs import Construct

from infra import patrol_metrics, roles
from infra.python_function import PythonFunction, function_log
from infra.settings import Settings, schedule_input


class Patrol(Construct):
    """Every five minutes it looks at the active jobs (none: it ends at once), once a day at quotas and old checkpoints."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, shared: roles.Shared) -> None:
        super().__init__(scope, construct_id)
        log_group = function_log(self, "Patrol", settings)
        inputs = [
            {"name": schedule.name, "input": schedule_input(schedule, "2026-01-01T00:00:00Z")}
            for schedule in settings.schedules
            if schedule.enabled
        ]
        values = {
            "BUCKET": shared.bucket.bucket_name,
            "DEPLOYMENT_NAME": settings.name,
            "DEFAULT_RECIPE": settings.default_recipe,
            "SCHEDULES": json.dumps(inputs),
        }
        if settings.checkpoint_days is not None:
            values["CHECKPOINT_DAYS"] = str(settings.checkpoint_days)
        role = roles.patrol_role(self, shared, log_group.log_group_arn, prunes=settings.checkpoint_days is not None)
        self.function = PythonFunction(self, "Patrol", role=role, log_group=log_group, timeout_minutes=5, values=values)
        rhythm = events.Schedule.rate(cdk.Duration.minutes(patrol_metrics.PERIOD_MINUTES))
        events.Rule(self, "Often", schedule=rhythm, targets=[targets.LambdaFunction(self.function)])
        daily = events.RuleTargetInput.from_object({"check": "daily"})
        events.Rule(
            self, "Daily", schedule=events.Schedule.cron(hour="5", minute="0"), targets=[targets.LambdaFunction(self.function, event=daily)]
        )
