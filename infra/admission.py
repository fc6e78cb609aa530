"""Admit: an execution's input -> the plan that the state machine carries out, or one refusal with every reason.

Nothing is created before the last check has passed; then the run's lock and run.json are written.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from dataclasses import dataclass
from typing import Any

from data_prep.failure import JobFailure
from data_prep.sources import Identified, identify, resolve_uris
from data_prep.strict import Json, Problem, SpecError, to_json
from infra import run_lock
from infra.attempts import MIN_USEFUL_SECONDS, Limits, Source, first_attempt, write_attempt
from infra.deployment import Deployment
from infra.estimate import Estimate, LegEstimate, PriceOf, estimate, source_type
from infra.job_requests import job_name, prepare_request, training_request
from infra.layout import RunLayout, index_key, tokens_prefix, uri
from infra.quotas import Use, Want, table
from infra.run_spec import Leg, RunSpec, as_input, resolve

# Text is about 4 bytes a token and a shard holds 4 bytes a token, so shards are about as large as the plain text;
# sources are mostly compressed, about 3 to 1.
SHARD_BYTES_PER_SOURCE_BYTE = 3
CAPACITY_WAIT_SECONDS = 3600  # pauses on one capacity source before the next: freed instances show up within minutes or not today


class Refused(JobFailure):
    """The input cannot run here; the sentence lists every reason."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"({n}) {p}" for n, p in enumerate(problems, 1)) if len(problems) > 1 else str(problems[0]))


@dataclass(frozen=True)
class Execution:
    """The execution that asks."""

    arn: str
    name: str
    started: str

    @property
    def region(self) -> str:
        """Region, from the ARN."""
        return self.arn.split(":")[3]


@dataclass(frozen=True)
class Clients:
    """AWS clients of Admit."""

    s3: Any
    ecr: Any
    states: Any
    sagemaker: Any
    quotas: Any
    price: PriceOf

    @classmethod
    def from_boto3(cls, region: str) -> Clients:
        """Clients of the function's own region and role."""
        import boto3

        from infra.prices import on_demand_usd_per_hour

        s3, ecr, states, sagemaker, quotas = (boto3.client(name) for name in ("s3", "ecr", "stepfunctions", "sagemaker", "service-quotas"))
        return cls(s3, ecr, states, sagemaker, quotas, lambda use, instance_type: on_demand_usd_per_hour(instance_type, region))


def run_id_of(spec: RunSpec, execution: Execution) -> str:
    """The input's run_id, else the schedule's name and minute, else the execution's name, in the letters that a run id may have."""
    if spec.run_id:
        return spec.run_id
    name = execution.name
    if spec.schedule is not None:
        name = f"{spec.schedule.name}-{re.sub(r'[^0-9T]', '', spec.schedule.time[:16])}"
    return re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")[:80].rstrip("-")


def admit(value: object, execution: Execution, deployment: Deployment, clients: Clients) -> Json:
    """The plan.

    Raises:
        Refused: with every reason that could be found.
    """
    try:
        spec = resolve(value, default_recipe=deployment.default_recipe)
    except SpecError as error:
        raise Refused(error.problems) from None
    spec = dataclasses.replace(spec, data=resolve_uris(spec.data, deployment.bucket))
    problems: list[Problem] = []
    source = _identify(spec, deployment, clients, problems)
    prepared = source is not None and _exists(clients.s3, deployment.bucket, index_key(source.fingerprint))
    lines = table(wants(spec, prepared=prepared), clients.quotas, clients.sagemaker)
    problems.extend(Problem(line.want.path, line.message(execution.region)) for line in lines if not line.enough)
    costs = estimate(spec, clients.price, prepared=prepared)
    problems.extend(_budget_problems(spec, costs))
    if problems or source is None:
        raise Refused(tuple(problems))
    layout = RunLayout(run_id_of(spec, execution))
    try:
        run_lock.acquire(clients.s3, clients.states, deployment.bucket, layout, execution.arn)
    except run_lock.RunIsActive as active:
        raise Refused((Problem("run_id", str(active)),)) from None
    tokens_uri = uri(deployment.bucket, tokens_prefix(source.fingerprint))
    admitted = {
        "execution_arn": execution.arn,
        "time": execution.started,
        "estimate": costs.as_value(),
        "quotas": [line.row(execution.region) for line in lines],
        "source": {"uri": source.listing.uri, "objects": len(source.listing.objects), "bytes": source.listing.total_bytes},
    }
    content = as_input(spec) | {
        "run_id": layout.run_id,
        "tokens": {"fingerprint": source.fingerprint, "uri": tokens_uri},
        "image": {"tag": deployment.image_tag},
        "admitted": admitted,
    }
    body = json.dumps(content, indent=1).encode()
    clients.s3.put_object(Bucket=deployment.bucket, Key=layout.run_json, Body=body, ContentType="application/json")
    return {
        "run_id": layout.run_id,
        "run_uri": uri(deployment.bucket, layout.prefix),
        "recipe": spec.recipe,
        "admitted": admitted,
        "image": _image(clients.ecr, deployment),
        "tokens": content["tokens"] | {"exist": prepared},
        "prepare": _prepare(spec, layout, deployment, clients.price, execution),
        "legs": [
            _leg(spec, leg, cost, layout, deployment, clients.price, execution, tokens_uri, source.listing.total_bytes)
            for leg, cost in zip(spec.legs, costs.legs, strict=True)
        ],
    }


def _identify(spec: RunSpec, deployment: Deployment, clients: Clients, problems: list[Problem]) -> Identified | None:
    """The source and the data fingerprint, or a problem."""
    data = spec.data
    for path, value in (("data.source", data.source), ("data.tokenizer.uri", data.tokenizer.uri or "")):
        if value.startswith(("/", "./", "file://")):
            problems.append(
                Problem(path, f'"{value}" is a folder of one machine; upload it to s3://{deployment.bucket}/source/ and name that')
            )
    if problems:
        return None
    try:
        return identify(data, clients.s3)
    except JobFailure as failure:
        problems.append(Problem("data", failure.sentence))
        return None


def wants(spec: RunSpec, *, prepared: bool) -> list[Want]:
    """The instances that the run's jobs need."""
    found: list[Want] = []
    if not prepared:
        found.append(
            Want(path="data.instance_count", use="processing job", instance_type=spec.data.instance_type, count=spec.data.instance_count)
        )
    for source in spec.compute.capacity:
        if source.kind == "training_plan":
            continue  # reserved instances are outside the quotas
        use: Use = "spot training job" if source.kind == "spot" else "training job"
        instance_type = source_type(spec, source)
        found.append(Want(path="compute.instance_count", use=use, instance_type=instance_type, count=spec.compute.instance_count))
        if spec.compute.keep_alive_seconds and source.kind == "on_demand":
            pool = Want(
                path="compute.keep_alive_seconds", use="training warm pool", instance_type=instance_type, count=spec.compute.instance_count
            )
            found.append(pool)
    return found


def _budget_problems(spec: RunSpec, costs: Estimate) -> list[Problem]:
    if costs.usd is None:
        kinds = sorted({spec.data.instance_type, *(source_type(spec, source) for source in spec.compute.capacity)})
        return [
            Problem(
                "budget.max_usd",
                f"no price is known for one of {', '.join(kinds)}, so the budget cannot be kept; add it to infra/prices.py",
            )
        ]
    if costs.usd > spec.budget.max_usd:
        shown = ", ".join(
            f"{leg.name} {leg.seconds / 3600:.1f} h ${leg.usd:,.2f}" for leg in costs.legs if leg.seconds and leg.usd is not None
        )
        message = (
            f"{spec.budget.max_usd:g} is less than the ${costs.usd:,.2f} that this run is estimated to cost ({shown}; "
            f"preparation ${costs.prepare_max_usd or 0:,.2f} at most); raise it, or train fewer steps"
        )
        return [Problem("budget.max_usd", message)]
    return []


def _image(ecr: Any, deployment: Deployment) -> Json:
    """Digests of the two images when both tags exist."""
    tags = {name: f"{name}-{deployment.image_tag}" for name in ("data_prep", "training")}
    found: Json = {"tag": deployment.image_tag, "exists": False}
    for name, tag in tags.items():
        try:
            details = ecr.describe_images(repositoryName=deployment.repository, imageIds=[{"imageTag": tag}])["imageDetails"]
        except ecr.exceptions.ImageNotFoundException:
            details = []
        if not details:
            return {"tag": deployment.image_tag, "exists": False}
        found[name] = f"{deployment.repository_uri}@{details[0]['imageDigest']}"
    return found | {"exists": True}


def _prepare(spec: RunSpec, layout: RunLayout, deployment: Deployment, price: PriceOf, execution: Execution) -> Json:
    per_instance = price("processing", spec.data.instance_type)
    per_hour = None if per_instance is None else per_instance * spec.data.instance_count
    source = Source(kind="on_demand", instance_type=spec.data.instance_type, usd_per_hour=per_hour)
    limits = Limits(
        max_attempts=spec.compute.max_attempts,
        max_runtime_seconds=spec.data.max_runtime_seconds,
        max_usd=None,
        max_wait_seconds=CAPACITY_WAIT_SECONDS,
    )
    return {
        "job": job_name("prepare", layout.run_id, execution.arn),
        "request": prepare_request(spec, layout, deployment),
        "limits": to_json(limits),
        "sources": [to_json(source)],
        "attempt": write_attempt(first_attempt(limits, (source,))),
    }


def _leg(
    spec: RunSpec,
    leg: Leg,
    cost: LegEstimate,
    layout: RunLayout,
    deployment: Deployment,
    price: PriceOf,
    execution: Execution,
    tokens_uri: str,
    source_bytes: int,
) -> Json:
    compute = spec.compute
    sources = []
    for source in compute.capacity:
        per_instance = price("training", source_type(spec, source))
        per_hour = None if per_instance is None else per_instance * compute.instance_count
        sources.append(Source(kind=source.kind, instance_type=source_type(spec, source), usd_per_hour=per_hour))
    limits = Limits(
        max_attempts=compute.max_attempts,
        max_runtime_seconds=compute.max_runtime_seconds,
        max_usd=cost.max_usd,
        max_wait_seconds=CAPACITY_WAIT_SECONDS,
        min_runtime_seconds=MIN_USEFUL_SECONDS,
    )
    tokens_bytes = source_bytes * SHARD_BYTES_PER_SOURCE_BYTE
    return {
        "name": leg.name,
        "job": job_name(leg.name, layout.run_id, execution.arn),
        "requests": [training_request(spec, leg, source, layout, deployment, tokens_uri, tokens_bytes) for source in compute.capacity],
        "sources": [to_json(source) for source in sources],
        "limits": to_json(limits),
        "attempt": write_attempt(first_attempt(limits, tuple(sources))),
    }


def _exists(s3: Any, bucket: str, key: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except s3.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
            return False
        raise
    return True


def execution_of(event: Json) -> Execution:
    """The execution part of Admit's event."""
    started = event["execution"].get("started") or datetime.datetime.now(datetime.UTC).isoformat()
    return Execution(arn=event["execution"]["arn"], name=event["execution"]["name"], started=str(started))
