"""Pipeline: image build, functions, state machine, schedules."""

from __future__ import annotations

import json
from typing import Any

import aws_cdk as cdk
import yaml
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra import roles
from infra.constructs.assets import ROOT
from infra.constructs.functions import Functions
from infra.constructs.image_build import ImageBuild
from infra.constructs.polling import with_polling
from infra.constructs.python_function import log_retention
from infra.constructs.quota_check import QuotaCheck
from infra.constructs.schedules import Schedules
from infra.settings import Settings
from infra.stacks.foundation_stack import FoundationStack
from infra.triage import ended

DEFINITION = ROOT / "infra" / "pipeline.asl.yaml"


def load_definition() -> dict[str, Any]:
    """The state machine as written, placeholders unfilled."""
    definition: dict[str, Any] = yaml.safe_load(DEFINITION.read_text())
    return definition


class PipelineStack(cdk.Stack):
    """Image build, functions, state machine and schedules."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        foundation: FoundationStack,
        network: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, description="Pre-training: build, functions, state machine, schedules", **kwargs)
        retention = log_retention(settings)
        shared = foundation.shared
        self.build = ImageBuild(self, "Build", settings=settings, shared=shared, retention=retention)
        self.prepare_role, self.training_role, self.evaluate_role = (
            roles.prepare_role(self, shared, settings.source_buckets, in_vpc=bool(network)),
            roles.training_role(self, shared, settings.source_buckets, in_vpc=bool(network)),
            roles.evaluate_role(self, shared, in_vpc=bool(network)),
        )
        self.functions = Functions(
            self,
            "Functions",
            settings=settings,
            shared=shared,
            build=self.build,
            prepare_role=self.prepare_role,
            training_role=self.training_role,
            evaluate_role=self.evaluate_role,
            network=network,
            topic_arn=foundation.topic.topic_arn,
            chat_topic_arn=foundation.chat_topic_arn,
        )
        self.machine = self._machine(settings, foundation, retention)
        detail = {"stateMachineArn": [self.machine.state_machine_arn], "status": list(ended.STATUSES)}
        pattern = events.EventPattern(source=["aws.states"], detail_type=[ended.DETAIL_TYPE], detail=detail)
        events.Rule(self, "Ended", event_pattern=pattern, targets=[targets.LambdaFunction(self.functions.triage)])
        self.schedules = Schedules(self, "Schedules", settings=settings, machine=self.machine)
        if settings.refuse_missing_quotas:
            self.schedules.node.add_dependency(QuotaCheck(self, "QuotaCheck", settings=settings))
        cdk.CfnOutput(self, "StateMachineArn", value=self.machine.state_machine_arn)
        cdk.CfnOutput(self, "BuildProjectName", value=self.build.project.project_name)

    def _machine(self, settings: Settings, foundation: FoundationStack, retention: logs.RetentionDays) -> sfn.StateMachine:
        functions = self.functions
        definition = load_definition() if settings.training_task == "sync" else with_polling(load_definition())
        role = roles.machine_role(
            self,
            functions=[function.function_arn for function in functions.called],
            project_arn=self.build.project.project_arn,
            topic_arn=foundation.topic.topic_arn,
            topic_key=foundation.key,
            job_roles=[self.prepare_role.role_arn, self.training_role.role_arn, self.evaluate_role.role_arn],
        )
        # Step Functions' log policy is limited in size per account; names under /aws/vendedlogs/ do not count.
        log_group = logs.LogGroup(
            self,
            "ExecutionLog",
            log_group_name=f"/aws/vendedlogs/states/{self.stack_name}",
            retention=retention,
            removal_policy=cdk.RemovalPolicy.DESTROY,
        )
        return sfn.StateMachine(
            self,
            "Machine",
            definition_body=sfn.DefinitionBody.from_string(json.dumps(definition)),
            definition_substitutions={
                "Partition": self.partition,
                "AdmitFunction": functions.admit.function_arn,
                "TriageFunction": functions.triage.function_arn,
                "ReportFunction": functions.report.function_arn,
                "BuildProject": self.build.project.project_name,
                "Topic": foundation.topic.topic_arn,
                "Runbook": settings.runbook_url,
            },
            role=role.without_policy_updates(),
            tracing_enabled=True,
            logs=sfn.LogOptions(destination=log_group, level=sfn.LogLevel.ALL, include_execution_data=True),
        )
