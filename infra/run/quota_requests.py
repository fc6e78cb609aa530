"""RunSpec -> the SageMaker quotas that its jobs need. Asked by Admit, by the monitor's daily check, at deployment and by `doctor`. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from infra.run.evaluation import evaluation_type
from infra.run.job_requests import preparations
from infra.run.run_spec import RunSpec
from infra.sagemaker.instances_in_use import Use
from infra.sagemaker.quotas import QuotaRequest, Scope


def quota_requests(
    spec: RunSpec, *, cleaned: bool = False, prepared: bool, trained: bool = False, evaluated: bool = False
) -> list[QuotaRequest]:
    """The instances that the run's jobs need at once, by quota.

    Args:
        spec: the run.
        cleaned, prepared: see job_requests.preparations.
        trained, evaluated: no leg is trained, or evaluated, since an earlier execution did so.
    """
    compute = spec.compute
    found: list[QuotaRequest] = []
    for job in preparations(spec, cleaned=cleaned, prepared=prepared):
        found += _of_job(job.path, "processing job", job.instance_type, job.instance_count, job.max_runtime_seconds)
    for source in () if trained else compute.capacity:
        use: Use = "spot training job" if source.kind == "spot" else "training job"
        kind, count = compute.instance_type_of(source), compute.instance_count
        asked = _of_job("compute", use, kind, count, compute.max_runtime_seconds)
        if source.kind == "training_plan":  # reserved instances are outside the quotas of instances
            found += [request for request in asked if request.scope == "run_time"]
            continue
        found += asked
        if compute.keep_alive_seconds and source.kind == "on_demand":  # spot and plans keep no warm pool
            found.append(QuotaRequest(path="compute.keep_alive_seconds", use="training warm pool", instance_type=kind, count=count))
    if spec.evaluation is not None and not evaluated:  # after its leg has trained, and before the next one does
        kind, seconds = evaluation_type(spec), spec.evaluation.max_runtime_seconds
        for one in _of_job("evaluation", "training job", kind, 1, seconds):
            found.append(one if one.scope == "run_time" else dataclasses.replace(one, path="evaluation.instance_type"))
    return found


def _of_job(part: str, use: Use, instance_type: str, count: int, seconds: int) -> Iterator[QuotaRequest]:
    """Of one job: instances of its type, in it, and among all jobs of its kind; and its longest run time."""
    scopes: tuple[Scope, ...] = ("type", "job", "all")
    for scope in scopes:
        yield QuotaRequest(path=f"{part}.instance_count", use=use, instance_type=instance_type, count=count, scope=scope)
    yield QuotaRequest(path=f"{part}.max_runtime_seconds", use=use, instance_type=instance_type, count=seconds, scope="run_time")
