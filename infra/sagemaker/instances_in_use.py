"""Instances that the account's jobs hold now, in a bounded number of calls.

ListTrainingJobs and ListProcessingJobs name 100 jobs a call and no instance types, so each job needs a Describe call. These go out
``PARALLEL`` at a time, newest job first, and end as soon as no answer can change, at the latest after ``MAX_DESCRIBED`` of them:
then the count is a lower bound, and a run that does not fit after all waits for capacity like any other.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from contracts.config import Json

Use = Literal["training job", "spot training job", "training warm pool", "processing job"]
Instances = Counter[tuple[str, str]]
"""Instances by use and type."""
PARALLEL = 8
"""Describe calls at once; botocore keeps 10 connections."""
MAX_DESCRIBED = 300
"""About 2 s at 50 ms a call, and 30 s where SageMaker answers 10 a second: well within the three minutes that Admit has."""
PAGE_JOBS = 100
"""Jobs of one List call: the most; the default is 10."""


@dataclass(frozen=True, kw_only=True)
class InUse:
    """What a look-up found."""

    instances: Instances
    described: int
    """Describe calls that it took."""
    unseen: int
    """Jobs that were not described, so that ``instances`` is a lower bound; 0 when it is exact."""


@dataclass(frozen=True)
class _Job:
    kind: Literal["training", "warm pool", "processing"]
    name: str


def in_use(sagemaker: Any, uses: set[Use], settled: Callable[[Instances], bool]) -> InUse:
    """Instances that jobs in progress and warm pools hold.

    Args:
        sagemaker: a boto3 SageMaker client.
        uses: what is asked for.
        settled: whether these instances are so many that more of them change no answer.
    """
    jobs = list(_jobs(sagemaker, uses))
    instances: Instances = Counter()
    described = 0
    with ThreadPoolExecutor(PARALLEL) as pool:
        while described < min(len(jobs), MAX_DESCRIBED) and not (described and settled(instances)):
            batch = jobs[described : min(described + 4 * PARALLEL, MAX_DESCRIBED)]
            for held in pool.map(lambda job: _held(sagemaker, job), batch):
                instances.update(held)
            described += len(batch)
    return InUse(instances=instances, described=described, unseen=len(jobs) - described)


def _jobs(sagemaker: Any, uses: set[Use]) -> Iterator[_Job]:
    """Every job that can hold instances of these uses; those on a training plan hold the plan's, which no quota counts."""
    if uses & {"training job", "spot training job", "training warm pool"}:
        for summary in _listed(sagemaker, "list_training_jobs", "TrainingJobSummaries", StatusEquals="InProgress"):
            if not summary.get("TrainingPlanArn"):
                yield _Job("training", summary["TrainingJobName"])
    if "training warm pool" in uses:
        for summary in _listed(sagemaker, "list_training_jobs", "TrainingJobSummaries", WarmPoolStatusEquals="Available"):
            yield _Job("warm pool", summary["TrainingJobName"])
    if "processing job" in uses:
        for summary in _listed(sagemaker, "list_processing_jobs", "ProcessingJobSummaries", StatusEquals="InProgress"):
            yield _Job("processing", summary["ProcessingJobName"])


def _listed(sagemaker: Any, operation: str, key: str, **condition: str) -> Iterator[Json]:
    pages = sagemaker.get_paginator(operation).paginate(PaginationConfig={"PageSize": PAGE_JOBS}, **condition)
    return itertools.chain.from_iterable(page.get(key, []) for page in pages)


def _held(sagemaker: Any, job: _Job) -> Instances:
    if job.kind == "processing":
        cluster = sagemaker.describe_processing_job(ProcessingJobName=job.name)["ProcessingResources"]["ClusterConfig"]
        return Counter({("processing job", str(cluster["InstanceType"])): int(cluster["InstanceCount"])})
    found: Json = sagemaker.describe_training_job(TrainingJobName=job.name)
    resources = found.get("ResourceConfig", {})
    if not resources.get("InstanceType") or resources.get("TrainingPlanArn"):
        return Counter()
    use = (
        "training warm pool"
        if job.kind == "warm pool"
        else "spot training job"
        if found.get("EnableManagedSpotTraining")
        else "training job"
    )
    return Counter({(use, str(resources["InstanceType"])): int(resources.get("InstanceCount", 1))})
