"""The CloudWatch dashboard: runs, jobs waiting for instances, loss, speed, checkpoints, cost."""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra.monitor import published_metrics as names
from infra.monitor.published_metrics import PublishedMetric

EVERY = cdk.Duration.minutes(names.PERIOD_MINUTES)


def dashboard_name(deployment: str, region: str) -> str:
    """The dashboard's name: fixed, because a stack that is deployed earlier links to it; with the region, because names are global."""
    return f"{deployment}-{region}"


def published_metric(metric: PublishedMetric, deployment: str, *, statistic: str = "Average") -> cloudwatch.Metric:
    """A metric that the monitor publishes."""
    return cloudwatch.Metric(
        namespace=names.NAMESPACE, metric_name=metric.name, dimensions_map={names.DIMENSION: deployment}, statistic=statistic, period=EVERY
    )


def build_dashboard(
    scope: Construct, deployment: str, machine: sfn.StateMachine, alarms: Sequence[cloudwatch.Alarm]
) -> cloudwatch.Dashboard:
    """Alarms on top, then runs, training, progress and cost."""

    def graph(title: str, *metrics: PublishedMetric) -> cloudwatch.GraphWidget:
        return cloudwatch.GraphWidget(title=title, width=8, left=[published_metric(metric, deployment) for metric in metrics])

    runs = [
        machine.metric_started(statistic="Sum", label="started"),
        machine.metric_succeeded(statistic="Sum", label="succeeded"),
        machine.metric_failed(statistic="Sum", label="failed"),
        machine.metric_aborted(statistic="Sum", label="stopped"),
    ]
    # SageMaker publishes these per job and host, so the job's name is not known here: a search finds every running job.
    search = "SEARCH('{{/aws/sagemaker/TrainingJobs,Host}} MetricName=\"{name}\"', 'Average', 300)"
    utilisation = [
        cloudwatch.MathExpression(expression=search.format(name=name), label=name, period=EVERY)
        for name in ("GPUUtilization", "GPUMemoryUtilization")
    ]
    dashboard = cloudwatch.Dashboard(scope, "Dashboard", dashboard_name=dashboard_name(deployment, cdk.Stack.of(scope).region))
    dashboard.add_widgets(cloudwatch.AlarmStatusWidget(title="Alarms", alarms=list(alarms), width=24, height=3))
    dashboard.add_widgets(
        cloudwatch.GraphWidget(title="Runs", width=8, left=runs),
        graph("Active jobs", names.ACTIVE_JOBS),
        graph("Waiting for instances (s)", names.PENDING),
    )
    dashboard.add_widgets(
        graph("Training loss (nats per token)", names.LOSS),
        graph("Tokens/s per GPU", names.SPEED),
        cloudwatch.GraphWidget(
            title="MFU and share of the expected speed (%)",
            width=8,
            left=[published_metric(names.MFU, deployment), published_metric(names.SPEED_SHARE, deployment)],
        ),
    )
    dashboard.add_widgets(
        graph("Since the last step, newest checkpoint, last write to S3 (s)", names.SINCE_STEP, names.CHECKPOINT_AGE, names.SYNC_AGE),
        cloudwatch.GraphWidget(
            title="Spent (US dollars; share of the budget, right)",
            width=8,
            left=[published_metric(names.SPEND, deployment)],
            right=[published_metric(names.BUDGET_SHARE, deployment)],
        ),
        cloudwatch.GraphWidget(title="GPU utilisation (%)", width=8, left=utilisation),
    )
    return dashboard
