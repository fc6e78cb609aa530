"""Batch and activation checkpointing chosen by the memory estimate, for legs that ask for it. Pure: Admit resolves it, jobs never see it.

First the least recomputation with which the smallest batch fits, then the largest batch that fits with it. Whether that is the
fastest choice on a device is for `make bench-gpu` to say; that it fits is what the estimate says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from contracts.config import Problem
from training.memory import device_bytes
from training.spec import Checkpointing, TrainingSpec, data_parallel_ranks

SHARE = 0.95
"""Of a device's usable memory: fragments, and the estimate's own error."""
RECOMPUTATION: tuple[Checkpointing, ...] = ("none", "selective", "full")
"""From the fastest step to the least memory."""


def fitted(spec: TrainingSpec, hosts: int, device_gib: float) -> TrainingSpec | Problem:
    """``spec`` with what ``fit_memory`` names chosen for devices of ``device_gib`` GiB, or why nothing can be chosen."""
    if not spec.fit_memory:
        return spec
    batches: Sequence[int] = (spec.local_batch_size,)
    if "local_batch_size" in spec.fit_memory:
        if spec.global_batch_size is None:
            return Problem("fit_memory", "local_batch_size needs global_batch_size, so that what fits does not change what is learned from")
        ranks = max(1, data_parallel_ranks(spec, hosts))
        batches = [n for n in range(1, spec.global_batch_size // ranks + 1) if spec.global_batch_size % (n * ranks) == 0]
        if not batches:
            return Problem("global_batch_size", f"{spec.global_batch_size} is not a multiple of the {ranks} data-parallel ranks")
    kinds = RECOMPUTATION if "activation_checkpointing" in spec.fit_memory else (spec.activation_checkpointing,)
    limit = SHARE * device_gib * 2**30
    for kind in kinds:
        tried = [dataclasses.replace(spec, activation_checkpointing=kind, local_batch_size=batch) for batch in batches]
        fitting = [one for one in tried if device_bytes(one, hosts) <= limit]
        if fitting:
            return fitting[-1]
    least = min(device_bytes(one, hosts) for one in tried) / 2**30
    return Problem(
        "fit_memory",
        f"a step needs {least:.1f} GiB on each device at least, and {SHARE:.0%} of {device_gib:g} GiB may be used; "
        "take more instances, another instance type or a shorter sequence_length",
    )
