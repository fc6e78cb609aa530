"""Batch, activation checkpointing and what FSDP keeps, chosen by the memory estimate for legs that ask for it. Pure: Admit resolves
it, jobs never see it.

First the least recomputation with which the smallest batch fits, then the largest batch that fits with it, then gathered weights
are kept from the forward to the backward pass where they still fit. Whether that is the fastest choice on a device is for
`make bench-gpu` to say; that it fits is what the estimate says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

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
        batches = _batches(spec, hosts)
        if not batches:
            ranks = data_parallel_ranks(spec, hosts)
            return Problem("global_batch_size", f"{spec.global_batch_size} is not a multiple of the {ranks} data-parallel ranks")
    choosing = "reshard_after_forward" in spec.fit_memory
    kinds = RECOMPUTATION if "activation_checkpointing" in spec.fit_memory else (spec.activation_checkpointing,)
    limit = usable_gib(device_gib)
    for kind in kinds:
        tried = [_with(spec, kind=kind, batch=batch, keep=False if choosing else None) for batch in batches]
        fitting = [one for one in tried if _gib(one, hosts) <= limit]
        if fitting:
            kept = _with(fitting[-1], keep=True)
            return kept if choosing and _gib(kept, hosts) <= limit else fitting[-1]
    least = min(_gib(one, hosts) for one in tried)
    return Problem(
        "fit_memory",
        f"a step needs {least:.1f} GiB on each device at least, and {SHARE:.0%} of {device_gib:g} GiB may be used; "
        "take more instances, another instance type or a shorter sequence_length",
    )


def usable_gib(device_gib: float) -> float:
    """What a chosen step may use of a device of so many GiB."""
    return SHARE * device_gib


def reasons(spec: TrainingSpec, hosts: int) -> Iterator[str]:
    """Of a leg that ``fitted`` chose: each choice, and the GiB that the next faster one would take on each device."""
    freed = _with(spec, keep=False) if "reshard_after_forward" in spec.fit_memory else spec  # how the first two were chosen
    if "activation_checkpointing" in spec.fit_memory:
        kind = spec.activation_checkpointing
        least = min(_batches(spec, hosts)) if "local_batch_size" in spec.fit_memory else spec.local_batch_size
        faster = [_with(freed, kind=other, batch=least) for other in RECOMPUTATION[: RECOMPUTATION.index(kind)][-1:]]
        why = [f", since {one.activation_checkpointing} takes {_gib(one, hosts):.1f} with {_samples(least)}" for one in faster]
        yield f"activation_checkpointing {kind}{''.join(why)}"
    if "local_batch_size" in spec.fit_memory:
        larger = [_with(freed, batch=batch) for batch in _batches(spec, hosts) if batch > spec.local_batch_size][:1]
        why = [f", since {_samples(one.local_batch_size)} take {_gib(one, hosts):.1f}" for one in larger] or [", the whole global batch"]
        passes = (spec.global_batch_size or 0) // (spec.local_batch_size * data_parallel_ranks(spec, hosts))
        yield f"local_batch_size {spec.local_batch_size} in {passes} pass{'es' * (passes > 1)} per step{''.join(why)}"
    if "reshard_after_forward" in spec.fit_memory:
        kept = not spec.parallelism.reshard_after_forward
        needed = _gib(_with(spec, keep=True), hosts)
        said = "so that gathered weights are kept" if kept else f"since keeping gathered weights takes {needed:.1f}"
        yield f"reshard_after_forward {str(not kept).lower()}, {said}"


def _batches(spec: TrainingSpec, hosts: int) -> list[int]:
    """Samples per rank and pass of which whole passes make the global batch, the fewest first."""
    ranks, samples = max(1, data_parallel_ranks(spec, hosts)), spec.global_batch_size or 0
    return [n for n in range(1, samples // ranks + 1) if samples % (n * ranks) == 0]


def _with(spec: TrainingSpec, *, kind: Checkpointing | None = None, batch: int | None = None, keep: bool | None = None) -> TrainingSpec:
    return dataclasses.replace(
        spec,
        activation_checkpointing=kind or spec.activation_checkpointing,
        local_batch_size=batch or spec.local_batch_size,
        parallelism=spec.parallelism if keep is None else dataclasses.replace(spec.parallelism, reshard_after_forward=not keep),
    )


def _gib(spec: TrainingSpec, hosts: int) -> float:
    return device_bytes(spec, hosts) / 2**30


def _samples(number: int) -> str:
    return f"{number} sample{'s' * (number > 1)}"
