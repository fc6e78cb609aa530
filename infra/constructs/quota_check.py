"""Quota check (setting ``refuse_missing_quotas``): fails the deployment when the account's quotas are too small for its runs."""

from __future__ import annotations

import json

import aws_cdk as cdk
from constructs import Construct

from contracts.config import Json
from infra import roles
from infra.constructs.python_function import PythonFunction, function_log
from infra.quota_check.answer import Demand
from infra.run.deployment import QuotaCheckDeployment
from infra.run.quota_requests import quota_requests
from infra.run.run_spec import resolve
from infra.settings import Settings, schedule_input

ANSWER_MINUTES = 5
"""CloudFormation's patience; it is an hour by default. The quota list is about 25 pages and takes seconds."""


class QuotaCheck(Construct):
    """Custom resource whose create and update fail with the missing quota in the message.

    The instances needed are computed at synth and are the resource's property, so CloudFormation repeats the check whenever
    a recipe or an enabled schedule changes them.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id)
        log_group = function_log(self, "Quotas", settings)
        role = roles.quotas_role(self, log_group.log_group_arn)
        function = PythonFunction(
            self,
            "Quotas",
            stage="quota_check",
            role=role,
            log_group=log_group,
            timeout_minutes=ANSWER_MINUTES - 1,
            deployment=QuotaCheckDeployment(),
        )
        cdk.CustomResource(
            self,
            "Check",
            resource_type="Custom::QuotaCheck",
            service_token=function.function_arn,
            service_timeout=cdk.Duration.minutes(ANSWER_MINUTES),
            properties={"Demands": json.dumps([demand.as_value() for demand in demands(settings)])},
        )


def demands(settings: Settings) -> list[Demand]:
    """Instances that the default recipe and each enabled schedule need."""
    enabled = [schedule for schedule in settings.schedules if schedule.enabled]
    inputs: dict[str, Json] = {"the default recipe": {}}
    inputs |= {f"schedule {schedule.name}": schedule_input(schedule, "2026-01-01T00:00:00Z") for schedule in enabled}
    return [
        Demand(who=who, request=request)
        for who, value in inputs.items()
        for request in quota_requests(resolve(value, default_recipe=settings.default_recipe), prepared=False)
    ]
