"""The learning rate of each step: its settings, its curve, and the curves that Admit refuses. Pure Python, no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from contracts.config import Bounds, Problem, one_or_more


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """Linear warmup, then decay to ``min_lr_share`` of the peak at the last step; with ``decay_steps``, WSD: warmup, stable, decay."""

    warmup_steps: Annotated[int, Bounds(0)] = 200
    """Steps over which the learning rate rises from zero."""
    decay: Literal["cosine", "linear", "sqrt", "constant"] = "cosine"
    """Shape of the decay; ``sqrt`` is 1 - sqrt(progress), which suits a short one at the end (https://arxiv.org/abs/2405.18392)."""
    decay_steps: Annotated[int, one_or_more()] | None = None
    """Steps of the decay, the last ones; the rate stays at its peak before them (WSD). Null decays from the warmup on.
    To cool down what a constant rate trained, name its checkpoint in ``training.initial`` of another run, with a ``decay`` and these."""
    min_lr_share: Annotated[float, Bounds(0.0, 1.0)] = 0.1
    """Learning rate of the last step over the peak."""
    total_steps: Annotated[int, one_or_more()] | None = None
    """Steps the whole curve spans; null takes ``steps``. Set it when a run is continued in pieces, so that all follow one curve;
    no piece may end past it."""

    def check(self) -> Iterator[Problem]:
        """A constant rate has no decay."""
        if self.decay == "constant" and self.decay_steps is not None:
            yield Problem("decay_steps", f'{self.decay_steps} steps of decay="constant" are none; set decay to "linear" or "sqrt"')


def rate(schedule: ScheduleSpec, total: int, step: int) -> float:
    """Learning rate over its peak in the step after ``step`` steps (0: the first), on a curve of ``total`` steps.

    Linear warmup to 1, then 1, then ``min_lr_share + (1 - min_lr_share) * shape(progress)``, where progress goes from 1/D to
    1 - 1/D over the D - 1 last steps: torchtitan's curve (its LRSchedulersContainer; WSD: https://arxiv.org/abs/2404.06395).
    Past ``total`` it stays at ``min_lr_share``, where torchtitan's formula turns negative or rises again.
    """
    warmup = min(schedule.warmup_steps, total)
    if step < warmup:
        return (step + 1) / warmup
    decay = decay_length(schedule, total)
    begin = total + 1 - decay  # torchtitan's virtual last step: the rate of the last real one is above the floor
    if decay == 0 or step < begin:
        return 1.0
    progress = min((step + 1 - begin) / decay, 1.0)
    shape = {"linear": 1 - progress, "sqrt": 1 - math.sqrt(progress), "cosine": 0.5 * (1.0 + math.cos(math.pi * progress))}
    return schedule.min_lr_share + (1 - schedule.min_lr_share) * shape[schedule.decay]


def decay_length(schedule: ScheduleSpec, total: int) -> int:
    """Steps of the decay: ``decay_steps``, or all that follow the warmup; none at all for a constant rate."""
    if schedule.decay == "constant":
        return 0
    left = max(total - schedule.warmup_steps, 0)
    return left if schedule.decay_steps is None else min(schedule.decay_steps, left)


def schedule_problems(schedule: ScheduleSpec, steps: int) -> Iterator[Problem]:
    """Problems of a curve that ends before step ``steps`` or never holds its peak; a constant rate has none."""
    if schedule.decay == "constant":
        return
    total, named = (steps, "the leg") if schedule.total_steps is None else (schedule.total_steps, "schedule.total_steps")
    if steps > total:
        yield Problem(
            "schedule.total_steps",
            f"{total} is less than the {steps} steps to train: past the end of the curve the learning rate stays at "
            f"{schedule.min_lr_share:g} of its peak; raise it, or train {total} steps at most",
        )
    if schedule.warmup_steps >= total:
        yield Problem(
            "schedule.warmup_steps",
            f"{schedule.warmup_steps} is no less than the {total} steps of {named}, so the peak is never held; "
            f"lower it (a tenth, {max(total // 10, 1)}, is usual), or train longer",
        )
    elif schedule.decay_steps is not None and schedule.warmup_steps + schedule.decay_steps > total:
        yield Problem(
            "schedule.decay_steps",
            f"{schedule.decay_steps} and warmup_steps={schedule.warmup_steps} are more than the {total} steps of {named}; lower one",
        )
