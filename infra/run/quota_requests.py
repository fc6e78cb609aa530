"""RunSpec -> the SageMaker quotas that its jobs need. Asked by Admit, by the monitor's daily check, at deployment and by `doctor`. Pure."""

from __future__ import annotations

from infra.run.run_spec import RunSpec
from infra.sagemaker.quotas import QuotaRequest, Use


def quota_requests(spec: RunSpec, *, prepared: bool) -> list[QuotaRequest]:
    """The instances that the run's jobs need at once, by quota; ``prepared``: the tokens exist, so no processing job runs."""
    data, compute = spec.data, spec.compute
    found: list[QuotaRequest] = []
    if not prepared:
        found.append(
            QuotaRequest(path="data.instance_count", use="processing job", instance_type=data.instance_type, count=data.instance_count)
        )
    for source in compute.capacity:
        if source.kind == "training_plan":
            continue  # reserved instances are outside the quotas
        use: Use = "spot training job" if source.kind == "spot" else "training job"
        kind, count = compute.instance_type_of(source), compute.instance_count
        found.append(QuotaRequest(path="compute.instance_count", use=use, instance_type=kind, count=count))
        if compute.keep_alive_seconds and source.kind == "on_demand":  # spot and plans keep no warm pool
            found.append(QuotaRequest(path="compute.keep_alive_seconds", use="training warm pool", instance_type=kind, count=count))
    return found
