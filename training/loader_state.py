"""The loader's state in a checkpoint, one value named ``cursor`` whatever the number of sources.

    {"cursor": 4096}                                     one source: samples handed out over all ranks and epochs
    {"cursor": '{"samples": 4096, "schedule": "9f86d081884c7d65", "sources": {"web": {"samples": 3072, "since": 3072}, ...}}'}

With several sources ``samples`` below a name is that source's own cursor, ``since`` how many of them were chosen by the weights and
curriculum that ``schedule`` names. With the same ones a run goes on exactly as it would have. Where they have changed meanwhile, the
new ones count from the checkpoint on, and each source goes on where it stood: an annealing stage repeats nothing that was read.
"""

from __future__ import annotations

import json
from typing import Any

from training.failure_classes import CheckpointMismatch
from training.mixture_order import Position


def write_state(position: Position, names: tuple[str, ...]) -> dict[str, Any]:
    """The state at ``position``; the one source of a run without mixture has an empty name."""
    if names == ("",):
        return {"cursor": position.place}
    counts = position.counts or (0,) * len(names)
    rows = zip(names, position.cursors, counts, strict=True)
    sources = {name: {"samples": cursor, "since": count} for name, cursor, count in rows}
    return {"cursor": json.dumps({"samples": position.place, "schedule": position.schedule, "sources": sources})}


def read_state(state: dict[str, Any], names: tuple[str, ...]) -> Position:
    """The position of a state.

    Raises:
        CheckpointMismatch: it is of other sources, or of another loader.
    """
    value = state.get("cursor")
    if type(value) is int and value >= 0:
        if names == ("",):
            return Position(place=value, cursors=(value,))
        raise CheckpointMismatch(f"the checkpoint is of a run with one source, and this one mixes {', '.join(names)}; start a new run")
    try:
        saved = json.loads(value if isinstance(value, str) else "")
        sources = saved["sources"]
        saved_rows = {name: tuple(int(value[key]) for key in ("samples", "since")) for name, value in sources.items()}
        place, schedule = int(saved["samples"]), str(saved["schedule"])
    except (ValueError, KeyError, TypeError, AttributeError):
        wrong = f"the checkpoint's loader state is {state!r}, expected one cursor"
        raise CheckpointMismatch(f"{wrong}; it was written by another loader") from None
    if saved_rows.keys() != set(names):
        other = ", ".join(sorted(sources))
        raise CheckpointMismatch(f"the checkpoint is of the sources {other}, and this run has {', '.join(names) or 'one'}; start a new run")
    cursors, counts = (tuple(column) for column in zip(*(saved_rows[name] for name in names), strict=True))
    return Position(place=place, cursors=cursors, counts=counts, schedule=schedule)
