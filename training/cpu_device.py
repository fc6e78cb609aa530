"""torchtitan on CPUs (gloo): all differences from CUDA, in one place.

torchtitan 0.3.0 asks torch for an accelerator once, at import, and takes CUDA when there is none. ``select_cpu`` sets that
answer before the rest of torchtitan is imported. Two more things differ here, both through ModelSpec: gloo cannot pre-multiply
sums, and DTensor has no random numbers per shard on CPU meshes. (The third is training/document_attention.py.)

The names of torchtitan touched here are pinned by tests/training/test_torchtitan_contract.py.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import resource
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")


class CpuModule:
    """``torch.cpu`` with the calls of ``torch.cuda`` that torchtitan makes; memory is the process's resident set."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    @staticmethod
    def get_device_name(device: object = None) -> str:
        """A device name that is in no table of accelerators."""
        return f"CPU ({platform.machine()})"

    @staticmethod
    def current_device() -> int:
        """``torch.cpu.current_device()`` is the string "cpu", which ``dist.barrier`` rejects."""
        return 0

    @staticmethod
    def get_device_properties(device: object = None) -> SimpleNamespace:
        """The machine's memory in bytes."""
        return SimpleNamespace(name="cpu", total_memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

    @staticmethod
    def memory_stats(device: object = None) -> dict[str, int]:
        """Peak resident set of this process; torch keeps no count of CPU tensors."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
        return {"active_bytes.all.peak": peak, "reserved_bytes.all.peak": peak, "num_alloc_retries": 0, "num_ooms": 0}

    @staticmethod
    def reset_peak_memory_stats(device: object = None) -> None:
        """The kernel keeps the peak for the life of the process."""

    @staticmethod
    def empty_cache() -> None:
        """CPU memory has no cache to empty."""


def select_cpu() -> None:
    """Make torchtitan train on CPUs. Call before anything else of torchtitan is imported; calling again does nothing."""
    loaded = "torchtitan.tools.utils" in sys.modules
    import torchtitan.tools.utils as titan

    if loaded and titan.device_type != "cpu":
        raise RuntimeError("torchtitan was imported for another device before select_cpu()")
    titan.device_type = "cpu"
    if not isinstance(titan.device_module, CpuModule):
        titan.device_module = CpuModule()


def adapt_model_spec(spec: Any, seed: int) -> Any:
    """A ModelSpec whose parallelised model communicates over gloo and starts from weights that depend on ``seed`` alone."""
    return dataclasses.replace(spec, parallelize_fn=_adapted(spec.parallelize_fn, seed))


def _adapted(parallelize: Callable[..., nn.Module], seed: int) -> Callable[..., nn.Module]:
    def parallelize_for_cpu(model: nn.Module, **arguments: Any) -> nn.Module:
        model = parallelize(model, **arguments)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)  # gloo has no PREMUL_SUM
        initialise: Callable[..., None] = model.init_weights  # type: ignore[assignment]

        def init_weights(**inner: Any) -> None:
            initialise(**inner)
            _copy_from_whole_model(model, seed)

        model.init_weights = init_weights  # type: ignore[assignment]
        return model

    return parallelize_for_cpu


def _copy_from_whole_model(model: nn.Module, seed: int) -> None:
    """Cut this rank's shards out of one unsharded model.

    Random initialisation in place gives every rank of a CPU mesh the same numbers for its shard, so the full weight would
    be the same block repeated. Each rank builds the whole model instead: CPU models are small.
    """
    from training.float8 import plain  # torchtitan is imported by now

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = model.config.build()  # type: ignore[union-attr,operator]
        whole.init_states(buffer_device=torch.device("cpu"))
    source = {canonical_name(name): plain(value.detach()) for name, value in whole.named_parameters(remove_duplicate=False)}
    for name, parameter in model.named_parameters():
        value = source[canonical_name(name)].to(parameter.dtype)
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
            plain(parameter.to_local()).copy_(value.to_local())
        else:
            plain(parameter).copy_(value)


def canonical_name(name: str) -> str:
    """A parameter's name without the wrappers of checkpointing and compilation."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name
