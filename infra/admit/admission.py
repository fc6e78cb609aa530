"""Admit: an execution's input -> the plan that the state machine carries out, or one refusal with every reason.

Nothing is created before the last check has passed; then the run's lock and run.json are written.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

from contracts.config import Json, Problem, SpecError
from contracts.failure import JobFailure
from data_prep.sources import Identified, identify, resolve_uris
from infra.admit import checks as checks
from infra.admit import plan
from infra.admit.continued import continued
from infra.admit.estimate import Estimate, estimate
from infra.edge import log
from infra.edge.transient import transient_cause
from infra.run import run_lock
from infra.run.deployment import Deployment
from infra.run.job_requests import needs_hugging_face
from infra.run.layout import RunLayout, index_key, tokens_prefix, uri
from infra.run.quota_requests import quota_requests
from infra.run.run_spec import RunSpec, as_input, resolve
from infra.sagemaker.prices import PriceOf
from infra.sagemaker.quotas import QuotaStatus, quota_statuses


class Refused(JobFailure):
    """The input cannot run here; the sentence lists every reason."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"({n}) {p}" for n, p in enumerate(problems, 1)) if len(problems) > 1 else str(problems[0]))


@dataclass(frozen=True, kw_only=True)
class Execution:
    """The execution that asks."""

    arn: str
    name: str
    started: str
    """ISO 8601."""

    @property
    def region(self) -> str:
        """Region, from the ARN."""
        return self.arn.split(":")[3]


@dataclass(frozen=True, kw_only=True)
class Clients:
    """AWS clients of Admit, and what they are asked once."""

    s3: Any
    ecr: Any
    states: Any
    sagemaker: Any
    quotas: Any
    secrets: Any
    price: PriceOf

    def instance_types(self, use: str) -> list[str]:
        """SageMaker's own list of types: ``use`` is Training or Processing."""
        shape = self.sagemaker.meta.service_model.shape_for(f"{use}InstanceType")
        return list(shape.enum)


def run_id_of(spec: RunSpec, execution: Execution) -> str:
    """The input's run_id, else the schedule's name and minute, else the execution's name, in the letters that a run id may have."""
    if spec.run_id:
        return spec.run_id
    name = execution.name
    if spec.schedule is not None:
        minute = "" if spec.schedule.resume == "latest" else re.sub(r"[^0-9T]", "", spec.schedule.time[:16])
        name = f"{spec.schedule.name}-{minute}"
    return re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")[:80].rstrip("-")


def admit(value: object, execution: Execution, deployment: Deployment, clients: Clients) -> Json:
    """The plan; ``{"run_id", "skipped": reason}`` when a schedule's earlier firing still runs and this one gives way.

    Raises:
        Refused: with every reason that could be found.
    """
    spec = _resolved(value, deployment)
    layout = RunLayout(run_id_of(spec, execution))
    log.about(run_id=layout.run_id)
    if spec.schedule is not None and spec.schedule.concurrency == "skip":
        # The schedule itself is locked like a run of its name, so that firings give way whatever run they would make.
        reason = _taken(clients, deployment, RunLayout(spec.schedule.name), execution)
        if reason is not None:
            return {"run_id": layout.run_id, "skipped": reason}
    before = continued(spec, layout, clients.s3, deployment.bucket)
    spec = before.spec
    problems: list[Problem] = []
    source = _identify(spec, deployment, clients, problems)
    problems.extend(before.problems(source.fingerprint if source else None))
    prepared = source is not None and _exists(clients.s3, deployment.bucket, index_key(source.fingerprint))
    costs = estimate(spec, clients.price, prepared=prepared, done_steps=before.done_steps)
    quotas, token = _checked(spec, costs, deployment, clients, execution, problems, prepared=prepared)
    if problems or source is None:
        raise Refused(tuple(problems))
    if (reason := _taken(clients, deployment, layout, execution)) is not None:
        raise Refused((Problem("run_id", reason),))
    tokens = {"fingerprint": source.fingerprint, "uri": uri(deployment.bucket, tokens_prefix(source.fingerprint))}
    admitted = {
        "execution_arn": execution.arn,
        "time": execution.started,
        "estimate": costs.as_value(),
        "quotas": [quota.row(execution.region) for quota in quotas],
        "source": {"uri": source.listing.uri, "objects": len(source.listing.objects), "bytes": source.listing.total_bytes},
    }
    content = as_input(spec) | {"run_id": layout.run_id, "tokens": tokens, "image": {"tag": deployment.image_tag}, "admitted": admitted}
    body = json.dumps(content, indent=1).encode()
    clients.s3.put_object(Bucket=deployment.bucket, Key=layout.run_json, Body=body, ContentType="application/json")
    planner = plan.Planner(
        spec=spec,
        layout=layout,
        deployment=deployment,
        price=clients.price,
        execution_arn=execution.arn,
        tokens_uri=tokens["uri"],
        source_bytes=source.listing.total_bytes,
        token=token,
    )
    return {
        "run_id": layout.run_id,
        "run_uri": uri(deployment.bucket, layout.prefix),
        "recipe": spec.recipe,
        "admitted": admitted,
        "image": plan.image(clients.ecr, deployment),
        "tokens": tokens | {"exist": prepared},
        "prepare": planner.prepare(),
        "train": planner.train(),
        "legs": [planner.leg(leg, cost) for leg, cost in zip(spec.legs, costs.legs, strict=True)],
    }


def _resolved(value: object, deployment: Deployment) -> RunSpec:
    try:
        spec = resolve(value, default_recipe=deployment.default_recipe)
    except SpecError as error:
        raise Refused(error.problems) from None
    problems = tuple(checks.local_path_problems(spec.data, deployment.bucket))
    if problems:
        raise Refused(problems)
    return dataclasses.replace(spec, data=resolve_uris(spec.data, deployment.bucket))


def _identify(spec: RunSpec, deployment: Deployment, clients: Clients, problems: list[Problem]) -> Identified | None:
    try:
        return identify(spec.data, clients.s3)
    except JobFailure as failure:
        if transient_cause(failure):
            raise  # the edge turns it into TransientFault, which is tried again
        problems.append(Problem("data", failure.sentence))
        return None


def _checked(
    spec: RunSpec,
    costs: Estimate,
    deployment: Deployment,
    clients: Clients,
    execution: Execution,
    problems: list[Problem],
    *,
    prepared: bool,
) -> tuple[list[QuotaStatus], bool]:
    """Run every check; returns the quota table and whether the Hugging Face token is set."""
    token = needs_hugging_face(spec.data) and checks.secret_has_value(clients.secrets, deployment.secret_arn)
    types = list(checks.type_problems(spec, clients.instance_types("Training"), clients.instance_types("Processing")))
    problems.extend(types)
    problems.extend(checks.device_problems(spec))
    problems.extend(checks.network_problems(spec))
    if not prepared:
        problems.extend(checks.secret_problems(spec.data, deployment.secret_arn, has_value=token))
    problems.extend(checks.training_plan_problems(spec, clients.sagemaker))
    unknown = {problem.path for problem in types}
    quotas = quota_statuses(quota_requests(spec, prepared=prepared), clients.quotas, clients.sagemaker)
    # A type that SageMaker does not have for this use has no quota either: one sentence about it is enough.
    problems.extend(
        Problem(quota.request.path, quota.message(execution.region))
        for quota in quotas
        if not quota.enough and not (unknown and quota.limit is None)
    )
    if costs.usd is not None or not types:  # nor a price
        problems.extend(checks.budget_problems(spec, costs))
    return quotas, token


def _taken(clients: Clients, deployment: Deployment, layout: RunLayout, execution: Execution) -> str | None:
    """Take the lock; returns who holds it when that fails."""
    try:
        run_lock.acquire(clients.s3, clients.states, deployment.bucket, layout, execution.arn)
    except run_lock.RunIsActive as active:
        return str(active)
    return None


def _exists(s3: Any, bucket: str, key: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except s3.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
            return False
        raise
    return True
