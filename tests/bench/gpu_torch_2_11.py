"""Stand-ins that let torchtitan 0.3.0 run with torch 2.11 on one device, for the GPU bench alone; the product needs torch 2.14.

torchtitan 0.3.0 was written for later torch: it imports ``DataParallelMeshDims`` and calls ``dist.set_timeout``, neither of
which 2.11 has, its default SPMD backend needs the first, and its chunked loss needs an FSDP that can unshard twice.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

DATASETS = {"datasets": ("Dataset", "load_dataset"), "datasets.distributed": ("split_dataset_by_node",)}


def torch_version() -> tuple[int, ...]:
    """Major and minor."""
    import torch

    return tuple(int(part) for part in torch.__version__.split(".")[:2])


def install() -> None:
    """Put in place what is missing; before anything of torchtitan is imported."""
    import torch.distributed as dist
    import torch.distributed.fsdp as fsdp

    if not hasattr(fsdp, "DataParallelMeshDims"):

        class DataParallelMeshDims:
            """Named in annotations; only other SPMD backends make one."""

        fsdp.DataParallelMeshDims = DataParallelMeshDims
    if not hasattr(dist, "set_timeout"):
        dist.set_timeout = lambda timeout, group=None: None  # one device waits for nobody
    if importlib.util.find_spec("datasets") is None:  # torchtitan imports it for its own loader, which the bench does not use
        for name, contents in DATASETS.items():
            module = types.ModuleType(name)
            module.__dict__.update(dict.fromkeys(contents))
            sys.modules[name] = module


def adapt(config: Any) -> None:
    """Settings of a Trainer.Config that this torch can carry out."""
    if torch_version() < (2, 14):
        config.parallelism.spmd_backend = "partial_dtensor"
    if torch_version() < (2, 12):
        config.loss = getattr(config.loss, "loss_fn", config.loss)
