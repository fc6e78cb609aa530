"""What the GPU bench measures: the reference's four legs, and single changes to the last of them. docs/speed.md has a row for each.

A change is made of settings of TrainingSpec, or of torchtitan's own configuration where the product has no setting for it
(gpu_titan.py), or of torch's environment variables. What torchtitan 0.3.0 has no switch for is not here: it compiles block by block
with ``fullgraph`` and knows neither whole-model compilation nor compile modes, so autotuning goes through Inductor's environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gpu_titan

from contracts.config import merge, parse, to_json
from infra.run.recipes import RECIPES, REFERENCE_ABLATION
from training.memory import estimate
from training.spec import TrainingSpec

LEGS: dict[str, dict[str, Any]] = {leg.name: leg.changes for leg in REFERENCE_ABLATION}
FIRST_LEG, LAST_LEG = next(iter(LEGS)), list(LEGS)[-1]
FILL = 0.85  # of the device's memory: the estimate is within 15 %, and fragmentation takes some


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change to a leg."""

    group: str
    """Changes of one group exclude each other."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of TrainingSpec."""
    titan: Callable[[Any], None] | None = None
    """Changes a Trainer.Config in place."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the process that measures."""
    note: str = ""
    """What a reader of the table must know."""
    devices: int = 1
    """Fewer than these make no sense of it."""
    needs_compile: bool = False
    """Whether torchtitan refuses it without torch.compile."""

    @property
    def same_samples(self) -> bool:
        """Whether each step sees the samples that the legs see, so that losses compare."""
        return "local_batch_size" not in self.training and "tensor" not in self.training.get("parallelism", {})


_MEMORY, _LOSS, _TUNING, _ATTENTION = "batch and checkpointing", "loss", "autotuning", "attention"
_BORDERS = "masks attention at document borders, which plain causal attention does not"

CHANGES: dict[str, Change] = {
    "batch 1": Change(group=_MEMORY, training={"local_batch_size": 1}),
    "batch 4": Change(group=_MEMORY, training={"local_batch_size": 4}),
    "nothing checkpointed": Change(group=_MEMORY, training={"activation_checkpointing": "none"}),
    "nothing checkpointed, batch 1": Change(group=_MEMORY, training={"activation_checkpointing": "none", "local_batch_size": 1}),
    "blocks checkpointed": Change(group=_MEMORY, training={"activation_checkpointing": "full"}),
    "blocks checkpointed, batch 4": Change(group=_MEMORY, training={"activation_checkpointing": "full", "local_batch_size": 4}),
    "blocks checkpointed, batch 8": Change(group=_MEMORY, training={"activation_checkpointing": "full", "local_batch_size": 8}),
    "every second block checkpointed": Change(group=_MEMORY, titan=gpu_titan.every_second_block, note="torchtitan's earlier policy"),
    "selective, all products kept": Change(group=_MEMORY, titan=gpu_titan.keep_every_product),
    "selective, attention only kept": Change(group=_MEMORY, titan=gpu_titan.keep_attention_only),
    "memory budget 0.5": Change(
        group=_MEMORY, titan=gpu_titan.memory_budget, needs_compile=True, note="the compiler chooses what is computed again"
    ),
    "CUDA graphs": Change(
        group="CUDA graphs", titan=gpu_titan.cuda_graphs, note="forward and backward of a step are captured once and replayed"
    ),
    "max-autotune": Change(group=_TUNING, environment={"TORCHINDUCTOR_MAX_AUTOTUNE": "1"}, note="Inductor times several kernels"),
    "coordinate descent": Change(group=_TUNING, environment={"TORCHINDUCTOR_COORDINATE_DESCENT_TUNING": "1"}),
    "loss not compiled": Change(group="compiled loss", titan=gpu_titan.eager_loss),
    "loss in one piece": Change(group=_LOSS, titan=gpu_titan.whole_loss, note="all logits at once"),
    "loss in 4 chunks": Change(group=_LOSS, titan=gpu_titan.loss_chunks(4)),
    "loss in 16 chunks": Change(group=_LOSS, titan=gpu_titan.loss_chunks(16)),
    "flash before cuDNN": Change(group=_ATTENTION, titan=gpu_titan.flash_before_cudnn),
    "documents apart (FlexAttention)": Change(group=_ATTENTION, training={"attention": "documents"}, note=_BORDERS),
    "documents apart (VarlenAttention)": Change(
        group=_ATTENTION, titan=gpu_titan.varlen, note=f"FlashAttention 3 where it is installed; {_BORDERS}"
    ),
    "gathered weights kept": Change(
        group="gather", training={"parallelism": {"reshard_after_forward": False}}, note="from the forward to the backward pass"
    ),
    "two blocks gathered ahead": Change(group="prefetch", titan=gpu_titan.prefetch(2), note="torch gathers one ahead by itself"),
    "gradients reduced in BF16": Change(group="reduction", titan=gpu_titan.reduce_in_bfloat16, note="other numbers: sums in BF16"),
    "moments in BF16": Change(group="optimizer", titan=gpu_titan.moments_in_bfloat16, note="other numbers: 4 bytes less per parameter"),
    "optimizer foreach": Change(group="optimizer", titan=gpu_titan.foreach_optimizer, note="several kernels in place of the fused one"),
    "FP8 rowwise": Change(group="FP8", training={"float8": "rowwise"}),
    "FP8 rowwise, weight gradients in BF16": Change(group="FP8", training={"float8": "off"}, titan=gpu_titan.rowwise_with_gw_hp),
    "FP8 tensorwise, gather in BF16": Change(group="FP8", training={"float8": "tensorwise"}),
    "FP8, fast accumulation in the backward pass": Change(
        group="accumulation", titan=gpu_titan.fast_accumulation, note="less exact sums in the products that make gradients"
    ),
    "no FP8": Change(group="FP8", training={"float8": "off"}),
    "no expandable segments": Change(group="allocator", environment={"PYTORCH_ALLOC_CONF": "expandable_segments:False"}),
    "FSDP in symmetric memory": Change(
        group="symmetric memory", titan=gpu_titan.symmetric_memory, devices=2, note="collectives on copy engines or NVLink's own sums"
    ),
    "NCCL on 16 blocks at most": Change(group="NCCL", environment={"NCCL_MAX_CTAS": "16"}, devices=2, note="leaves more to the products"),
    "two replicas (HSDP)": Change(group="sharding", training={"parallelism": {"replicate": 2}}, devices=4),
    "tensor parallel 2": Change(group="sharding", training={"float8": "tensorwise", "parallelism": {"tensor": 2}}, devices=2),
    "tensor parallel 2, asynchronous": Change(
        group="sharding",
        training={"float8": "tensorwise", "parallelism": {"tensor": 2}},
        titan=gpu_titan.async_tensor_parallel,
        devices=2,
        needs_compile=True,
    ),
}
"""Each is one change to the last leg: recipe llama3_8b's batch 2, selective checkpointing, cuDNN attention, loss in 8 chunks."""


def changes_for(devices: int) -> list[str]:
    """Those that so many devices can tell something about."""
    return [name for name, change in CHANGES.items() if change.devices <= devices]


def base_settings(device: str, memory_bytes: int, devices: int = 1) -> dict[str, Any]:
    """llama3_8b's settings on so many devices, with as many layers as fit; a tiny shape on a CPU."""
    shared = {
        "device": device,
        "processes_per_host": devices,
        "steps": 1_000_000,
        "checkpoint": {"interval_steps": 1_000_000},
        "export": {"enabled": False},
        "log_interval_steps": 1_000_000,
    }
    settings = merge(to_json(RECIPES["llama3_8b"].training), shared)
    if device == "cpu":
        tiny = {"dim": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_dim": 192, "vocab_size": 400, "max_sequence_length": 64}
        small = {"precision": "float32", "sequence_length": 64, "checkpoint": {"async_mode": "disabled"}}
        return merge(settings, {"model": tiny, **small})
    return merge(settings, {"model": {"layers": layers_that_fit(settings, memory_bytes)}})


def layers_that_fit(settings: dict[str, Any], memory_bytes: int) -> int:
    """The largest number of layers for which every leg's estimate stays below FILL of the memory."""
    for layers in range(settings["model"]["layers"], 0, -1):
        sized = merge(settings, {"model": {"layers": layers}})
        needs = [estimate(parse(TrainingSpec, merge(sized, leg)), 1).total for leg in LEGS.values()]
        if max(needs) < FILL * memory_bytes:
            return layers
    raise SystemExit("Not one layer of Llama-3 8B fits this device")
