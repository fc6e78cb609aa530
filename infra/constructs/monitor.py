"""Monitor: the function and its two schedules."""

from __future__ import annotations

import json

import aws_cdk as cdk
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from constructs import Construct

from infra import roles
from infra.constructs.python_function import PythonFunction, function_log
from infra.monitor import published_metrics
from infra.run.deployment import CheckedInput, MonitorDeployment
from infra.settings import Settings, schedule_input

DAILY = {"check": "daily"}


class Monitor(Construct):
    """Every five minutes: metrics of active jobs. Daily and after a deployment: quotas, old checkpoints."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, shared: roles.Shared) -> None:
        super().__init__(scope, construct_id)
        log_group = function_log(self, "Monitor", settings)
        inputs = [
            CheckedInput(name=schedule.name, watched=True, input=schedule_input(schedule, "2026-01-01T00:00:00Z"))
            for schedule in settings.schedules
            if schedule.enabled
        ]
        inputs.append(CheckedInput(name="the default input", watched=False, input={}))
        deployment = MonitorDeployment(
            name=settings.name,
            bucket=shared.bucket.bucket_name,
            default_recipe=settings.default_recipe,
            inputs=tuple(inputs),
            checkpoint_days=settings.checkpoint_days,
            job_log_days=settings.job_log_retention_days,
        )
        role = roles.monitor_role(
            self,
            shared,
            log_group.log_group_arn,
            keeps_logs=settings.job_log_retention_days is not None,
        )
        self.function = PythonFunction(
            self, "Monitor", stage="monitor", role=role, log_group=log_group, timeout_minutes=5, deployment=deployment
        )
        every = events.Schedule.rate(cdk.Duration.minutes(published_metrics.PERIOD_MINUTES))
        events.Rule(self, "Often", schedule=every, targets=[targets.LambdaFunction(self.function)])
        check = targets.LambdaFunction(self.function, event=events.RuleTargetInput.from_object(DAILY))
        events.Rule(self, "Daily", schedule=events.Schedule.cron(hour="5", minute="0"), targets=[check])
        # A deployment may have enabled a schedule, so its quotas are checked as soon as the stack is complete.
        stack = cdk.Stack.of(self)
        detail = {"stack-id": [stack.stack_id], "status-details": {"status": ["CREATE_COMPLETE", "UPDATE_COMPLETE"]}}
        deployed = events.EventPattern(source=["aws.cloudformation"], detail_type=["CloudFormation Stack Status Change"], detail=detail)
        events.Rule(self, "Deployed", event_pattern=deployed, targets=[check])
        show = f"aws lambda invoke --function-name {self.function.function_name} --cli-binary-format raw-in-base64-out"
        cdk.CfnOutput(
            stack, "QuotaCheck", value=f"{show} --payload '{json.dumps(DAILY)}' /dev/stdout", description="prints the quota table"
        )
