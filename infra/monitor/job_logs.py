"""Retention of SageMaker's log groups. SageMaker makes them with the first job, keeps logs for ever, and stacks cannot own what exists."""

from __future__ import annotations

from typing import Any

GROUPS = ("/aws/sagemaker/TrainingJobs", "/aws/sagemaker/ProcessingJobs")


def limit_job_logs(logs: Any, days: int) -> list[str]:
    """Set the retention of both groups; returns those that exist."""
    found = []
    for group in GROUPS:
        try:
            logs.put_retention_policy(logGroupName=group, retentionInDays=days)
        except logs.exceptions.ResourceNotFoundException:
            continue
        found.append(group)
    return found
