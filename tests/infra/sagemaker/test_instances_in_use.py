"""The look-up of instances in use makes a bounded number of calls, however many jobs the account has."""

from __future__ import annotations

import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from admission_values import Quotas

from infra.sagemaker.instances_in_use import MAX_DESCRIBED, PAGE_JOBS, PARALLEL
from infra.sagemaker.quotas import QuotaRequest, QuotaStatus, quota_statuses

Json = Any
P5, G6 = "ml.p5.48xlarge", "ml.g6.xlarge"


class Account:
    """An account with jobs in progress; counts calls, and how many Describe calls are under way at once."""

    def __init__(self, training: list[Json], processing: list[Json] | None = None, warm: list[Json] | None = None) -> None:
        self.jobs = {f"t-{i}": job for i, job in enumerate(training)}
        self.warm = {f"w-{i}": job for i, job in enumerate(warm or [])}
        self.processing = {f"p-{i}": job for i, job in enumerate(processing or [])}
        self.calls: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.meet: threading.Barrier | None = None

    def get_paginator(self, operation: str) -> Any:
        def paginate(PaginationConfig: Json, **condition: str) -> list[Json]:
            size = PaginationConfig["PageSize"]
            assert size <= 100
            if operation == "list_processing_jobs":
                key, names = "ProcessingJobSummaries", [{"ProcessingJobName": name} for name in self.processing]
            else:
                found = self.warm if "WarmPoolStatusEquals" in condition else self.jobs
                plans = {name: job["ResourceConfig"].get("TrainingPlanArn") for name, job in found.items()}
                key, names = "TrainingJobSummaries", [{"TrainingJobName": name, "TrainingPlanArn": plan} for name, plan in plans.items()]
            pages = [{key: names[start : start + size]} for start in range(0, len(names), size)] or [{key: []}]
            self.calls["list"] += len(pages)
            return pages

        return SimpleNamespace(paginate=paginate)

    def describe_training_job(self, TrainingJobName: str) -> Json:
        with self.lock:
            self.calls["describe"] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            first = self.calls["describe"] <= PARALLEL
        if first and self.meet is not None:
            self.meet.wait(timeout=30)  # passes only when that many calls are under way together
        with self.lock:
            self.at_once -= 1
        return (self.jobs | self.warm)[TrainingJobName]

    def describe_processing_job(self, ProcessingJobName: str) -> Json:
        with self.lock:
            self.calls["describe"] += 1
        return self.processing[ProcessingJobName]


def training(kind: str, count: int = 1, **more: Any) -> Json:
    return {"ResourceConfig": {"InstanceType": kind, "InstanceCount": count} | more}


def status(account: Account, limit: float, count: int = 4, kind: str = P5) -> QuotaStatus:
    request = QuotaRequest(path="compute.instance_count", use="training job", instance_type=kind, count=count)
    (found,) = quota_statuses([request], Quotas({request.quota: limit}, {}), account)
    return found


def test_500_jobs_of_other_types_take_a_bounded_number_of_calls() -> None:
    account = Account([training(G6)] * 500)
    account.meet = threading.Barrier(PARALLEL)
    found = status(account, limit=8)
    assert found.enough
    assert account.calls == {"list": 500 // PAGE_JOBS, "describe": MAX_DESCRIBED}
    assert (found.described, found.unseen) == (MAX_DESCRIBED, 500 - MAX_DESCRIBED)
    assert account.most_at_once == PARALLEL


def test_the_look_up_ends_once_no_answer_can_change() -> None:
    account = Account([training(P5, 2)] * 500)
    found = status(account, limit=8)
    assert not found.enough and account.calls["describe"] == 4 * PARALLEL
    assert "(at least 64 in use)" in found.message("us-east-1") and found.row("us-east-1")["unseen"] == 500 - 4 * PARALLEL


def test_few_jobs_are_counted_exactly() -> None:
    account = Account([training(P5, 2), training(G6), training(P5, 3)])
    found = status(account, limit=8)
    assert (found.used, found.unseen, found.enough) == (5, 0, False)
    assert "(5 in use)" in found.message("us-east-1")


def test_jobs_on_a_training_plan_are_not_described() -> None:
    account = Account([training(P5, 4, TrainingPlanArn="arn:plan")] * 200 + [training(P5, 1)])
    found = status(account, limit=8)
    assert (found.used, account.calls["describe"]) == (1, 1)


@pytest.mark.parametrize("use", ["spot training job", "training warm pool", "processing job"])
def test_every_use_counts_its_own_jobs(use: Any) -> None:
    spot = training(P5, 1) | {"EnableManagedSpotTraining": True}
    processing = {"ProcessingResources": {"ClusterConfig": {"InstanceType": P5, "InstanceCount": 3}}}
    account = Account([spot, training(P5, 5)], [processing], [training(P5, 2)])
    request = QuotaRequest(path="x", use=use, instance_type=P5, count=1)
    (found,) = quota_statuses([request], Quotas({request.quota: 9}, {}), account)
    assert found.used == {"spot training job": 1, "training warm pool": 2, "processing job": 3}[use]
