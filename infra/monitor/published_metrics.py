"""The metrics that the monitor publishes. Names are shared by function, alarms, dashboard and runbook. Pure.

All carry one fixed dimension, the deployment, so that an alarm set up once watches every run; several active
jobs publish several values, and an alarm looks at the worst.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMESPACE = "Pretrain"
DIMENSION = "Deployment"
PERIOD_MINUTES = 5  # how often the monitor runs; an alarm's period must not be shorter


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
SYNC_AGE = PublishedMetric(
    name="SyncAgeSeconds", unit="Seconds", meaning="since anything of the attempt last arrived in S3, or since training began"
)
SPEND = PublishedMetric(name="SpendUsd", unit="None", meaning="spent on the run's training jobs so far")
BUDGET_SHARE = PublishedMetric(name="BudgetShare", unit="Percent", meaning="of budget.max_usd spent")
SPEED = PublishedMetric(name="TokensPerSecondPerDevice", unit="Count/Second", meaning="tokens/s per GPU at the last logged step")
SPEED_SHARE = PublishedMetric(name="SpeedShare", unit="Percent", meaning="of the leg's expected tokens/s")
LOSS = PublishedMetric(name="Loss", unit="None", meaning="training loss at the last logged step, nats per token")
MFU = PublishedMetric(name="Mfu", unit="Percent", meaning="model FLOPs utilisation over the dense BF16 peak at the last logged step")
MISSING_QUOTAS = PublishedMetric(name="MissingQuotas", unit="Count", meaning="quotas too small for the enabled schedules, checked daily")
