"""Changes of the GPU bench to torchtitan's Trainer.Config, in place, where the product has no setting. Imports torch when called."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar


def memory_budget(config: Any) -> None:
    """The compiler keeps half of the activations."""
    from torchtitan.distributed.activation_checkpoint import MemoryBudgetAC

    config.activation_checkpoint = MemoryBudgetAC.Config(memory_budget=0.5)


def keep_attention_only(config: Any) -> None:
    """Every product is computed again."""
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


def cuda_graphs(config: Any) -> None:
    """Captured once, replayed in every step. A setting once it has been measured (docs/decisions.md)."""
    config.training.disable_cuda_graphs = False


def whole_loss(config: Any) -> None:
    """No chunks."""
    config.loss = _chunked(config).loss_fn


def _chunked(config: Any) -> Any:
    if not hasattr(config.loss, "num_chunks"):
        raise ValueError("with this torch the loss is always taken in one piece")
    return config.loss


def loss_chunks(number: int) -> Callable[[Any], None]:
    """So many chunks along the sequence."""

    def change(config: Any) -> None:
        config.loss = dataclasses.replace(_chunked(config), num_chunks=number)

    return change


def eager_loss(config: Any) -> None:
    """The blocks are compiled, the loss is not."""
    config.compile.components = ["model"]


def flash_before_cudnn(config: Any) -> None:
    """torch's own flash kernel first."""
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


def varlen(config: Any) -> None:
    """Documents apart by a kernel for sequences of many lengths."""
    from torchtitan.models.common.attention import VarlenAttention

    config.dataloader.emit_positions = True
    for layer in config.model_spec.model.layers:
        layer.attention.inner_attention = VarlenAttention.Config()


def every_second_block(config: Any) -> None:
    """The policy that torchtitan had beside the selective one until 0.2 (``selective_ac_option = "2"``)."""
    from torchtitan.distributed.activation_checkpoint import FullAC

    class EverySecond(FullAC):
        """Blocks 0, 2, 4 and so on are computed again as a whole; the others keep everything."""

        @dataclass(kw_only=True, slots=True)
        class Config(FullAC.Config):
            """torchtitan's, building this class."""

        def _wrap_block(self, module: Any, *, base_fqn: str | None = None) -> Any:
            number = int((base_fqn or "").rpartition(".")[2])
            return super()._wrap_block(module, base_fqn=base_fqn) if number % 2 == 0 else module

    config.activation_checkpoint = EverySecond.Config()


def keep_every_product(config: Any) -> None:
    """Selective checkpointing that computes no matrix product again, where torchtitan's does every second one."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
    from torchtitan.distributed.activation_checkpoint import SelectiveAC

    class EveryProduct(SelectiveAC):
        """Keeps all that is expensive."""

        @dataclass(kw_only=True, slots=True)
        class Config(SelectiveAC.Config):
            """torchtitan's, building this class."""

        def _wrap_block(self, module: Any, *, base_fqn: str | None = None) -> Any:
            kept = self.get_save_ops()

            def policy(context: Any, operation: Any, *args: Any, **named: Any) -> CheckpointPolicy:
                return CheckpointPolicy.MUST_SAVE if operation in kept else CheckpointPolicy.PREFER_RECOMPUTE

            return checkpoint_wrapper(module, context_fn=lambda: create_selective_checkpoint_contexts(policy), early_stop=False)

    config.activation_checkpoint = EveryProduct.Config()


def prefetch(number: int) -> Callable[[Any], None]:
    """FSDP gathers so many blocks ahead, in both directions; by itself one, and torchtitan asks for more with experts only."""

    def change(config: Any) -> None:
        spec = config.model_spec

        def parallelize(model: Any, **arguments: Any) -> Any:
            model = spec.parallelize_fn(model, **arguments)
            blocks = list(model.layers.values())
            for at, block in enumerate(blocks):
                block.set_modules_to_forward_prefetch(blocks[at + 1 : at + 1 + number])
                block.set_modules_to_backward_prefetch(blocks[max(0, at - number) : at][::-1])
            return model

        config.model_spec = dataclasses.replace(spec, parallelize_fn=parallelize)

    return change


def reduce_in_bfloat16(config: Any) -> None:
    """0.3.0's type allows float32 alone; FSDP takes both (torchtitan's main branch too, since pytorch/torchtitan#4597)."""
    config.training.mixed_precision_reduce = "bfloat16"


def moments_in_bfloat16(config: Any) -> None:
    """Adam's two moments in BF16, updated by the fused kernel."""
    config.optimizer.implementation = "fused_opt_states_bf16"


def foreach_optimizer(config: Any) -> None:
    """torch's multi-tensor kernels in place of the fused one."""
    config.optimizer.implementation = "foreach"


def rowwise_with_gw_hp(config: Any) -> None:
    """torchao's most exact recipe, by torchtitan's own converter; the leg itself has no FP8."""
    import torch
    from torchtitan.components.quantization import Float8LinearConverter

    from training.float8 import SKIPPED

    emulate = not torch.cuda.is_available()
    converter = Float8LinearConverter.Config(
        recipe_name="rowwise_with_gw_hp", filter_fqns=SKIPPED, emulate=emulate, model_compile_enabled=config.compile.enable and not emulate
    )
    converter.build().convert(config.model_spec.model)


def fast_accumulation(config: Any) -> None:
    """torchao accumulates fast in the forward product alone."""
    from torchao.float8.config import Float8GemmConfig
    from torchtitan.models.common.linear import Linear

    fast = Float8GemmConfig(use_fast_accum=True)
    for _, layer, _, _ in config.model_spec.model.traverse(Linear.Config):
        if getattr(layer, "_torchao_config", None) is not None:
            layer._torchao_config = dataclasses.replace(layer._torchao_config, gemm_config_grad_input=fast, gemm_config_grad_weight=fast)


def symmetric_memory(config: Any) -> None:
    """FSDP's buffers in memory that the devices of a host share."""
    config.parallelism.enable_fsdp_symm_mem = True


def async_tensor_parallel(config: Any) -> None:
    """Inductor cuts tensor-parallel collectives into pieces that run beside the products."""
    config.compile.enable_async_tensor_parallel = True
