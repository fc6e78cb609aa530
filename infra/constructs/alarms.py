"""The alarms on the monitor's metrics, and the runbook section of each. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from infra.monitor.published_metrics import (
    BUDGET_SHARE,
    CHECKPOINT_AGE,
    MISSING_QUOTAS,
    PENDING,
    SINCE_STEP,
    SPEED_SHARE,
    SYNC_AGE,
    PublishedMetric,
)
from infra.settings import AlarmSettings


@dataclass(frozen=True, kw_only=True)
class MetricAlarm:
    """One alarm on a published metric."""

    name: str
    """Construct id; the runbook's section is ``alarm-`` and this in kebab case."""
    metric: PublishedMetric
    threshold: float
    above: bool
    """Alarm above the threshold, else below it."""
    periods: int
    """Five-minute periods that must be beyond the threshold, of one more than that: a period without a value resets nothing."""
    sentence: str


def section(alarm_name: str) -> str:
    """The runbook anchor of an alarm: ``NoProgress`` -> ``alarm-no-progress``."""
    return "alarm" + "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in alarm_name)


OTHER_ALARMS = ("RunFailed", "MonitorFailed", "ScheduleLost")
"""Alarms on AWS's own metrics."""


def alarms(settings: AlarmSettings) -> tuple[MetricAlarm, ...]:
    """Every alarm on a published metric."""
    s = settings
    return (
        MetricAlarm(
            name="NoProgress", metric=SINCE_STEP, threshold=s.no_progress_minutes * 60, above=True, periods=2,
            sentence=f"A training job has logged no step for {s.no_progress_minutes} minutes.",
        ),
        MetricAlarm(
            name="Slow", metric=SPEED_SHARE, threshold=s.slow_percent, above=False, periods=3,
            sentence=f"A training job reaches less than {s.slow_percent:g} % of its expected tokens/s.",
        ),
        MetricAlarm(
            name="CheckpointOld", metric=CHECKPOINT_AGE, threshold=s.checkpoint_age_minutes * 60, above=True, periods=1,
            sentence=f"The newest checkpoint of a training job is older than {s.checkpoint_age_minutes} minutes.",
        ),
        MetricAlarm(
            name="SyncStalled", metric=SYNC_AGE, threshold=s.sync_minutes * 60, above=True, periods=2,
            sentence=f"Nothing of a training job has arrived in S3 for {s.sync_minutes} minutes.",
        ),
        MetricAlarm(
            name="Waiting", metric=PENDING, threshold=s.pending_minutes * 60, above=True, periods=1,
            sentence=f"A training job has been waiting for instances for {s.pending_minutes} minutes.",
        ),
        MetricAlarm(
            name="BudgetNearlySpent", metric=BUDGET_SHARE, threshold=s.budget_percent, above=True, periods=1,
            sentence=f"A run has spent {s.budget_percent:g} % of its budget.",
        ),
        MetricAlarm(
            name="QuotaMissing", metric=MISSING_QUOTAS, threshold=0, above=True, periods=1,
            sentence="A quota is too small for an enabled schedule's next run.",
        ),
    )  # fmt: skip
