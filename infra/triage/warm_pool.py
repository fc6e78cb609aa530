"""After a fault of its hosts: give up a job's warm pool, so that no later attempt or leg gets the same hosts.

SageMaker keeps the instances of a job that failed by its own code, and hands them to the next job with the same role, instances, volume,
VPC and isolation; KeepAlivePeriodInSeconds is not among what must match, so leaving it out of the next request does not avoid the pool.
Its documented end is UpdateTrainingJob with a period of 0 ("Terminate a warm pool" in SageMaker's developer guide).
"""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from contracts.config import Json
from infra.triage.decisions import Verdict

OTHER_HOSTS = ("DeviceFault", "FabricSlow")
"""Failure classes that other hosts may heal."""

POOL_END_SECONDS = 60  # no document says how soon a pool that was ended matches no more; a pause without instances costs nothing


def give_up_pool(sagemaker: Any, job: Json, verdict: Verdict) -> str:
    """What was done about the warm pool of ``job``, for people; empty when nothing had to be.

    A call that fails costs no attempt: the next one may get the same hosts, and their health check says so again.
    """
    if verdict.name not in OTHER_HOSTS or not job.get("ResourceConfig", {}).get("KeepAlivePeriodInSeconds"):
        return ""
    try:
        sagemaker.update_training_job(TrainingJobName=job["TrainingJobName"], ResourceConfig={"KeepAlivePeriodInSeconds": 0})
    except (ClientError, BotoCoreError) as error:
        return f"; its warm pool could not be given up ({error}), so the same hosts may come back"
    return "; its warm pool is given up, so that other hosts can come"
