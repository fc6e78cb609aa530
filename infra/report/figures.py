"""The figures of a run: what each leg reached, how it compares, what it cost. Pure."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contracts.config import SpecError, parse
from infra.report.read import Attempt, Json, LegFacts, RunFacts, epoch_seconds
from infra.report.series import Row, find_interruptions, once_per_step
from infra.run.recipes import REFERENCE_ABLATION
from infra.run.run_jobs import UsdPerHour, total_usd
from training.spec import TrainingSpec, total_steps

WARMUP_SHARE = 0.1
"""The first tenth of the rows is left out of speeds: compiling, first allocation and cold page caches."""


@dataclass(frozen=True, kw_only=True)
class LegFigures:
    """One leg in numbers; None where the run did not get that far. Losses in nats per token."""

    name: str
    finished: bool
    """The leg trained all its steps: it wrote result.json, or its job completed."""
    steps: int
    """Last step logged."""
    steps_planned: int
    tokens: int | None
    """Training tokens seen, resumed steps counted once."""
    parameters: int | None
    devices: int
    device_name: str
    loss_first: float | None
    loss_last: float | None
    validation_loss: float | None
    """At the last validation."""
    unigram_entropy: float | None
    """Of the validation tokens: what a model that knows only how frequent each token is would reach."""
    tokens_per_second_per_device: float | None
    """Median over the rows after the warm-up."""
    mfu: float | None
    """Median, in percent."""
    memory_gib: float | None
    """Largest over all rows."""
    data_wait_share: float | None
    """Share of the step time spent waiting for the loader, after the warm-up."""
    train_seconds: float
    """All attempts, first start to last end of each."""
    attempts: int
    interruptions: int
    lost_seconds: float
    """Steps trained twice, and the waiting between attempts."""
    usd: float | None
    """Billable seconds x instances x on-demand price."""
    reference_tokens_per_second: float | None
    """The reference's figure for a leg of this name and model, when it has one."""
    ratio_to_baseline: float | None = None
    """Tokens/s over those of the first leg."""


def leg_figures(leg: LegFacts, hosts: int, usd_per_hour: UsdPerHour, unigram_entropy: float | None = None) -> LegFigures:
    """Figures of one leg; result.json takes precedence over the metrics lines and index.json."""
    spec = _training_spec(leg.training)
    rows, result = once_per_step(leg.rows), leg.result
    timed = [row for row in rows if not row.get("profiled_steps")] or rows
    steady = timed[int(len(timed) * WARMUP_SHARE) :] if len(timed) > 10 else timed[1:] or timed
    ranks = int(leg.training.get("processes_per_host") or 1)
    breaks = find_interruptions(leg.rows)
    devices = result.get("devices")
    return LegFigures(
        name=leg.name,
        finished=bool(result) or leg.trained,
        steps=int(rows[-1]["step"]) if rows else int(result.get("steps") or 0),
        steps_planned=total_steps(spec, hosts) if spec is not None else int(leg.training.get("steps") or 0),
        tokens=_whole(result.get("tokens"), _last(rows, "tokens")),
        parameters=_whole(result.get("parameters")),
        devices=int(devices) if isinstance(devices, (int, float)) else hosts * ranks,
        device_name=str(result.get("device_name") or leg.training.get("device") or "unknown"),
        loss_first=_number(result.get("loss_first"), _first(rows, "loss")),
        loss_last=_number(result.get("loss_last"), _last(rows, "loss")),
        validation_loss=_number(result.get("validation_loss"), _last(rows, "validation_loss")),
        unigram_entropy=_number(result.get("unigram_entropy"), unigram_entropy),
        tokens_per_second_per_device=_number(result.get("tokens_per_second_per_device"), _median(steady, "tokens_per_second_per_device")),
        mfu=_number(result.get("mfu"), _median(steady, "mfu")),
        memory_gib=max((m for m in (_number(result.get("memory_gib")), _max(rows, "memory_gib")) if m is not None), default=None),
        data_wait_share=_data_wait_share(steady),
        train_seconds=_train_seconds(leg.attempts, rows),
        attempts=len(leg.attempts) or (len(breaks) + 1 if rows else 0),
        interruptions=len(breaks),
        lost_seconds=sum(item.lost_seconds for item in breaks),
        usd=_cost(leg.attempts, usd_per_hour),
        reference_tokens_per_second=_reference(leg),
    )


def run_figures(facts: RunFacts, usd_per_hour: UsdPerHour) -> list[LegFigures]:
    """Figures of every leg, each with its ratio to the first one's tokens/s."""
    hosts = int((facts.run.get("compute") or {}).get("instance_count") or 1)
    splits = [(index.get("splits") or {}).get("validation") or {} for index in facts.indexes.values()]
    entropies = [found for split in splits if (found := split.get("unigram_entropy_nats")) is not None]
    entropy = statistics.fmean(entropies) if entropies else None  # of a mixture the mean, as its validation loss
    figures = [leg_figures(leg, hosts, usd_per_hour, entropy) for leg in facts.legs]
    base = figures[0].tokens_per_second_per_device if figures else None
    return [_with_ratio(leg, base) for leg in figures]


def data_usd(facts: RunFacts, usd_per_hour: UsdPerHour) -> float | None:
    """Cost of the run's processing jobs, of all its executions; 0 when the shards were there already."""
    jobs = [job for job in facts.jobs if job.kind == "Processing"]
    if jobs:
        return total_usd(jobs, usd_per_hour)
    job = facts.data.get("job") or {}
    if not facts.data.get("prepared"):
        return 0.0
    cluster = (job.get("ProcessingResources") or {}).get("ClusterConfig") or {}
    seconds, price = job_seconds(job, "Processing"), usd_per_hour(str(cluster.get("InstanceType", "")))
    if seconds is None or price is None:
        return None
    return seconds / 3600 * price * int(cluster.get("InstanceCount") or 1)


def job_seconds(job: Json, kind: str) -> float | None:
    """Seconds between ``<kind>StartTime`` and ``<kind>EndTime``; kind is Training, Processing, or "" for a build."""
    start, end = epoch_seconds(job.get(f"{kind}StartTime")), epoch_seconds(job.get(f"{kind}EndTime"))
    return end - start if start is not None and end is not None else None


def _with_ratio(leg: LegFigures, base: float | None) -> LegFigures:
    speed = leg.tokens_per_second_per_device
    return dataclasses.replace(leg, ratio_to_baseline=speed / base) if speed and base else leg


def _training_spec(value: Json) -> TrainingSpec | None:
    try:
        return parse(TrainingSpec, value)
    except SpecError:
        return None  # run.json of an older version: the report of an old run must still be written


def _reference(leg: LegFacts) -> float | None:
    """The reference's figure, only for its own model: Llama-3 8B at sequence length 8192 on H100."""
    model = leg.training.get("model") or {}
    same = model.get("dim") == 4096 and model.get("layers") == 32 and leg.training.get("sequence_length") == 8192
    reported = {leg.name: leg.reference_tokens_per_second for leg in REFERENCE_ABLATION}
    return reported.get(leg.name) if same else None


def _train_seconds(attempts: Sequence[Attempt], rows: Sequence[Row]) -> float:
    walls = [a.ended - a.started for a in attempts if a.started is not None and a.ended is not None]
    if walls:
        return sum(walls)
    return rows[-1].get("time", 0.0) - rows[0].get("time", 0.0) if rows else 0.0


def attempt_usd(attempt: Attempt, usd_per_hour: UsdPerHour) -> float | None:
    """Dollars of one job; None when its seconds or its price are not known."""
    price = usd_per_hour(attempt.instance_type) if attempt.instance_type else None
    if price is None or attempt.billable_seconds is None:
        return None
    return attempt.billable_seconds / 3600 * price * attempt.instance_count


def _cost(attempts: Sequence[Attempt], usd_per_hour: UsdPerHour) -> float | None:
    parts = [attempt_usd(attempt, usd_per_hour) for attempt in attempts]
    known = [part for part in parts if part is not None]
    return sum(known) if parts and len(known) == len(parts) else None


def _data_wait_share(rows: Sequence[Row]) -> float | None:
    pairs = [(row["data_wait_seconds"], row["step_seconds"]) for row in rows if "data_wait_seconds" in row and row.get("step_seconds")]
    steps = sum(step for _, step in pairs)
    return sum(wait for wait, _ in pairs) / steps if steps else None


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _first(rows: Sequence[Row], name: str) -> float | None:
    values = _values(rows, name)
    return values[0] if values else None


def _last(rows: Sequence[Row], name: str) -> float | None:
    values = _values(rows, name)
    return values[-1] if values else None


def _median(rows: Sequence[Row], name: str) -> float | None:
    values = _values(rows, name)
    return statistics.median(values) if values else None


def _max(rows: Sequence[Row], name: str) -> float | None:
    return max(_values(rows, name), default=None)


def _number(*candidates: Any) -> float | None:
    """The first candidate that is a number."""
    return next((float(c) for c in candidates if isinstance(c, (int, float)) and not isinstance(c, bool)), None)


def _whole(*candidates: Any) -> int | None:
    number = _number(*candidates)
    return int(number) if number is not None else None
