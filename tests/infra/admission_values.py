"""Values shared by tests of Admit: a deployment, an execution, a resolved input, prices of the dated table, quotas, a running job."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from infra.admit.commit import Execution
from infra.run.deployment import Deployment
from infra.run.run_spec import RunSpec, resolve
from infra.sagemaker.instance_types import INSTANCE_TYPES
from infra.sagemaker.prices import table_usd_per_hour

DEPLOYMENT = Deployment(
    name="pretrain",
    bucket="data",
    key_arn="arn:aws:kms:us-east-1:111122223333:key/k",
    repository="images",
    repository_uri="111122223333.dkr.ecr.us-east-1.amazonaws.com/images",
    image_tag="0123456789abcdef01234567",
    prepare_role_arn="arn:aws:iam::111122223333:role/prepare",
    evaluate_role_arn="arn:aws:iam::1:role/evaluate",
    training_role_arn="arn:aws:iam::111122223333:role/training",
    secret_arn="arn:aws:secretsmanager:us-east-1:111122223333:secret:s",
    default_recipe="llama3_8b",
)
EXECUTION = Execution(arn="arn:aws:states:us-east-1:111122223333:execution:machine:e1", name="e1", started="2026-11-22T00:00:00Z")
Json = Any


def spec(value: Json | None = None, recipe: str = "llama3_8b") -> RunSpec:
    return resolve(value or {}, default_recipe=recipe)


def price(use: str, kind: str) -> float | None:
    return table_usd_per_hour(kind)


class Quotas:
    """ListServiceQuotas and ListAWSDefaultServiceQuotas."""

    def __init__(self, applied: dict[str, float], defaults: dict[str, float]) -> None:
        self.read = 0
        self.lists = {"list_service_quotas": applied, "list_aws_default_service_quotas": defaults}

    def get_paginator(self, name: str) -> Any:
        self.read += 1
        values = self.lists[name]
        page = {"Quotas": [{"QuotaName": k, "Value": v, "QuotaCode": "L-1"} for k, v in values.items()]}
        return SimpleNamespace(paginate=lambda **_: [page])


class Jobs:
    """One training job in progress on two instances."""

    def get_paginator(self, name: str) -> Any:
        found = [{"TrainingJobName": "other"}] if name == "list_training_jobs" else []
        return SimpleNamespace(paginate=lambda **_: [{"TrainingJobSummaries": found, "ProcessingJobSummaries": []}])

    def describe_training_job(self, TrainingJobName: str) -> Json:
        return {"ResourceConfig": {"InstanceType": "ml.p5.48xlarge", "InstanceCount": 2}}


class SageMaker(Jobs):
    """The same, with the types of our table as SageMaker's own."""

    meta = SimpleNamespace(service_model=SimpleNamespace(shape_for=lambda name: SimpleNamespace(enum=sorted(INSTANCE_TYPES))))
