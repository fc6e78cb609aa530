"""The metrics line: one JSON object per logged step, and everything that reads it.

The training job prints each line to its log and appends it to ``metrics/<leg>.jsonl``. SageMaker's metric
definitions, the dashboard, the report and `watch` use the names below and no others. No torch here.

    {"step": 10, "time": 1795392000.0, "loss": 5.05, "tokens_per_second_per_device": 8950.0, ...}

With a mixture it ends with what each source has given, and in a validation's line with its own loss. Nested, since metric
definitions are fixed names, 40 of them at most; the report and TensorBoard have a curve for each source.

    {"step": 10, ..., "sources": {"code": {"share": 0.25, "epochs": 0.01}, "web": {"share": 0.75, "epochs": 0.002}}}
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One name in the metrics line."""

    name: str
    unit: str
    meaning: str


METRICS: tuple[Metric, ...] = (
    Metric("loss", "nats per token", "mean training loss of the step over all ranks"),
    Metric("grad_norm", "1", "global gradient norm before clipping"),
    Metric("lr", "1", "learning rate"),
    Metric("tokens", "tokens", "tokens seen since the run began, all devices, resumed steps counted once"),
    Metric("tokens_per_second_per_device", "tokens/s", "since the previous logged step, checkpoints and validation excluded"),
    Metric("mfu", "%", "model FLOPs utilisation over the dense BF16 peak, of FP8 legs too; null on a device whose peak is not known"),
    Metric("step_seconds", "s", "mean wall seconds of a step since the previous logged step"),
    Metric("data_wait_seconds", "s", "of those, seconds waiting for the loader"),
    Metric("memory_gib", "GiB", "largest memory reserved on a device since the previous logged step"),
    Metric("checkpoint_seconds", "s", "seconds that saving a checkpoint held the step back"),
    Metric("profiled_steps", "steps", "of the steps since the previous logged one, those that a profiler slowed; left out of speeds"),
    Metric("validation_loss", "nats per token", "mean loss over the validation batches; of a mixture the mean of its sources' losses"),
    Metric("validation_perplexity", "1", "exp(validation_loss)"),
)
NAMES = frozenset(metric.name for metric in METRICS)

SOURCES = "sources"
SOURCE_METRICS: tuple[Metric, ...] = (  # no name is one of METRICS: a metric definition's pattern would find it as well
    Metric("share", "1", "of all samples since the run began, those of this source"),
    Metric("epochs", "1", "passes over this source since the run began"),
    Metric("held_out_loss", "nats per token", "mean loss over this source's own validation batches"),
)
SOURCE_NAMES = frozenset(metric.name for metric in SOURCE_METRICS)

BySource = Mapping[str, Mapping[str, float | None]]
"""Values of ``SOURCE_METRICS`` by the source's name."""

LARGEST = 1e40
"""float32 ends at 3.4e38, so no metric is larger; and sums and ratios of values within this bound stay finite."""
LAST_STEP = 2**53
"""A float holds every whole number up to here."""

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"


def source_metric(source: str, name: str) -> str:
    """The name under which ``parse_line`` gives one value of one source."""
    return f"{SOURCES}.{source}.{name}"


def format_line(step: int, time: float, values: Mapping[str, float | None], sources: BySource | None = None) -> str:
    """One JSON line. Unknown names are an error; NaN, infinities and what is beyond ``LARGEST`` become null."""
    unknown = (values.keys() - NAMES) | {name for each in (sources or {}).values() for name in each.keys() - SOURCE_NAMES}
    if unknown:
        raise ValueError(f"no such metric: {', '.join(sorted(unknown))}; add it to contracts/metric_line.py")
    nested = {SOURCES: {source: _finite(each) for source, each in sources.items()}} if sources else {}
    return json.dumps({"step": step, "time": round(time, 3), **_finite(values), **nested})


def _finite(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {k: v if v is not None and -LARGEST <= v <= LARGEST else None for k, v in values.items()}


def parse_line(line: str) -> dict[str, float] | None:
    """The values of a metrics line, nulls left out; None for any other line: another line of a log, or a damaged one.

    A source's values are named as ``source_metric`` says. A line is damaged when it is no strict JSON object (cut off by a kill,
    NaN), when its step is no whole number from 0 to 2^53, or when a value is neither null nor a number within +-``LARGEST``.
    """
    text = line.strip()
    if not text.startswith('{"step":'):
        return None
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    sources = row.pop(SOURCES, None) or {}
    if not isinstance(sources, dict) or not all(isinstance(each, dict) for each in sources.values()):
        return None
    row |= {source_metric(source, name): value for source, each in sources.items() for name, value in each.items()}
    values = {name: value for name, value in row.items() if value is not None}
    if not all(type(value) in (int, float) and -LARGEST <= value <= LARGEST for value in values.values()):
        return None  # NaN fails both comparisons
    step = values.get("step", -1)
    return {sys.intern(k): float(v) for k, v in values.items()} if 0 <= step <= LAST_STEP and step == int(step) else None


def last_value(rows: Sequence[dict[str, float]], name: str) -> float | None:
    """The newest value of a name in parsed lines, oldest first."""
    return next((row[name] for row in reversed(rows) if name in row), None)


def regex(name: str) -> str:
    """SageMaker metric definition for ``name``. The quotes anchor it: ``"loss": `` is no part of ``"validation_loss": ``."""
    return f'"{re.escape(name)}": ({_NUMBER})'


def metric_definitions() -> list[dict[str, str]]:
    """``AlgorithmSpecification.MetricDefinitions`` of every training job (SageMaker allows 40)."""
    return [{"Name": metric.name, "Regex": regex(metric.name)} for metric in METRICS]
