"""Monitoring: monitor function, alarms, dashboard, budget; messages go to Foundation's topic."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from constructs import Construct

from infra.constructs.alarms import MetricAlarm, alarms, section
from infra.constructs.dashboard import build_dashboard, published_metric
from infra.constructs.monitor import Monitor
from infra.run.job_requests import DEPLOYMENT_TAG
from infra.settings import Settings
from infra.stacks.foundation_stack import FoundationStack
from infra.stacks.pipeline_stack import PipelineStack


class MonitoringStack(cdk.Stack):
    """Dashboard, alarms, budget and their messages."""

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
        super().__init__(scope, construct_id, description="Pre-training: monitor, alarms, dashboard", **kwargs)
        self._settings, self._action = settings, actions.SnsAction(foundation.topic)
        self.monitor = Monitor(self, "Monitor", settings=settings, shared=foundation.shared)
        every = cdk.Duration.minutes(5)
        failed = pipeline.machine.metric_failed(period=every, statistic="Sum")
        errors = self.monitor.function.metric_errors(period=every, statistic="Sum")
        self.alarms = [
            self._alarm(
                "RunFailed",
                "A run failed; a message of its own says why, within minutes of its end.",
                failed,
                threshold=0,
                above=True,
                periods=1,
            ),
            self._alarm("MonitorFailed", "The function that monitors running jobs fails.", errors, threshold=0, above=True, periods=3),
            *(self._metric_alarm(alarm) for alarm in alarms(settings.alarms)),
        ]
        if pipeline.schedules.lost is not None:
            lost = pipeline.schedules.lost.metric_approximate_number_of_messages_visible(period=every, statistic="Maximum")
            sentence = "A schedule could not start its run; the message in the queue says which."
            self.alarms.append(self._alarm("ScheduleLost", sentence, lost, threshold=0, above=True, periods=1))
        dashboard = build_dashboard(self, settings.name, pipeline.machine, self.alarms)
        if settings.monthly_budget_usd is not None:
            self._budget(settings.monthly_budget_usd, foundation)
        cdk.CfnOutput(self, "TopicArn", value=foundation.topic.topic_arn)
        cdk.CfnOutput(self, "DashboardName", value=dashboard.dashboard_name)

    def _metric_alarm(self, alarm: MetricAlarm) -> cloudwatch.Alarm:
        metric = published_metric(alarm.metric, self._settings.name, statistic="Maximum" if alarm.above else "Minimum")
        return self._alarm(alarm.name, alarm.sentence, metric, threshold=alarm.threshold, above=alarm.above, periods=alarm.periods)

    def _alarm(
        self, name: str, sentence: str, metric: cloudwatch.IMetric, *, threshold: float, above: bool, periods: int
    ) -> cloudwatch.Alarm:
        comparison = cloudwatch.ComparisonOperator
        alarm = cloudwatch.Alarm(
            self,
            name,
            metric=metric,
            threshold=threshold,
            comparison_operator=comparison.GREATER_THAN_THRESHOLD if above else comparison.LESS_THAN_THRESHOLD,
            # One more than must be beyond the threshold: the data is five-minute data, and a late value must not reset the alarm.
            evaluation_periods=periods + 1,
            datapoints_to_alarm=periods,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,  # no active job, no value
            alarm_description=f"{sentence} What to do: {self._settings.runbook_url}#{section(name)}",
        )
        alarm.add_alarm_action(self._action)
        return alarm

    def _budget(self, usd: float, foundation: FoundationStack) -> None:
        subscriber = budgets.CfnBudget.SubscriberProperty(subscription_type="SNS", address=foundation.topic.topic_arn)

        def notification(kind: str, percent: float) -> budgets.CfnBudget.NotificationWithSubscribersProperty:
            return budgets.CfnBudget.NotificationWithSubscribersProperty(
                subscribers=[subscriber],
                notification=budgets.CfnBudget.NotificationProperty(
                    comparison_operator="GREATER_THAN", notification_type=kind, threshold=percent, threshold_type="PERCENTAGE"
                ),
            )

        budgets.CfnBudget(
            self,
            "Budget",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=usd, unit="USD"),
                # The tag counts once it is activated as a cost allocation tag (Billing console, once per organisation).
                cost_filters={"TagKeyValue": [f"user:{DEPLOYMENT_TAG}${self._settings.name}"]},
            ),
            notifications_with_subscribers=[notification("ACTUAL", 80), notification("FORECASTED", 100)],
        )
