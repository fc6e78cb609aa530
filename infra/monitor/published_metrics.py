"""The metrics that the monitor publishes, and the alarms on them. Names are shared by function, alarms, dashboard and runbook. Pure.

All carry one fixed dimension, the deployment, so that an alarm set up once watches every run; several active
jobs publish several values, and an alarm looks at the worst.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from contracts.config import Bounds

NAMESPACE = "Pretrain"
DIMENSION = "Deployment"
PERIOD_MINUTES = 5  # the monitor's rhythm; an alarm's period must not be shorter


@dataclass(frozen=True, kw_only=True)
class PublishedMetric:
    """One metric."""

    name: str
    unit: str
    """CloudWatch's unit."""
    meaning: str


ACTIVE_JOBS = PublishedMetric(name="ActiveJobs", unit="Count", meaning="training jobs of this deployment that are in progress")
PENDING = PublishedMetric(name="PendingSeconds", unit="Seconds", meaning="how long a job has been waiting for its instances")
SINCE_STEP = PublishedMetric(name="SecondsSinceStep", unit="Seconds", meaning="since the last logged step, or since training began")
CHECKPOINT_AGE = PublishedMetric(
    name="CheckpointAgeSeconds", unit="Seconds", meaning="age of the newest whole checkpoint: what a crash would lose"
)
SPEND = PublishedMetric(name="SpendUsd", unit="None", meaning="spent on the run's training jobs so far")
BUDGET_SHARE = PublishedMetric(name="BudgetShare", unit="Percent", meaning="of budget.max_usd spent")
SPEED = PublishedMetric(name="TokensPerSecondPerDevice", unit="Count/Second", meaning="tokens/s per GPU at the last logged step")
SPEED_SHARE = PublishedMetric(name="SpeedShare", unit="Percent", meaning="of the leg's expected tokens/s")
LOSS = PublishedMetric(name="Loss", unit="None", meaning="training loss at the last logged step, nats per token")
MFU = PublishedMetric(name="Mfu", unit="Percent", meaning="model FLOPs utilisation at the last logged step")
MISSING_QUOTAS = PublishedMetric(name="MissingQuotas", unit="Count", meaning="quotas too small for the enabled schedules, checked daily")


@dataclass(frozen=True, kw_only=True)
class AlarmSettings:
    """When people are told."""

    no_progress_minutes: Annotated[int, Bounds(5, 1440)] = 30
    """No logged step for this long. A hang ends the job by itself much earlier; this is for what that misses."""
    checkpoint_age_minutes: Annotated[int, Bounds(5, 10_080)] = 180
    """Newest checkpoint older than this."""
    slow_percent: Annotated[float, Bounds(1.0, 100.0)] = 70.0
    """Below this share of the leg's expected tokens/s: a lost fabric or a throttled device shows itself this way."""
    pending_minutes: Annotated[int, Bounds(5, 10_080)] = 120
    """A job waits for instances longer than this."""
    budget_percent: Annotated[float, Bounds(1.0, 100.0)] = 80.0
    """Spent more than this share of the run's budget."""


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
    """Five-minute periods in a row."""
    sentence: str


def section(alarm_name: str) -> str:
    """The runbook anchor of an alarm: ``NoProgress`` -> ``alarm-no-progress``."""
    return "alarm" + "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in alarm_name)


OTHER_ALARMS = ("RunFailed", "MonitorFailed")
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
