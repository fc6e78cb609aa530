"""What each source of a mixture gave to a leg: asked and real share, passes, and its own validation loss. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.config import SpecError, parse
from contracts.metric_line import SOURCE_METRICS, SOURCES, last_value, source_metric
from contracts.mixture import read_mixture, samples_of, stages
from infra.report.read import Json, LegFacts, RunFacts
from infra.report.series import Row, once_per_step
from training.spec import TrainingSpec, tokens_per_step, total_steps


def leg_sources(leg: LegFacts, facts: RunFacts) -> list[Json]:
    """One row for each source, by name; empty without a mixture. What is not known is None."""
    rows = once_per_step(leg.rows)
    asked = _asked_shares(leg, facts, int(rows[-1]["step"]) if rows else int(leg.result.get("steps") or 0))
    saved = leg.result.get("sources") or {}
    found = []
    for name in sorted({*asked, *saved, *named_in(rows)}):
        values = {metric.name: last_value(rows, source_metric(name, metric.name)) for metric in SOURCE_METRICS}
        known = {key: value for key, value in (saved.get(name) or {}).items() if key in values and value is not None}
        found.append({"name": name, "asked_share": asked.get(name), **values, **known})
    return found


def named_in(rows: Sequence[Row]) -> list[str]:
    """Sources that metrics lines name."""
    keys = {key for row in (*rows[:1], *rows[-1:]) for key in row if key.startswith(f"{SOURCES}.")}
    return sorted({key.split(".")[1] for key in keys})


def _asked_shares(leg: LegFacts, facts: RunFacts, steps: int) -> dict[str, float | None]:
    """Share of the samples up to ``steps`` that the input asks for; None where it cannot be known."""
    try:
        sources = read_mixture(facts.run)
    except (SpecError, TypeError, AttributeError):
        return {}
    unknown: dict[str, float | None] = {source.name: None for source in sources}
    try:
        spec = parse(TrainingSpec, leg.training)
        hosts = int((facts.run.get("compute") or {}).get("instance_count") or 1)
        sizes = [samples_of(_train_tokens(facts, source.name), spec.sequence_length) or None for source in sources]
        samples_per_step = tokens_per_step(spec, hosts) // spec.sequence_length
        made = stages(sources, sizes, steps=total_steps(spec, hosts), samples_per_step=samples_per_step)
    except ValueError:  # settings of another version, a mixture that does not come out, epochs of a source whose size is not known
        return unknown
    total = steps * samples_per_step
    held = [(stage, min(stage.samples, max(0, total - stage.first))) for stage in made]
    reached = sum(samples for _, samples in held)
    if not reached:
        return unknown
    return {source.name: float(sum(stage.shares[i] * samples for stage, samples in held) / reached) for i, source in enumerate(sources)}


def _train_tokens(facts: RunFacts, source: str) -> int:
    split = (facts.indexes.get(source, {}).get("splits") or {}).get("train") or {}
    return int(split.get("tokens") or 0)
