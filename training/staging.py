"""Where a checkpoint waits while it is written, and what happens when there is no room.

``async_with_pinned_mem`` copies every rank's part into pinned memory that it shares with the process that writes. That memory
is a file in /dev/shm: 12 bytes per parameter with AdamW over all ranks of a host (8B on one host: 96 GB; HSDP's replicas hold
one copy each). A page that /dev/shm cannot back kills the rank with SIGBUS, so all ranks agree on ``async`` when a host is short.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torchtitan.components.checkpoint import AsyncMode, CheckpointManager
from torchtitan.tools.logging import logger

from training.checks import MIN_SHM_BYTES

SHARED_MEMORY = Path("/dev/shm")
MOMENTS = {"AdamW": 2, "Muon": 1}  # float32, of the parameter's size


@dataclass(frozen=True, kw_only=True)
class Staging:
    """How checkpoints of this attempt are saved."""

    asked: str
    """training.checkpoint.async_mode."""
    used: str
    """What all ranks agreed on."""
    reason: str | None = None
    """Why they differ."""


def staged_bytes(checkpointer: CheckpointManager) -> int:
    """What this rank's part of a checkpoint takes: the storages of its weights, as a state dict shows them, and their moments."""
    weights = [local(value).untyped_storage() for value in checkpointer.states["model"].state_dict().values()]
    total = sum({storage.data_ptr(): storage.nbytes() for storage in weights}.values())
    for optimizer in checkpointer.states["optimizer"]:
        moments = MOMENTS[type(optimizer).__name__]
        total += sum(4 * moments * local(parameter).numel() for group in optimizer.param_groups for parameter in group["params"])
    return total


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def free_bytes() -> int:
    """Of /dev/shm, on this host."""
    return shutil.disk_usage(SHARED_MEMORY).free


def agree_on_staging(checkpointer: CheckpointManager) -> Staging:
    """Look before the first step whether every host has room, and set the checkpointer's mode. Collective."""
    asked = checkpointer.async_mode
    if asked != AsyncMode.ASYNC_WITH_PINNED_MEM:
        return Staging(asked=asked.value, used=asked.value)
    views: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(views, (os.uname().nodename, staged_bytes(checkpointer), free_bytes()), group=checkpointer.pg)
    reason = shortage(views)
    if reason is None:
        return Staging(asked=asked.value, used=asked.value)
    checkpointer.async_mode = AsyncMode.ASYNC
    if dist.get_rank() == 0:
        logger.warning(f"Checkpoints are saved with async instead of {asked.value}: {reason}")
    return Staging(asked=asked.value, used=AsyncMode.ASYNC.value, reason=reason)


def shortage(views: list[tuple[str, int, int]]) -> str | None:
    """The first host without room, in words. ``views``: each rank's host, bytes to stage and free bytes."""
    for host in dict.fromkeys(name for name, _, _ in views):
        needed = sum(size for name, size, _ in views if name == host)
        free = min(left for name, _, left in views if name == host)
        if needed + MIN_SHM_BYTES > free:
            return (
                f"staging takes {needed / 2**30:.1f} GiB of /dev/shm on {host} beside NCCL's 1, and {free / 2**30:.1f} GiB are free there"
            )
    return None
