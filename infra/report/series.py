"""Curves of one leg: each step once, interruptions marked, thinned to a screen's resolution. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

Row = dict[str, float]
"""The values of one metrics line."""
MAX_POINTS = 1500
"""Rows kept per leg: about one per pixel of a wide chart, and four legs of ten metrics stay near 500 kB of page."""
CURVES = (
    "loss", "validation_loss", "tokens_per_second_per_device", "mfu", "memory_gib", "data_wait_seconds",
    "step_seconds", "checkpoint_seconds", "lr", "grad_norm",
)  # fmt: skip
SOURCE_CURVE = ".held_out_loss"
"""End of the names of a mixture's curves, one for each source."""
_SPARSE = ("validation_loss", "checkpoint_seconds")
"""Metrics that only some rows carry; those rows are always kept."""


MAX_ROWS = 20_000
"""Metrics lines that a leg's figures are made of. A line takes about 0.8 kB of memory and twice as many are held while reading:
16 legs stay within the function's 1 GB."""
VALUES = 14
"""Values of a line without a mixture. Lines of 16 sources hold 46, and so many fewer of them are kept."""


@dataclass(kw_only=True)
class MetricsLog:
    """Metrics lines in the order written, in bounded memory: beyond twice ``max_rows`` they are thinned to about ``max_rows``."""

    max_rows: int = MAX_ROWS
    rows: list[Row] = field(default_factory=list)
    rows_logged: int = 0
    """Good lines, thinned ones included."""
    bad_lines: int = 0
    """Lines that are no metrics lines."""

    def add(self, row: Row | None, *, blank: bool = False) -> None:
        """One line: its values, or None when it is damaged (or blank, which is no damage)."""
        if row is None:
            self.bad_lines += not blank
            return
        self.rows_logged += 1
        self.rows.append(row)
        most = self.max_rows * VALUES // max(VALUES, len(row))
        if len(self.rows) > 2 * most:
            self.rows = thin(self.rows, most)
            if len(self.rows) > most * 3 // 2:  # nearly every line is one that thinning keeps
                self.rows = self.rows[:-1][::2] + self.rows[-1:]


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
    checkpoints: tuple[int, ...]
    """Steps at which a checkpoint held training up."""
    rows_logged: int
    """Rows before thinning, each step once."""


def read_series(rows: Sequence[Row], max_points: int = MAX_POINTS) -> Series:
    """Curves of a leg's metrics lines; of a step that was repeated after a resume the last line counts."""
    unique = once_per_step(rows)
    kept = thin(unique, max_points)
    by_source = sorted({name for row in kept for name in row if name.endswith(SOURCE_CURVE)})
    present = [name for name in (*CURVES, *by_source) if any(name in row for row in kept)]
    return Series(
        steps=tuple(int(row["step"]) for row in kept),
        columns={name: tuple(row.get(name) for row in kept) for name in present},
        interruptions=tuple(find_interruptions(rows)),
        checkpoints=tuple(find_checkpoints(rows)),
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


def find_checkpoints(rows: Sequence[Row]) -> list[int]:
    """Steps at which checkpoints were saved.

    A line tells the seconds that saving took since the line before it, and the job logs the step before each save
    (``should_log`` in training/metrics.py): the checkpoint stands at the step of the line before.
    """
    trained = [row for row in rows if "loss" in row]
    held = (int(before["step"]) for before, after in itertools.pairwise(trained) if after.get("checkpoint_seconds"))
    return sorted(set(held))


def thin(rows: Sequence[Row], max_points: int) -> list[Row]:
    """At most about ``max_points`` rows that keep the curve's shape.

    Each bucket of neighbouring rows keeps those with its smallest and its largest loss, so that a spike is never
    dropped; first, last, validation and checkpoint rows and those around an interruption are kept whatever their number.
    """
    if len(rows) <= max_points:
        return list(rows)
    keep = {0, len(rows) - 1}
    keep.update(i for i, row in enumerate(rows) if any(row.get(name) for name in _SPARSE))
    for i in range(1, len(rows)):
        if rows[i]["step"] <= rows[i - 1]["step"] or rows[i].get("checkpoint_seconds"):
            keep.update((i - 1, i))  # what find_interruptions and find_checkpoints look at
    buckets = max(1, max_points // 2)
    for bucket in range(buckets):
        low, high = bucket * len(rows) // buckets, (bucket + 1) * len(rows) // buckets
        inside = [i for i in range(low, high) if "loss" in rows[i]]
        if inside:
            keep.add(min(inside, key=lambda i: rows[i]["loss"]))
            keep.add(max(inside, key=lambda i: rows[i]["loss"]))
    return [rows[i] for i in sorted(keep)]
