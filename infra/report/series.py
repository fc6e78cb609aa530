"""Curves of one leg: each step once, interruptions marked, thinned to a screen's resolution. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from infra.report.read import Row

MAX_POINTS = 1500
"""Rows kept per leg: about one per pixel of a wide chart, and four legs of ten metrics stay near 500 kB of page."""
CURVES = (
    "loss", "validation_loss", "tokens_per_second_per_device", "mfu", "memory_gib", "data_wait_seconds",
    "step_seconds", "checkpoint_seconds", "lr", "grad_norm",
)  # fmt: skip
_SPARSE = ("validation_loss", "checkpoint_seconds")
"""Metrics that only some rows carry; those rows are always kept."""


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """A point where training went back to a checkpoint."""

    step: int
    """Last step logged before."""
    resumed_from: int
    """First step logged after."""
    lost_seconds: float
    """From the last line before to the first line after."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Columns over ``steps``; a metric that a row lacks is None."""

    steps: tuple[int, ...]
    columns: dict[str, tuple[float | None, ...]]
    interruptions: tuple[Interruption, ...]
    rows_logged: int
    """Rows before thinning, each step once."""


def read_series(rows: Sequence[Row], max_points: int = MAX_POINTS) -> Series:
    """Curves of a leg's metrics lines; of a step that was repeated after a resume the last line counts."""
    unique = once_per_step(rows)
    kept = thin(unique, max_points)
    present = [name for name in CURVES if any(name in row for row in kept)]
    return Series(
        steps=tuple(int(row["step"]) for row in kept),
        columns={name: tuple(row.get(name) for row in kept) for name in present},
        interruptions=tuple(find_interruptions(rows)),
        rows_logged=len(unique),
    )


def once_per_step(rows: Sequence[Row]) -> list[Row]:
    """Rows in step order, each step once. Validation writes a line of its own for its step; of values written twice the last counts."""
    by_step: dict[int, Row] = {}
    for row in rows:
        step = int(row["step"])
        by_step[step] = by_step.get(step, {}) | row
    return [by_step[step] for step in sorted(by_step)]


def find_interruptions(rows: Sequence[Row]) -> list[Interruption]:
    """Every point where the step number goes back: a new attempt resumed from a checkpoint."""
    found = []
    trained = [row for row in rows if "loss" in row]
    for before, after in itertools.pairwise(trained):
        if after["step"] <= before["step"]:
            lost = max(0.0, after.get("time", 0.0) - before.get("time", 0.0))
            found.append(Interruption(step=int(before["step"]), resumed_from=int(after["step"]), lost_seconds=lost))
    return found


def thin(rows: Sequence[Row], max_points: int) -> list[Row]:
    """At most about ``max_points`` rows that keep the curve's shape.

    Each bucket of neighbouring rows keeps those with its smallest and its largest loss, so that a spike is never
    dropped; first, last, validation and checkpoint rows are kept whatever their number.
    """
    if len(rows) <= max_points:
        return list(rows)
    keep = {0, len(rows) - 1}
    keep.update(i for i, row in enumerate(rows) if any(row.get(name) for name in _SPARSE))
    buckets = max(1, max_points // 2)
    for bucket in range(buckets):
        low, high = bucket * len(rows) // buckets, (bucket + 1) * len(rows) // buckets
        inside = [i for i in range(low, high) if "loss" in rows[i]]
        if inside:
            keep.add(min(inside, key=lambda i: rows[i]["loss"]))
            keep.add(max(inside, key=lambda i: rows[i]["loss"]))
    return [rows[i] for i in sorted(keep)]
