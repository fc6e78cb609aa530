"""What a run should take and cost, before anything is paid for. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from data_prep.strict import Json
from infra.run_spec import CapacitySource, Leg, RunSpec
from training.spec import tokens_per_step, total_steps

START_SECONDS = 900  # image pull, input download, compile, last checkpoint and export around the steps

PriceOf = Callable[[str, str], float | None]
"""(use, instance type) -> US dollars of one instance for an hour, None when no price is known."""


@dataclass(frozen=True, kw_only=True)
class LegEstimate:
    """One leg."""

    name: str
    steps: int
    tokens: int
    seconds: int | None
    """Expected, start included; None when the recipe states no speed."""
    usd_per_hour: float | None
    """All instances together, on the first capacity source."""
    max_usd: float | None
    """What its attempts may cost together; None when no price is known."""

    @property
    def usd(self) -> float | None:
        """Expected cost; the time limit stands in for an unknown duration (see ``estimate``)."""
        return None if self.seconds is None or self.usd_per_hour is None else self.seconds / 3600 * self.usd_per_hour


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The whole run."""

    prepare_max_usd: float | None
    """Prepare data at its time limit."""
    usd_per_hour: dict[str, float]
    """Instance type -> price of one instance, as used; the report uses the same."""
    legs: tuple[LegEstimate, ...]

    @property
    def usd(self) -> float | None:
        """Expected cost of all jobs, preparation at its limit."""
        parts = [self.prepare_max_usd, *(leg.usd for leg in self.legs)]
        known = [part for part in parts if part is not None]
        return round(sum(known), 2) if len(known) == len(parts) else None

    def as_value(self) -> Json:
        """For run.json and the execution's output."""
        return {
            "usd": self.usd,
            "usd_per_hour": self.usd_per_hour,
            "prepare_max_usd": self.prepare_max_usd,
            "legs": [
                {"name": leg.name, "steps": leg.steps, "tokens": leg.tokens, "seconds": leg.seconds, "usd": leg.usd, "max_usd": leg.max_usd}
                for leg in self.legs
            ],
        }


def source_type(spec: RunSpec, source: CapacitySource) -> str:
    """The instance type of a capacity source."""
    return source.instance_type or spec.compute.instance_type


def estimate(spec: RunSpec, price: PriceOf, *, prepared: bool) -> Estimate:
    """Hours from the recipe's tokens/s, dollars from the price; the budget left after preparation is shared equally by the legs.

    A leg without an expected speed counts with its time limit.
    """
    data, compute = spec.data, spec.compute
    prepare_price = 0.0 if prepared else price("processing", data.instance_type)
    prepare = None if prepare_price is None else round(prepare_price * data.instance_count * data.max_runtime_seconds / 3600, 2)
    per_instance = price("training", source_type(spec, compute.capacity[0]))
    per_hour = None if per_instance is None else per_instance * compute.instance_count
    share = None if per_hour is None else (spec.budget.max_usd - (prepare or 0.0)) / len(spec.legs)
    used = {data.instance_type: price("processing", data.instance_type)}
    used |= {kind: price("training", kind) for kind in (source_type(spec, source) for source in compute.capacity)}
    prices = {kind: value for kind, value in used.items() if value is not None}
    return Estimate(prepare_max_usd=prepare, usd_per_hour=prices, legs=tuple(_leg(spec, leg, per_hour, share) for leg in spec.legs))


def _leg(spec: RunSpec, leg: Leg, per_hour: float | None, share: float | None) -> LegEstimate:
    training, hosts = leg.training, spec.compute.instance_count
    steps = total_steps(training, hosts)
    tokens = steps * tokens_per_step(training, hosts)
    speed = training.expected_tokens_per_second_per_device
    seconds = spec.compute.max_runtime_seconds
    if speed:
        seconds = int(tokens / (speed * hosts * training.processes_per_host)) + START_SECONDS
    return LegEstimate(name=leg.name, steps=steps, tokens=tokens, seconds=seconds, usd_per_hour=per_hour, max_usd=share)
