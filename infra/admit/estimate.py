"""Estimate of a run's duration and cost. Pure."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from contracts.config import Json
from infra.run.evaluation import evaluation_type
from infra.run.job_requests import preparations
from infra.run.run_spec import Leg, RunSpec
from infra.sagemaker.prices import PriceOf
from training.initial import start_step
from training.spec import tokens_per_step, total_steps

LONGEST_SECONDS = 10**10  # 317 years: an expected speed near zero must not make an infinite number of seconds
START_SECONDS = 900  # image pull, input download, compile, last checkpoint and export around the steps


@dataclass(frozen=True, kw_only=True)
class LegEstimate:
    """One leg."""

    name: str
    steps: int
    """Of this execution: what an earlier one, or the checkpoint that the leg begins from, has behind it is not counted again."""
    tokens: int
    seconds: int
    """Expected, start included; the time limit when the recipe states no speed."""
    usd: float | None
    """Expected, on the dearest capacity source; None when a price is not known."""
    max_usd: float | None
    """What its attempts may cost together."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The whole run."""

    prepare_max_usd: float | None
    """Prepare corpus and Prepare data at their time limits; nothing when the tokens exist."""
    usd_per_hour: dict[str, float]
    """Instance type -> price of one instance, as used; the report uses the same."""
    legs: tuple[LegEstimate, ...]
    evaluation_max_usd: float | None = 0.0
    """One leg's evaluation at its time limit; nothing when the run evaluates nothing."""
    evaluations: int = 0
    """Legs that are evaluated."""

    @property
    def usd(self) -> float | None:
        """Expected cost of all jobs, preparation and evaluations at their limits; None when a price is not known."""
        parts = [self.prepare_max_usd, *(leg.usd for leg in self.legs), *[self.evaluation_max_usd] * self.evaluations]
        known = [part for part in parts if part is not None]
        return round(sum(known), 2) if len(known) == len(parts) else None

    def as_value(self) -> Json:
        """For run.json and the execution's output."""
        names = ("name", "steps", "tokens", "seconds", "usd", "max_usd")
        legs = [{name: getattr(leg, name) for name in names} for leg in self.legs]
        limits = {"prepare_max_usd": self.prepare_max_usd, "evaluation_max_usd": self.evaluation_max_usd}
        return {"usd": self.usd, "usd_per_hour": self.usd_per_hour, **limits, "legs": legs}


def estimate(
    spec: RunSpec,
    price: PriceOf,
    *,
    cleaned: bool = False,
    prepared: bool,
    done_steps: int = 0,
    finished: Set[str] = frozenset(),
    evaluated: Set[str] = frozenset(),
) -> Estimate:
    """Hours from the expected tokens/s, dollars from the prices; what preparation and evaluations leave is shared equally by the legs.

    Spot is counted at the on-demand price: what it saves is not known beforehand. A leg without an expected speed counts
    with its time limit. ``cleaned`` and ``prepared``: see job_requests.preparations.
    ``finished`` and ``evaluated``: legs that are not trained, or evaluated, again.
    """
    compute, jobs = spec.compute, preparations(spec, cleaned=cleaned, prepared=prepared)
    found = {job.instance_type: price("processing", job.instance_type) for job in jobs}
    priced = {kind: value for kind, value in found.items() if value is not None}
    prepare = None
    if len(priced) == len(found):
        prepare = round(sum(priced[job.instance_type] * job.instance_count * job.max_runtime_seconds / 3600 for job in jobs), 2)
    used = {kind: price("training", kind) for kind in map(compute.instance_type_of, compute.capacity)}
    prices = {kind: value for kind, value in used.items() if value is not None}
    dearest = max(prices.values()) * compute.instance_count if len(prices) == len(used) else None
    hourly = price("training", evaluation_type(spec)) if spec.evaluation is not None else 0.0
    evaluation = None if hourly is None else round(hourly * _evaluation_seconds(spec) / 3600, 2)
    share = None if prepare is None or evaluation is None else round((spec.budget.max_usd - prepare) / len(spec.legs) - evaluation, 2)
    legs = tuple(
        LegEstimate(name=leg.name, steps=0, tokens=0, seconds=0, usd=0.0, max_usd=share)
        if leg.name in finished
        else _leg(spec, leg, dearest, share, done_steps)
        for leg in spec.legs
    )
    evaluations = 0 if spec.evaluation is None else len(spec.legs) - len(evaluated)
    listed = prices | priced | ({evaluation_type(spec): hourly} if hourly else {})
    return Estimate(prepare_max_usd=prepare, usd_per_hour=listed, legs=legs, evaluation_max_usd=evaluation, evaluations=evaluations)


def _evaluation_seconds(spec: RunSpec) -> int:
    return spec.evaluation.max_runtime_seconds if spec.evaluation is not None else 0


def _leg(spec: RunSpec, leg: Leg, per_hour: float | None, share: float | None, done_steps: int) -> LegEstimate:
    training, hosts = leg.training, spec.compute.instance_count
    steps = max(total_steps(training, hosts) - max(done_steps, start_step(training.initial)), 0)
    tokens = steps * tokens_per_step(training, hosts)
    speed = training.expected_tokens_per_second_per_device
    seconds = spec.compute.max_runtime_seconds
    if speed:
        seconds = int(min(tokens / (speed * hosts * training.processes_per_host), LONGEST_SECONDS)) + START_SECONDS
    usd = None if per_hour is None else round(seconds / 3600 * per_hour, 4)
    return LegEstimate(name=leg.name, steps=steps, tokens=tokens, seconds=seconds, usd=usd, max_usd=share)
