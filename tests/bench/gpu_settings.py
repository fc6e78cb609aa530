"""What the GPU bench measures: the reference's four legs, and single changes to the last of them.

A change is made of settings of TrainingSpec, or of torchtitan's own configuration where the product has no setting for it, or
of torch's environment variables. What torchtitan 0.3.0 has no switch for is not here: it compiles block by block with
``fullgraph`` and knows neither whole-model compilation nor compile modes, so autotuning goes through Inductor's environment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

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

    @property
    def same_samples(self) -> bool:
        """Whether each step sees the samples that the legs see, so that losses compare."""
        return "local_batch_size" not in self.training

    @property
    def needs_compile(self) -> bool:
        """Whether torchtitan refuses it without torch.compile."""
        return self.titan is _memory_budget


def _memory_budget(config: Any) -> None:
    from torchtitan.distributed.activation_checkpoint import MemoryBudgetAC

    config.activation_checkpoint = MemoryBudgetAC.Config(memory_budget=0.5)


def _keep_attention_only(config: Any) -> None:
    import torch
    from torchtitan.distributed.activation_checkpoint import SelectiveAC

    class AttentionOnly(SelectiveAC):
        """Keeps the attention kernels' outputs and computes every product again."""

        @dataclass(kw_only=True, slots=True)
        class Config(SelectiveAC.Config):
            """torchtitan's, building this class."""

        def get_save_ops(self) -> set[Any]:
            return {op for op in super().get_save_ops() if "attention" in str(op) or op is torch._higher_order_ops.flex_attention}

    config.activation_checkpoint = AttentionOnly.Config()


def _cuda_graphs(config: Any) -> None:
    config.training.disable_cuda_graphs = False


def _whole_loss(config: Any) -> None:
    config.loss = _chunked(config).loss_fn


def _chunked(config: Any) -> Any:
    if not hasattr(config.loss, "num_chunks"):
        raise ValueError("with this torch the loss is always taken in one piece")
    return config.loss


def _loss_chunks(number: int) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        config.loss = dataclasses.replace(_chunked(config), num_chunks=number)

    return change


def _eager_loss(config: Any) -> None:
    config.compile.components = ["model"]


def _keep_gathered(config: Any) -> None:
    config.parallelism.fsdp_reshard_after_forward = "never"


def _flash_before_cudnn(config: Any) -> None:
    from torch.nn.attention import SDPBackend
    from torchtitan.models.common.attention import ScaledDotProductAttention

    class FlashFirst(ScaledDotProductAttention):
        """torch's own flash kernel, before cuDNN's."""

        sdpa_backends: ClassVar = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]

        @dataclass(kw_only=True, slots=True)
        class Config(ScaledDotProductAttention.Config):
            """torchtitan's, building this class."""

    for layer in config.model_spec.model.layers:
        layer.attention.inner_attention = FlashFirst.Config()


def _varlen(config: Any) -> None:
    from torchtitan.models.common.attention import VarlenAttention

    config.dataloader.emit_positions = True
    for layer in config.model_spec.model.layers:
        layer.attention.inner_attention = VarlenAttention.Config()


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
    "selective, attention only kept": Change(group=_MEMORY, titan=_keep_attention_only),
    "memory budget 0.5": Change(group=_MEMORY, titan=_memory_budget, note="the compiler chooses what is computed again"),
    "CUDA graphs": Change(group="CUDA graphs", titan=_cuda_graphs, note="forward and backward of a step are captured once and replayed"),
    "max-autotune": Change(group=_TUNING, environment={"TORCHINDUCTOR_MAX_AUTOTUNE": "1"}, note="Inductor times several kernels"),
    "coordinate descent": Change(group=_TUNING, environment={"TORCHINDUCTOR_COORDINATE_DESCENT_TUNING": "1"}),
    "loss not compiled": Change(group="compiled loss", titan=_eager_loss),
    "loss in one piece": Change(group=_LOSS, titan=_whole_loss, note="all logits at once"),
    "loss in 4 chunks": Change(group=_LOSS, titan=_loss_chunks(4)),
    "loss in 16 chunks": Change(group=_LOSS, titan=_loss_chunks(16)),
    "flash before cuDNN": Change(group=_ATTENTION, titan=_flash_before_cudnn),
    "documents apart (FlexAttention)": Change(group=_ATTENTION, training={"attention": "documents"}, note=_BORDERS),
    "documents apart (VarlenAttention)": Change(
        group=_ATTENTION, titan=_varlen, note=f"FlashAttention 3 where it is installed; {_BORDERS}"
    ),
    "gathered weights kept": Change(group="FSDP", titan=_keep_gathered, note="from the forward to the backward pass"),
    "FP8 rowwise": Change(group="FP8", training={"float8": "rowwise"}),
    "FP8 tensorwise, gather in BF16": Change(group="FP8", training={"float8": "tensorwise"}),
    "no FP8": Change(group="FP8", training={"float8": "off"}),
}
"""Each is one change to the last leg: recipe llama3_8b's batch 2, selective checkpointing, cuDNN attention, loss in 8 chunks."""


def base_settings(device: str, memory_bytes: int) -> dict[str, Any]:
    """llama3_8b's settings on one device, with as many layers as fit; a tiny shape on a CPU."""
    shared = {
        "device": device,
        "processes_per_host": 1,
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
