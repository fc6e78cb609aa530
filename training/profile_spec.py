"""ProfileSpec: which steps torch's profiler records. A part of TrainingSpec; pure, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from contracts.config import Bounds, Problem

MAX_STEPS = 10
MAX_PASSES = 32
"""Forward and backward passes in one trace. A pass of 8B is some 10,000 to 100,000 events of about 300 bytes, compiled or not; browsers
open traces of about 1 GB."""
WARMUP_STEPS = 1
"""Recorded and thrown away: the profiler's own start (CUPTI, buffers) is not what anybody looks for."""


@dataclass(frozen=True, kw_only=True)
class ProfileSpec:
    """A trace of a few steps."""

    steps: Annotated[tuple[int, ...], Bounds(2, 2)]
    """First and last recorded step; at most 10 steps, and 32 accumulated passes. Not before step 10 or so, unless compilation is looked
    at. A validation or a checkpoint in one of them is recorded too."""
    ranks: Annotated[tuple[Annotated[int, Bounds(0)], ...], Bounds(1, 8)] = (0,)
    """Ranks that write a trace each."""
    memory: bool = False
    """Also write the CUDA allocator's history over these steps, for pytorch.org/memory_viz; when memory runs out in one of them, too."""

    def check(self) -> Iterator[Problem]:
        """First and last are steps, in this order, and few."""
        first, last = self.steps
        if not 1 <= first <= last:
            yield Problem("steps", f"[{first}, {last}] must be the first and the last step, 1 or more each")
        elif last - first >= MAX_STEPS:
            yield Problem("steps", f"[{first}, {last}] are {last - first + 1} steps, and a trace holds {MAX_STEPS} at most")
        if len(set(self.ranks)) < len(self.ranks):
            yield Problem("ranks", f"{list(self.ranks)} names a rank twice")


def slowed_steps(profile: ProfileSpec | None) -> range:
    """Steps that take longer for it: the warm-up, the recorded ones, and the one that waits for the trace to be written."""
    return range(0) if profile is None else range(profile.steps[0] - WARMUP_STEPS, profile.steps[1] + 2)


def profile_problems(profile: ProfileSpec | None, *, steps: int, ranks: int, passes: int) -> Iterator[Problem]:
    """What only the whole leg shows: so many ``steps`` in all, ``ranks`` on all hosts, ``passes`` accumulated in a step."""
    if profile is None:
        return
    first, last = profile.steps
    if last > steps:
        yield Problem("profile.steps", f"step {last} is never trained, the leg ends with step {steps}; choose earlier steps")
    if (count := (last - first + 1) * passes) > MAX_PASSES:
        yield Problem(
            "profile.steps",
            f"{last - first + 1} steps of {passes} accumulated passes are {count} passes, and a trace holds {MAX_PASSES} at most; "
            "choose fewer steps",
        )
    yield from (
        Problem("profile.ranks", f"there is no rank {rank}; the leg has {ranks}, counted from 0") for rank in profile.ranks if rank >= ranks
    )
