"""The functions that the state machine calls: Admit, Triage (also for the state Explain), Report."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra import roles
from infra.constructs.dashboard import dashboard_name
from infra.constructs.image_build import ImageBuild
from infra.constructs.python_function import PythonFunction, function_log
from infra.run.deployment import Deployment, ReportDeployment, TriageDeployment
from infra.settings import Settings


class Functions(Construct):
    """Admit, Triage and Report, each with its own role and log group."""

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
        evaluate_role: iam.Role,
        network: dict[str, Any],
        topic_arn: str,
        chat_topic_arn: str | None,
    ) -> None:
        super().__init__(scope, construct_id)
        logs = {name: function_log(self, name, settings) for name in ("Admit", "Triage", "Report")}
        deployment = Deployment(
            name=settings.name,
            bucket=shared.bucket.bucket_name,
            key_arn=shared.key.key_arn,
            repository=shared.images.repository_name,
            repository_uri=shared.images.repository_uri,
            image_tag=build.tag,
            prepare_role_arn=prepare_role.role_arn,
            training_role_arn=training_role.role_arn,
            evaluate_role_arn=evaluate_role.role_arn,
            secret_arn=shared.secret_arn,
            default_recipe=settings.default_recipe,
            tags=settings.tags,
            **network,
        )
        self.admit = PythonFunction(
            self,
            "Admit",
            stage="admit",
            role=roles.admit_role(self, shared, settings.source_buckets, logs["Admit"].log_group_arn),
            log_group=logs["Admit"],
            timeout_minutes=3,  # the quota list is about 25 pages, a large source thousands of keys
            memory_mb=1024,  # Lambda's CPU share grows with memory, and creating eight clients is CPU-bound
            deployment=deployment,
        )
        self.report = PythonFunction(
            self,
            "Report",
            stage="report",
            role=roles.report_role(self, shared, settings, logs["Report"].log_group_arn),
            log_group=logs["Report"],
            timeout_minutes=10,  # a long run's metrics are tens of MB; after a stop the jobs' last checkpoints are waited for
            memory_mb=1024,
            deployment=ReportDeployment(
                bucket=shared.bucket.bucket_name,
                dashboard=dashboard_name(settings.name, cdk.Stack.of(self).region),
                name=settings.name,
                mlflow_tracking_server_arn=settings.mlflow_tracking_server_arn,
                wandb=settings.wandb,
                model_registry=settings.model_registry,
                tags=settings.tags,
            ),
        )
        stages = {"Admit": "Admit", "Report": "Report", "Explain": "Triage", "Triage": "Triage"}
        self.triage = PythonFunction(
            self,
            "Triage",
            stage="triage",
            role=roles.triage_role(
                self,
                shared,
                logs["Triage"].log_group_arn,
                build_log_group_arn=build.log_group.log_group_arn,
                topic_arns=[topic_arn, *([chat_topic_arn] if chat_topic_arn else [])],
                report_function_arn=self.report.function_arn,
            ),
            log_group=logs["Triage"],
            timeout_minutes=1,
            deployment=TriageDeployment(
                name=settings.name,
                bucket=shared.bucket.bucket_name,
                topic_arn=topic_arn,
                chat_topic_arn=chat_topic_arn,
                report_function=self.report.function_arn,
                runbook=settings.runbook_url,
                log_groups={stage: logs[name].log_group_name for stage, name in stages.items()},
            ),
        )
        self.called = (self.admit, self.triage, self.report)
