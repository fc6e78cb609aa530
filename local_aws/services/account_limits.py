"""What an account may use at once: instance quotas with what is in use, warm pools, training plans."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from local_aws.jobs.job_run import Json, now
from local_aws.services.json_service import ServiceError

ACTIVE = ("InProgress", "Stopping")
PLANS_FILE = "training_plans.json"
"""In the embedded AWS's folder: a list of DescribeTrainingPlan responses; tests write it."""


def quota_name(kind: str, request: Json) -> str:
    """The quota that a job counts against, by its exact name."""
    if kind == "Processing":
        return f"{_type(kind, request)} for processing job usage"
    spot = "spot " if request.get("EnableManagedSpotTraining") else ""
    return f"{_type(kind, request)} for {spot}training job usage"


def check_quota(kind: str, request: Json, jobs: Iterable[Json], limit: float) -> None:
    """Refuse a job, as SageMaker does, when its instances and those in use exceed the quota. Raises ServiceError."""
    name, wanted = quota_name(kind, request), _count(kind, request)
    used = sum(_count(kind, job) for job in jobs if job[f"{kind}JobStatus"] in ACTIVE and quota_name(kind, job) == name)
    if used + wanted > limit:
        raise ServiceError(
            "ResourceLimitExceeded",
            f"The account-level service limit '{name}' is {limit:g} Instances, with current utilization of {used} Instances and a request "
            f"delta of {wanted} Instances. Please use AWS Service Quotas to request an increase for this quota.",
        )


def _cluster(kind: str, request: Json) -> Json:
    cluster: Json = request["ResourceConfig"] if kind == "Training" else request["ProcessingResources"]["ClusterConfig"]
    return cluster


def _type(kind: str, request: Json) -> str:
    return str(_cluster(kind, request).get("InstanceType", ""))


def _count(kind: str, request: Json) -> int:
    return int(_cluster(kind, request).get("InstanceCount", 1))


def warm_pool_name(request: Json) -> str:
    """The quota that a training job's warm pool counts against."""
    return f"{_type('Training', request)} for training warm pool usage"


def open_warm_pool(record: Json, limit: float) -> None:
    """Keep the instances of a job that ended with KeepAlivePeriodInSeconds; without the quota they are silently not kept, as on AWS."""
    seconds = record["ResourceConfig"].get("KeepAlivePeriodInSeconds", 0)
    if seconds and record.get("TrainingStartTime") and limit >= _count("Training", record):
        record["WarmPoolStatus"] = {"Status": "Available"}
        record["_WarmUntil"] = now() + seconds


def keep_warm_pool(record: Json, resources: Json) -> None:
    """Keep an available pool so many seconds from now on; 0 ends it. Without one the call is refused."""
    if (record.get("WarmPoolStatus") or {}).get("Status") != "Available":
        raise ServiceError("ValidationException", "The training job has no warm pool that can be updated.")
    record["ResourceConfig"] = {**record["ResourceConfig"], "KeepAlivePeriodInSeconds": resources["KeepAlivePeriodInSeconds"]}
    record["_WarmUntil"] = now() + resources["KeepAlivePeriodInSeconds"]
    close_warm_pools([record])


def close_warm_pools(jobs: Iterable[Json]) -> None:
    """Remove pools whose keep-alive period is over."""
    for job in jobs:
        if job.get("_WarmUntil", float("inf")) <= now() and job["WarmPoolStatus"]["Status"] == "Available":
            kept = int(job["_WarmUntil"] - job["TrainingEndTime"])
            job["WarmPoolStatus"] = {"Status": "Terminated", "ResourceRetainedBillableTimeInSeconds": kept}


def reuse_warm_pool(jobs: Iterable[Json], request: Json) -> None:
    """A job with the same resources takes over a waiting pool, whether or not it keeps one (SageMaker's "Matching training jobs")."""
    same = ("InstanceType", "InstanceCount", "VolumeSizeInGB")
    wanted = request["ResourceConfig"]
    for job in jobs:
        pool = job.get("WarmPoolStatus") or {}
        if pool.get("Status") == "Available" and all(job["ResourceConfig"].get(key) == wanted.get(key) for key in same):
            job["WarmPoolStatus"] = {"Status": "Reused", "ReusedByJob": request["TrainingJobName"]}
            return


def training_plan(home: Path, name: str) -> Json:
    """A training plan by its name. Raises ServiceError for an unknown one."""
    path = home / PLANS_FILE
    plans: list[Json] = json.loads(path.read_text()) if path.exists() else []
    for plan in plans:
        if plan["TrainingPlanName"] == name:
            return plan
    raise ServiceError("ResourceNotFound", f"Training plan {name} does not exist")
