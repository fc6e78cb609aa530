"""SageMaker quotas by their exact names: limit, in use, requested.

Quota codes differ per instance type and are published nowhere in full, the names follow one pattern, so
names are looked up: applied values first, the service's defaults for what was never applied. Beside those of one type an account
has limits on each job and on all jobs together (docs/unproven.md names the source of each name); an account whose list lacks
one of these is not refused for it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from contracts.config import Json
from infra.sagemaker.instances_in_use import Instances, Use, in_use

Scope = Literal["type", "job", "all", "run_time"]
"""What a quota limits: instances of one type, instances of one job, instances of all jobs, seconds of one job."""


@dataclass(frozen=True, kw_only=True)
class QuotaRequest:
    """What a run needs of one quota: instances at once, or seconds."""

    path: str
    """The setting that asks for them."""
    use: Use
    instance_type: str
    count: int
    scope: Scope = "type"

    @property
    def quota(self) -> str:
        """Exact quota name."""
        if self.scope == "job":
            return f"Maximum number of instances per {self.use}"
        if self.scope == "all":
            return f"Number of instances across all {self.use}s"
        if self.scope == "run_time":
            return f"Longest run time for a {self.use.removeprefix('spot ')}"
        return f"{self.instance_type} for {self.use} usage"


@dataclass(frozen=True, kw_only=True)
class QuotaStatus:
    """One quota in this account, against what a run requests of it."""

    request: QuotaRequest
    limit: float | None
    """None when Service Quotas has no quota of that name: the type is not offered for this use in this region. An account-wide
    limit that is not listed limits nothing that is known."""
    used: int
    code: str = ""
    default: bool = False
    """Whether the limit is the service's default, never raised for this account."""
    described: int = 0
    """Describe calls that the look-up took, for all its quotas together."""
    unseen: int = 0
    """Active jobs that the look-up left out, so that ``used`` is a lower bound."""

    @property
    def enough(self) -> bool:
        """Whether the requested instances fit beside those in use."""
        if self.limit is None:
            return self.request.scope != "type"
        return self.limit - self.used >= self.request.count

    @property
    def possible(self) -> bool:
        """Whether the account may have them at all, whatever is in use at this minute."""
        return self.request.scope != "type" if self.limit is None else self.limit >= self.request.count

    def link(self, region: str) -> str:
        """Console page to ask for more."""
        return f"https://{region}.console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas/{self.code}"

    def message(self, region: str) -> str:
        """What is missing and where to ask for it."""
        request = self.request
        if self.limit is None:
            return f'Service Quotas in {region} knows no "{request.quota}": the type is not offered there; choose another type or region'
        if request.scope == "run_time":
            return (
                f'{request.count} s needs quota {request.count} for "{request.quota}", this account has {self.limit:g}; request an '
                f"increase at {self.link(region)} or lower it (an attempt that reaches its time limit is resumed by the next)"
            )
        return (
            f'{request.count} x {request.instance_type} needs quota {request.count} for "{request.quota}", this account has '
            f"{self.limit:g} ({self.in_use} in use); request an increase at {self.link(region)} or lower it"
        )

    @property
    def in_use(self) -> str:
        """``used`` in words."""
        return f"at least {self.used}" if self.unseen else str(self.used)

    def row(self, region: str) -> Json:
        """For run.json and --json."""
        return {
            "quota": self.request.quota,
            "wanted": self.request.count,
            "limit": self.limit,
            "used": self.used,
            "unseen": self.unseen,
            "described": self.described,
            "enough": self.enough,
            "default": self.default,
            "request": self.link(region) if self.limit is not None else None,
        }


def status_of_each(requests: list[QuotaRequest], quotas: Any, sagemaker: Any) -> list[QuotaStatus]:
    """The status of every request, in their order, by one look-up for all of them: of several inputs, each with its own count."""
    found = {status.request.quota: status for status in quota_statuses(requests, quotas, sagemaker)}
    return [dataclasses.replace(found[request.quota], request=request) for request in requests]


def quota_statuses(requests: list[QuotaRequest], quotas: Any, sagemaker: Any) -> list[QuotaStatus]:
    """Limit and use of every requested quota; of two requests on one quota the larger counts, since a run's jobs follow one another."""
    largest: dict[str, QuotaRequest] = {}
    for request in requests:
        if request.quota not in largest or request.count > largest[request.quota].count:
            largest[request.quota] = request
    limits = _limits(set(largest), quotas)

    def answers(instances: Instances) -> list[QuotaStatus]:
        return [_status(request, limits.get(name), instances) for name, request in largest.items()]

    def settled(instances: Instances) -> bool:
        return not any(status.enough and status.request.scope in ("type", "all") for status in answers(instances))

    found = in_use(sagemaker, {request.use for request in largest.values()}, settled)
    return [dataclasses.replace(status, unseen=found.unseen, described=found.described) for status in answers(found.instances)]


def _status(request: QuotaRequest, limit: tuple[float, str, bool] | None, instances: Instances) -> QuotaStatus:
    value, code, default = limit or (None, "", False)
    return QuotaStatus(request=request, limit=value, used=_used(request, instances), code=code, default=default)


def _used(request: QuotaRequest, used: Instances) -> int:
    if request.scope == "type":
        return used[request.use, request.instance_type]
    return sum(count for (use, _), count in used.items() if use == request.use) if request.scope == "all" else 0


def _limits(names: set[str], quotas: Any) -> dict[str, tuple[float, str, bool]]:
    found: dict[str, tuple[float, str, bool]] = {}
    for operation, default in (("list_service_quotas", False), ("list_aws_default_service_quotas", True)):
        for page in quotas.get_paginator(operation).paginate(ServiceCode="sagemaker", PaginationConfig={"PageSize": 100}):
            for quota in page["Quotas"]:
                if quota["QuotaName"] in names and quota["QuotaName"] not in found:
                    found[quota["QuotaName"]] = (float(quota["Value"]), str(quota["QuotaCode"]), default)
            if len(found) == len(names):
                return found
    return found
