"""Admit's checks: facts -> problems, one function for each reason to refuse a run. Pure; `doctor` and `plan` show the same problems.

Every check yields problems and none of them stops the others. A fact that is not known (None) is not judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from contracts.config import Json, Problem, suggestion
from contracts.mixture import refusals
from data_prep.spec import DataSpec
from infra.admit.data_sets import DataSet
from infra.admit.estimate import Estimate
from infra.admit.evaluation_data import LOCAL
from infra.admit.gather import Facts, Topic
from infra.admit.start_checks import Against, start_problems
from infra.run.compute import CapacitySource
from infra.run.evaluation import evaluation_type
from infra.run.job_requests import hub_references, preparations
from infra.run.mixing import leg_samples
from infra.run.run_spec import SINGLE_LEG, RunSpec
from infra.sagemaker.instance_types import GIB, INSTANCE_TYPES, accelerators_of
from infra.sagemaker.prices import no_price
from infra.sagemaker.quotas import QuotaStatus
from training.evaluation.spec import WEIGHTS_SHARE
from training.memory import device_bytes, parameter_count

GATED = ("meta-llama/", "mistralai/", "google/gemma")
"""Openings of Hugging Face repositories that ask for a token; others are tried without one."""


@dataclass(frozen=True)
class Finding:
    """A problem, and the line of `doctor` that it belongs to."""

    topic: Topic
    problem: Problem


def check(facts: Facts) -> list[Finding]:
    """Every reason to refuse the run."""
    spec, found = facts.spec, list[Finding]()

    def note(topic: Topic, problems: Iterable[Problem]) -> None:
        found.extend(Finding(topic, problem) for problem in problems)

    types: list[Problem] = []
    if facts.deployed is not None:
        note("Data", local_path_problems(spec.data, facts.deployed.bucket))
    if facts.source_refused is not None:
        note("Data", [Problem("data", facts.source_refused)])
    if facts.earlier is not None:
        note("Earlier run", facts.earlier.problems(facts.fingerprint))
    note("Data", mixing_problems(spec, facts.data_sets))
    if facts.starts:
        against = Against(
            hosts=spec.compute.instance_count, run_id=facts.run_id, fingerprint=facts.fingerprint, sources=spec.data.sources,
            tokenizer=facts.run_tokenizer,
        )  # fmt: skip
        note("Start", start_problems(spec, facts.starts, against))
    if facts.evaluation_data.refused is not None:
        note("Data", [Problem("evaluation", facts.evaluation_data.refused)])
    if facts.training_types is not None and facts.processing_types is not None:
        quotas = facts.quotas or []
        known = facts.training_types | offered(quotas, "training"), facts.processing_types | offered(quotas, "processing")
        types = list(type_problems(spec, *known))
        note("Instance types", types)
    note("Devices", device_problems(spec))
    note("Devices", network_problems(spec))
    note("Devices", evaluation_device_problems(spec))
    if facts.deployed is not None and facts.token is not None and not facts.prepared:
        note("Hub token", secret_problems(spec, facts.deployed.secret_arn, has_value=facts.token))
    if facts.training_plans is not None and not facts.trained:
        note("Capacity", training_plan_problems(spec, facts.training_plans))
    # A type that SageMaker does not have for this use has no quota and no price either: one sentence about it is enough.
    lacking = [quota for quota in facts.quotas or [] if not quota.enough and not (types and quota.limit is None)]
    note("Quotas", [Problem(quota.request.path, quota.message(facts.region)) for quota in lacking])
    if facts.costs.usd is not None or not types:
        note("Budget", budget_problems(spec, facts.costs))
    return found


def local_path_problems(data: DataSpec, bucket: str) -> Iterator[Problem]:
    """A job on SageMaker sees no folder of the machine that the input was written on."""
    for path, value in data.uris.items():
        if value.startswith(LOCAL):
            yield Problem(path, f'"{value}" is a path on one machine; upload it to s3://{bucket}/source/ and name that')


def mixing_problems(spec: RunSpec, sets: tuple[DataSet, ...] | None) -> Iterator[Problem]:
    """Every leg can be trained on the mixture, as far as the sources' sizes are known: those of prepared ones."""
    sizes = [None] * len(spec.data.sources) if sets is None else [one.training_tokens for one in sets]
    if spec.data.sources:
        legs = [leg_samples(leg.name, leg.training, spec.compute.instance_count) for leg in spec.legs]
        yield from (Problem("data.sources", sentence) for sentence in refusals(spec.data.sources, sizes, legs))


def offered(quotas: list[QuotaStatus], use: str) -> set[str]:
    """Types that Service Quotas has for training or processing; they exist, even if the service model of the Lambda runtime is older."""
    known = (quota.request for quota in quotas if quota.limit is not None and quota.request.scope == "type")
    return {request.instance_type for request in known if use in request.use}


def type_problems(spec: RunSpec, training_types: Collection[str], processing_types: Collection[str]) -> Iterator[Problem]:
    """SageMaker knows the types for the use that is made of them: ml.p5.48xlarge trains and does no processing."""
    for job in preparations(spec):
        if job.instance_type not in processing_types:
            yield Problem(f"{job.path}.instance_type", _unknown(job.instance_type, "processing", processing_types, training_types))
    for path, source in _sources(spec):
        kind = spec.compute.instance_type_of(source)
        if kind not in training_types:
            yield Problem(path, _unknown(kind, "training", training_types, processing_types))
    if spec.evaluation is not None and spec.evaluation.instance_type not in (None, *training_types):
        yield Problem("evaluation.instance_type", _unknown(evaluation_type(spec), "training", training_types, processing_types))


def _unknown(kind: str, use: str, known: Collection[str], other: Collection[str]) -> str:
    hint = "; ml.c7i, ml.m7i and ml.r7i are" if kind in other else suggestion(kind, known) if _close(kind, known) else ""
    return f'"{kind}" is no instance type for {use} jobs{hint}'


def _close(kind: str, known: Collection[str]) -> bool:
    return "did you mean" in suggestion(kind, known)


def device_problems(spec: RunSpec) -> Iterator[Problem]:
    """One rank for each GPU, and a step that fits its memory, on every type that a capacity source may bring."""
    for _, source in _sources(spec):
        gpus = accelerators_of(kind := spec.compute.instance_type_of(source))
        for leg in spec.legs:
            training = leg.training
            where = "training" if leg.name == SINGLE_LEG else f"legs.{leg.name}.training"
            if training.device == "cpu" or gpus is None:
                continue
            if training.processes_per_host != gpus.count:
                message = f"{training.processes_per_host} ranks on {kind}, which has {gpus.count} x {gpus.name}; one rank per GPU"
                yield Problem(f"{where}.processes_per_host", message)
                continue
            batch = source.local_batch_size or training.local_batch_size
            need = device_bytes(dataclasses.replace(training, local_batch_size=batch), spec.compute.instance_count) / GIB
            if need > gpus.memory_gib:
                needs = f"{batch} samples of {training.sequence_length} tokens need about {need:.0f} GiB on each {gpus.name} of {kind}"
                fix = "lower it or training.sequence_length, raise training.activation_checkpointing, or use more instances"
                yield Problem(f"{where}.local_batch_size", f"{needs}, which has {gpus.memory_gib:.0f} GiB; {fix}")


def network_problems(spec: RunSpec) -> Iterator[Problem]:
    """Several CUDA hosts have EFA between them: the training job pins NCCL to it and stops without it (training/cluster.py)."""
    if spec.compute.instance_count == 1 or all(leg.training.device == "cpu" for leg in spec.legs):
        return
    for path, source in _sources(spec):
        kind = spec.compute.instance_type_of(source)
        row = INSTANCE_TYPES.get(kind)
        if row is not None and row.accelerators is not None and not row.efa:
            fix = "set compute.instance_count to 1, or choose a type with EFA such as ml.g5.48xlarge or ml.p5.48xlarge"
            yield Problem(path, f"{spec.compute.instance_count} x {kind} cannot train together: the type has no EFA network; {fix}")


def evaluation_device_problems(spec: RunSpec) -> Iterator[Problem]:
    """The evaluation's instance has the leg's kind of device, and its GPUs together hold the export."""
    if spec.evaluation is None:
        return
    gpus, kind = accelerators_of(evaluation_type(spec)), evaluation_type(spec)
    for leg in spec.legs:
        if leg.training.device == "cpu" or kind not in INSTANCE_TYPES:
            continue
        if gpus is None:
            yield Problem(
                "evaluation.instance_type", f"{kind} has no GPU, and leg {leg.name} is for cuda; choose one such as ml.g5.2xlarge"
            )
            continue
        need = parameter_count(leg.training.model) * (2 if leg.training.export.dtype == "bfloat16" else 4) / GIB
        room = gpus.count * gpus.memory_gib * WEIGHTS_SHARE
        if need > room:
            needs = f"the export of leg {leg.name} has {need:.0f} GiB of weights, and {kind} has room for {room:.0f} GiB"
            fix = "choose a type with more GPU memory" + ("" if leg.training.export.dtype == "bfloat16" else ", or export bfloat16")
            yield Problem("evaluation.instance_type", f"{needs} ({WEIGHTS_SHARE:.0%} of {gpus.count} x {gpus.memory_gib:.0f}); {fix}")


def needs_token(spec: RunSpec) -> list[str]:
    """The gated repositories that the run names."""
    names = (value.removeprefix("hf://").removeprefix("datasets/") for value in hub_references(spec))
    return [name for name in names if name.startswith(GATED)]


def secret_problems(spec: RunSpec, secret_arn: str, *, has_value: bool) -> Iterator[Problem]:
    """Something gated is named, so a token must be there. Whether it opens the repository, only the job can tell."""
    gated = needs_token(spec)
    if gated and not has_value:
        yield Problem(
            "data",
            f"{' and '.join(gated)} asks for a Hugging Face token, and the secret {secret_arn} is empty; accept the licence on the Hub "
            f"and run `aws secretsmanager put-secret-value --secret-id {secret_arn} --secret-string hf_...`",
        )


def training_plan_problems(spec: RunSpec, plans: Mapping[str, Json | str]) -> Iterator[Problem]:
    """The reserved capacity exists, serves training jobs, has the type and enough instances. ``plans``: see ``Facts``."""
    for number, source in enumerate(spec.compute.capacity):
        if source.training_plan_arn is None:
            continue
        path = f"compute.capacity[{number}].training_plan_arn"
        name = source.training_plan_arn.rsplit("/", 1)[-1]
        plan = plans[source.training_plan_arn]
        if isinstance(plan, str):
            yield Problem(path, f'the training plan "{name}" cannot be described: {plan}')
            continue
        kinds = {capacity["InstanceType"] for capacity in plan.get("ReservedCapacitySummaries", [])}
        if plan["Status"] not in ("Active", "Scheduled"):
            yield Problem(path, f'the training plan "{name}" is {plan["Status"]}; name one that is Active or Scheduled')
        if "training-job" not in plan.get("TargetResources", ["training-job"]):
            yield Problem(path, f'the training plan "{name}" is for {", ".join(plan["TargetResources"])}, not for training jobs')
        if kinds and (kind := spec.compute.instance_type_of(source)) not in kinds:
            yield Problem(path, f'the training plan "{name}" reserves {", ".join(sorted(kinds))}, not {kind}')
        if plan["Status"] == "Active" and plan.get("AvailableInstanceCount", spec.compute.instance_count) < spec.compute.instance_count:
            free, needed = plan["AvailableInstanceCount"], spec.compute.instance_count
            yield Problem(path, f'the training plan "{name}" has {free} instances free, and the run needs {needed}')


def budget_problems(spec: RunSpec, costs: Estimate) -> Iterator[Problem]:
    """The estimate is within the budget; without a price the budget could not be kept."""
    if costs.usd is None:
        wanted = {spec.compute.instance_type_of(source) for source in spec.compute.capacity}
        if costs.prepare_max_usd is None:
            wanted |= {job.instance_type for job in preparations(spec)}
        if costs.evaluation_max_usd is None:
            wanted.add(evaluation_type(spec))
        yield Problem("budget.max_usd", no_price(wanted - set(costs.usd_per_hour)))
        return
    if costs.usd > spec.budget.max_usd:
        evaluations = f", each evaluation ${costs.evaluation_max_usd:,.2f}" if costs.evaluation_max_usd else ""
        legs = ", ".join(f"{leg.name} {leg.seconds / 3600:.1f} h ${leg.usd or 0:,.2f}" for leg in costs.legs)
        yield Problem(
            "budget.max_usd",
            f"{spec.budget.max_usd:g} is less than the ${costs.usd:,.2f} that the run is estimated to cost ({legs}; preparation at most "
            f"${costs.prepare_max_usd or 0:,.2f}{evaluations}); raise it, or train fewer steps",
        )


def _sources(spec: RunSpec) -> Iterator[tuple[str, CapacitySource]]:
    for number, source in enumerate(spec.compute.capacity):
        yield (f"compute.capacity[{number}].instance_type" if source.instance_type else "compute.instance_type"), source
