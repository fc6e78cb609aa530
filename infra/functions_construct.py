"""The Lambda functions: one pure-Python package, one log group and one role each."""

from __future__ import annotations

import tempfile
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra import explain, roles
from infra.assets import content_hash, lambda_files, stage
from infra.deployment import VARIABLE
from infra.image_build import ImageBuild
from infra.settings import Settings

_RETENTION = {
    1: logs.RetentionDays.ONE_DAY,
    7: logs.RetentionDays.ONE_WEEK,
    14: logs.RetentionDays.TWO_WEEKS,
    30: logs.RetentionDays.ONE_MONTH,
    60: logs.RetentionDays.TWO_MONTHS,
    90: logs.RetentionDays.THREE_MONTHS,
    180: logs.RetentionDays.SIX_MONTHS,
    365: logs.RetentionDays.ONE_YEAR,
    731: logs.RetentionDays.TWO_YEARS,
    1827: logs.RetentionDays.FIVE_YEARS,
    3653: logs.RetentionDays.TEN_YEARS,
}


def log_retention(settings: Settings) -> logs.RetentionDays:
    """The setting in CDK's words."""
    return _RETENTION[settings.log_retention_days]


class Functions(Construct):
    """Admit, triage (which also explains) and report."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        shared: roles.Shared,
        build: ImageBuild,
        prepare_role: iam.Role,
        training_role: iam.Role,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings = settings
        files = lambda_files()
        with tempfile.TemporaryDirectory() as folder:  # CDK copies it into cdk.out when the first function is made
            stage(files, Path(folder))
            self._code = lambda_.Code.from_asset(folder, asset_hash=content_hash(files), asset_hash_type=cdk.AssetHashType.CUSTOM)
            groups = {name: self._log_group(name) for name in ("Admit", "Triage", "Report")}
            deployment = cdk.Stack.of(self).to_json_string(
                {
                    "bucket": shared.bucket.bucket_name,
                    "key_arn": shared.key.key_arn,
                    "repository": shared.images.repository_name,
                    "repository_uri": shared.images.repository_uri,
                    "image_tag": build.tag,
                    "prepare_role_arn": prepare_role.role_arn,
                    "training_role_arn": training_role.role_arn,
                    "secret_arn": shared.secret_arn,
                    "default_recipe": settings.default_recipe,
                }
            )
            self.admit = self._function(
                "Admit",
                "infra.functions.admit.handler",
                roles.admit_role(self, shared, groups["Admit"].log_group_arn),
                groups["Admit"],
                minutes=3,
                environment={VARIABLE: deployment},  # the quota list is about 25 pages, a large source thousands of keys
            )
            self.triage = self._function(
                "Triage",
                "infra.functions.triage.handler",
                roles.triage_role(self, groups["Triage"].log_group_arn, build.log_group.log_group_arn),
                groups["Triage"],
                minutes=1,
                environment={
                    explain.RUNBOOK_VARIABLE: settings.runbook_url,
                    explain.LOG_GROUPS_VARIABLE: cdk.Stack.of(self).to_json_string(
                        {
                            stage_name: groups[name].log_group_name
                            for stage_name, name in (("Admit", "Admit"), ("Report", "Report"), ("Explain", "Triage"))
                        }
                    ),
                },
            )
            self.report = self._function(
                "Report",
                "infra.functions.report.handler",
                roles.report_role(self, shared, groups["Report"].log_group_arn),
                groups["Report"],
                minutes=5,
                environment={"BUCKET": shared.bucket.bucket_name},  # a long run's metrics are tens of MB
            )
        self.called = (self.admit, self.triage, self.report)

    def _log_group(self, name: str) -> logs.LogGroup:
        return logs.LogGroup(self, f"{name}Log", retention=log_retention(self._settings), removal_policy=cdk.RemovalPolicy.DESTROY)

    def _function(
        self, name: str, handler: str, role: iam.Role, log_group: logs.LogGroup, *, minutes: int, environment: dict[str, str]
    ) -> lambda_.Function:
        return lambda_.Function(
            self,
            name,
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            handler=handler,
            code=self._code,
            role=role.without_policy_updates(),
            log_group=log_group,
            timeout=cdk.Duration.minutes(minutes),
            memory_size=512,
            environment=environment,
            tracing=lambda_.Tracing.ACTIVE,
        )
