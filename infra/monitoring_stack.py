"""Monitoring: dashboard and alarms; messages go to Foundation's topic."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from constructs import Construct

from infra.foundation_stack import FoundationStack
from infra.pipeline_stack import PipelineStack
from infra.settings import Settings


class MonitoringStack(cdk.Stack):
    """What people look at and are told."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        foundation: FoundationStack,
        pipeline: PipelineStack,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, description="Pre-training: dashboard and alarms", **kwargs)
        machine = pipeline.machine
        failed = machine.metric_failed(period=cdk.Duration.minutes(5), statistic="Sum")
        alarm = cloudwatch.Alarm(
            self,
            "RunFailed",
            metric=failed,
            threshold=1,
            evaluation_periods=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            alarm_description=f"A run failed. {settings.runbook_url}#alarm-run-failed",
        )
        alarm.add_alarm_action(actions.SnsAction(foundation.topic))
        dashboard = cloudwatch.Dashboard(self, "Dashboard")
        dashboard.add_widgets(
            cloudwatch.GraphWidget(
                title="Runs", width=12, left=[machine.metric_started(statistic="Sum"), machine.metric_succeeded(statistic="Sum"), failed]
            ),
            cloudwatch.AlarmWidget(title="Run failed", alarm=alarm, width=12),
        )
        cdk.CfnOutput(self, "TopicArn", value=foundation.topic.topic_arn)
        cdk.CfnOutput(self, "DashboardName", value=dashboard.dashboard_name)
