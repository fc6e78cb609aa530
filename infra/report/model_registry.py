"""Exported models as versions in SageMaker Model Registry (setting model_registry); infra/report/sinks.py.

Each leg that has exported becomes a version of its recipe's model package group, pending manual approval, with its metrics (a JSON file in
the leg's folder) and its lineage: image, data, training job, checkpoint, and what it began from. The export's address names the version:
a report that is repeated finds it, and a leg that trains on exports to a new folder and becomes a new version.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from infra.edge import log
from infra.report.evaluation import evaluated_numbers
from infra.report.read import Json, RunFacts
from infra.report.sinks import SAID, Delivery, SinkError, again
from infra.run.job_requests import DEPLOYMENT_TAG
from infra.run.layout import RunLayout, split_uri, uri
from infra.run.sink_settings import ModelRegistry, model_group

NAME = "Model Registry"
APPROVAL = "PendingManualApproval"
"""A person approves; the function's role can create nothing else."""
MOST_PROPERTIES, MOST_LETTERS = 50, 256
"""CustomerMetadataMap and CustomerMetadataValue of the service model; so is the pattern."""
VALUE = re.compile(r"[\w\s.:/=+\-@]+")
MISSING = ("ValidationException", "ResourceNotFound")
"""What describing a group answers that does not exist."""


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The registry, and how models are put into it."""

    settings: ModelRegistry
    deployment: str
    """Its name: groups are called ``<deployment>-<recipe>``."""
    tags: dict[str, str]
    """Further tags of groups; versions have those of their group."""
    sagemaker: Any
    s3: Any


def register(registry: Registry, document: Json, facts: RunFacts) -> Delivery | None:
    """Register every exported leg of the report document; None when there is none."""
    legs = [leg for leg in document["legs"] if leg["export"]]
    if not legs:
        return None
    recipe = str(facts.run.get("recipe") or "unknown")  # of a run.json that cannot be read; the role has no such group
    group, places, new, why = model_group(registry.deployment, recipe), dict[str, str](), 0, ""
    try:
        _make_group(registry, group, recipe)
        there = _registered(registry, group, facts)
        for leg in legs:
            found = there.get(description(facts, leg))
            places[leg["name"]] = found or _create(registry, group, leg, facts)
            new += found is None
    except Exception as error:  # whatever the registry answers must not cost the report
        if not isinstance(error, (SinkError, ClientError, BotoCoreError)):
            log.exception("registering models failed", error=type(error).__name__)
        why = _said(error)
    there_now = f"{len(places)} of {len(legs)} exported models in group {group}"
    told = (
        f"{NAME}: {why}; {there_now}; {again(facts)} registers the rest" if why else f"{NAME}: {there_now}, {new} new and pending approval"
    )
    return Delivery(sink=NAME, sentence=f"{told}.", complete=not why, sent=new, left=len(legs) - len(places), places=places)


def _said(error: Exception) -> str:
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return f"{error.operation_name}: {told.get('Code')} {str(told.get('Message', ''))[:SAID].rstrip('.')}"
    return type(error).__name__


def _make_group(registry: Registry, group: str, recipe: str) -> None:
    """The group, made where there is none."""
    try:
        registry.sagemaker.describe_model_package_group(ModelPackageGroupName=group)
        return
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in MISSING:
            raise
    tags = registry.tags | {DEPLOYMENT_TAG: registry.deployment}
    try:
        registry.sagemaker.create_model_package_group(
            ModelPackageGroupName=group,
            ModelPackageGroupDescription=f"Models of recipe {recipe}, trained by deployment {registry.deployment}",
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )
    except ClientError as error:
        if "already exists" not in str(error):  # another run's report has just made it
            raise


def _registered(registry: Registry, group: str, facts: RunFacts) -> dict[str, str]:
    """ARNs of the group's versions by their descriptions, those made since the run's first job."""
    since = min((job.created for job in facts.jobs), default=0.0)
    pages = registry.sagemaker.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName=group, ModelPackageType="Versioned", **({"CreationTimeAfter": since} if since else {})
    )
    return {
        str(one.get("ModelPackageDescription")): str(one["ModelPackageArn"]) for page in pages for one in page["ModelPackageSummaryList"]
    }


def _create(registry: Registry, group: str, leg: Json, facts: RunFacts) -> str:
    """One version; its ARN. The token makes a repeated call, before the list shows the first one's version, return that one."""
    body = json.dumps(model_metrics(leg, facts), indent=1, allow_nan=False).encode()
    bucket, export = split_uri(leg["export"])
    key = RunLayout(facts.run_id).model_metrics(leg["name"], export.rstrip("/").split("/")[-2])
    registry.s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")
    metrics = {"ContentType": "application/json", "S3Uri": uri(bucket, key), "ContentDigest": f"sha256:{hashlib.sha256(body).hexdigest()}"}
    request = package_request(registry.settings, group, leg, facts, metrics)
    return str(registry.sagemaker.create_model_package(**request)["ModelPackageArn"])


def description(facts: RunFacts, leg: Json) -> str:
    """What names a version: the address of its export, which each attempt has to itself."""
    return f"Run {facts.run_id}, leg {leg['name']}: {leg['export']}"


def package_request(settings: ModelRegistry, group: str, leg: Json, facts: RunFacts, metrics: Json) -> Json:
    """CreateModelPackage. Pure.

    A version names its weights by SourceUri, or in an InferenceSpecification when there is a container to serve them: the service refuses
    both in one call (aws/sagemaker-python-sdk#4492).
    """
    told = description(facts, leg)
    job = next((one for one in _descriptions(facts, leg["name"])), {})
    data = {"S3DataSource": {"S3Uri": leg["export"], "S3DataType": "S3Prefix", "CompressionType": "None"}}
    weights: Json = (
        {"SourceUri": leg["export"]}
        if settings.inference_image is None
        else {"InferenceSpecification": {"Containers": [{"Image": settings.inference_image, "ModelDataSource": data}]}}
    )
    return {
        "ModelPackageGroupName": group,
        "ModelPackageDescription": told,
        "ModelApprovalStatus": APPROVAL,
        "ModelMetrics": {"ModelQuality": {"Statistics": metrics}},
        "CustomerMetadataProperties": properties(leg, facts, job),
        **({"MetadataProperties": {"GeneratedBy": job["TrainingJobArn"]}} if job.get("TrainingJobArn") else {}),
        "ClientToken": str(uuid.uuid5(uuid.NAMESPACE_URL, told)),
        **weights,
    }


def _descriptions(facts: RunFacts, leg: str) -> Iterator[Json]:
    """Training jobs of the leg, the newest first; the one that completed before those that did not."""
    own = [job.description for job in reversed(facts.jobs) if job.leg == leg and job.stage == "train"]
    yield from sorted(own, key=lambda job: job.get("TrainingJobStatus") != "Completed")


def properties(leg: Json, facts: RunFacts, job: Json) -> dict[str, str]:
    """CustomerMetadataProperties: the model's lineage, and the figures one compares versions by. What the API cannot hold is left out;
    run.json has it."""
    run, figures = facts.run, leg["figures"]
    began = (run.get("initial") or {}).get(leg["name"]) or {}
    tokens = run.get("tokens") or {}
    found: dict[str, Any] = {
        "run": facts.run_id,
        "leg": leg["name"],
        "recipe": run.get("recipe"),
        "step": figures["steps"],
        "training_tokens": figures["tokens"],
        "parameters": figures["parameters"],
        "loss": figures["loss_last"],
        "validation_loss": figures["validation_loss"],
        "export": leg["export"],
        "checkpoint": next((one["uri"] for one in leg["kept_checkpoints"]), None),
        "tokens_fingerprint": tokens.get("fingerprint"),
        "image": (job.get("AlgorithmSpecification") or {}).get("TrainingImage") or (leg["environment"] or {}).get("image"),
        "source_hash": (run.get("image") or {}).get("tag"),
        "training_job": job.get("TrainingJobArn"),
        "execution": facts.execution_arn,
        "settings": uri(facts.bucket, RunLayout(facts.run_id).run_json),
        "began_from": began.get("source"),
        "began_from_files": began.get("uri"),
        "began_from_checksum": began.get("checksum"),
        **{f"tokens_fingerprint.{one.get('name')}": one.get("fingerprint") for one in tokens.get("sources") or ()},
    }
    texts = {key: str(value) for key, value in found.items() if value not in (None, "")}
    return dict([(key, text) for key, text in texts.items() if len(text) <= MOST_LETTERS and VALUE.fullmatch(text)][:MOST_PROPERTIES])


def model_metrics(leg: Json, facts: RunFacts) -> Json:
    """The file that ModelMetrics names: every figure of the leg, its sources' and its evaluation's. Losses in nats per token."""
    return {
        "version": 1,
        "run": facts.run_id,
        "leg": leg["name"],
        "figures": leg["figures"],
        "sources": leg["sources"],
        "evaluation": dict(evaluated_numbers(leg["evaluation"])),
    }
