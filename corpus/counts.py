"""What the steps did, from the counts that datatrove keeps for every task."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contracts.corpus_card import StepCounts

DROPPED, CONTAMINATED = "dropped_", "contaminated_"
Counts = Counter[str]


def stage_counts(folder: Path, tasks: int) -> list[Counts]:
    """Counts of each block of a stage, over all its tasks.

    Args:
        folder: the stage's logs.
        tasks: how many there were; each left a file.
    """
    totals: list[Counts] = []
    for rank in range(tasks):
        blocks: list[dict[str, Any]] = json.loads((folder / "stats" / f"{rank:05d}.json").read_bytes())
        totals = totals or [Counter() for _ in blocks]
        for total, block in zip(totals, blocks, strict=True):
            total.update({name: int(value["total"] if isinstance(value, dict) else value) for name, value in block["stats"].items()})
    return totals


def step_counts(name: str, counts: Counts) -> StepCounts:
    """One step of data.corpus."""
    dropped = {key.removeprefix(DROPPED): count for key, count in counts.items() if key.startswith(DROPPED)}
    if name == "decontamination":  # by evaluation set, which says more than "contaminated"
        dropped = {key.removeprefix(CONTAMINATED): n for key, n in counts.items() if key.startswith(CONTAMINATED)}
    if counts["dropped"] and not dropped:
        dropped = {{"language_filter": "other_language"}.get(name, "near_duplicate"): counts["dropped"]}
    return StepCounts(name=name, read=counts["total"], kept=counts["forwarded"], dropped=dict(sorted(dropped.items())))


def by_policy(reader: Counts, prefix: str) -> dict[str, int]:
    """Records that the reading policies left out (SKIPPED) or changed (REPLACED), by reason."""
    return {name.removeprefix(prefix): count for name, count in sorted(reader.items()) if name.startswith(prefix)}


def written(folder: Path, tasks: int, block: int) -> list[str]:
    """Names of the files that a stage's writer wrote: a task without documents leaves none."""
    found: Sequence[tuple[int, Any]] = [(rank, json.loads((folder / "stats" / f"{rank:05d}.json").read_bytes())) for rank in range(tasks)]
    return [f"{rank:05d}.jsonl.zst" for rank, blocks in found if blocks[block]["stats"].get("total")]
