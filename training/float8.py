"""FP8 linear layers, with the weights' FSDP all-gather in FP8 that torchtitan dropped after 0.2.2.

torchtitan 0.3.0 offers rowwise scaling only. Tensorwise scaling is faster on H100, and lets FSDP gather one byte per weight
instead of two: torchao's ``WeightWithDynamicFloat8CastTensor`` is the sharded parameter, casts itself before the gather, and
takes its scale from one all-reduce over all weights after each optimiser step.

The subclass never leaves the model: state dicts show the plain weight below it, sharing its memory. Checkpoints and exports
of a float8 leg are those of any other leg, and load into one of any precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torchao.float8 import Float8LinearConfig, precompute_float8_dynamic_scale_for_fsdp
from torchao.float8.fsdp_utils import WeightWithDynamicFloat8CastTensor
from torchtitan.components.quantization import Float8Linear, Float8LinearConverter
from torchtitan.components.quantization.utils import module_filter_fn
from torchtitan.models.common.linear import Linear

from training.spec import Float8

SKIPPED = ["lm_head"]  # the output layer decides the loss; torchtitan and torchao leave it in high precision too


class GatheredFloat8Linear(Float8Linear):
    """Float8Linear whose weight FSDP gathers in FP8. Weight: (out_features, in_features)."""

    @dataclass(kw_only=True, slots=True)
    class Config(Float8Linear.Config):
        """torchtitan's, building this class."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        weight: nn.Parameter = self.weight  # type: ignore[has-type]
        wrapped = WeightWithDynamicFloat8CastTensor(weight, self.linear_mm_config, self.config.cast_config_weight.target_dtype)
        self.weight = nn.Parameter(wrapped, requires_grad=weight.requires_grad)
        self.register_state_dict_post_hook(_show_plain_weight)
        self.register_load_state_dict_post_hook(_forget_scale)


def convert(model_config: Any, recipe: Float8, *, emulate: bool, compiled: bool) -> Any:
    """The model config with its linear layers in FP8, the output layer left out.

    ``emulate`` computes the same rounding in high precision, for CPUs.
    """
    if recipe == "off":
        return model_config
    if recipe == "rowwise" and not emulate:
        chosen = Float8LinearConverter.Config(recipe_name="rowwise", filter_fqns=SKIPPED, model_compile_enabled=compiled)
        return chosen.build().convert(model_config)
    for name, linear, parent, attribute in list(model_config.traverse(Linear.Config)):
        if module_filter_fn(linear, name, SKIPPED):
            layer = _layer_config(linear, recipe, emulate)
            if isinstance(parent, list):
                parent[attribute] = layer
            else:
                setattr(parent, attribute, layer)
    return model_config


def _layer_config(linear: Any, recipe: Float8, emulate: bool) -> Any:
    gathered = recipe == "tensorwise_all_gather"
    settings: dict[str, Any] = {"enable_fsdp_float8_all_gather": gathered, "emulate": emulate}
    scaling = Float8LinearConfig.from_recipe_name("rowwise") if recipe == "rowwise" else Float8LinearConfig(**settings)
    if recipe == "rowwise":
        object.__setattr__(scaling, "emulate", emulate)  # from_recipe_name takes no emulate, and the class is frozen
    built: type[Any] = GatheredFloat8Linear if gathered else Float8Linear
    return built.Config(
        in_features=linear.in_features,
        out_features=linear.out_features,
        bias=linear.bias,
        param_init=linear.param_init,
        _torchao_config=scaling,
    )


def precompute_scales(optimizers: Any, model_parts: list[nn.Module], parallel_dims: Any) -> None:
    """ModelSpec's ``post_optimizer_build_fn``: after each step, all scales of the next gather with one all-reduce."""

    kept: dict[int, torch.Tensor] = {}  # by model part; torchao's scales are views into one vector

    def after_step(*_: Any) -> None:
        for number, part in enumerate(model_parts):
            precompute_float8_dynamic_scale_for_fsdp(part)
            weights = [weight for module in part.modules() for weight in _gathered(module) if weight._precomputed_scale is not None]
            if not weights:
                continue
            scales = torch.stack([weight._precomputed_scale for weight in weights])
            # Always in the same memory: a captured CUDA graph reads the scales where they were when it was captured.
            kept[number] = kept[number].copy_(scales) if number in kept else scales
            for weight, scale in zip(weights, kept[number], strict=True):
                weight._precomputed_scale = scale

    optimizers.register_step_post_hook(after_step)


def after_optimizer_build(recipe: Float8) -> Callable[..., None] | None:
    """What ModelSpec runs once the optimisers exist."""
    return precompute_scales if recipe == "tensorwise_all_gather" else None


def plain(weight: torch.Tensor) -> torch.Tensor:
    """The high-precision tensor inside an FP8-gathered weight, sharing its memory; any other tensor as it is."""
    if isinstance(weight, WeightWithDynamicFloat8CastTensor):
        return weight._tensor  # type: ignore[no-any-return]
    if isinstance(weight, DTensor) and isinstance(weight._local_tensor, WeightWithDynamicFloat8CastTensor):
        local = weight._local_tensor._tensor
        return DTensor.from_local(local, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride())
    return weight


def _show_plain_weight(module: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    name = f"{prefix}weight"
    with torch.no_grad():
        state[name] = plain(state[name].detach())


def _forget_scale(module: nn.Module, incompatible: object) -> None:
    """A loaded weight has another scale; the next gather computes it, later ones take the precomputed one."""
    for local in _gathered(module):
        local._precomputed_scale = None


def _gathered(module: nn.Module) -> Iterator[WeightWithDynamicFloat8CastTensor]:
    for parameter in module.parameters(recurse=False):
        local = parameter._local_tensor if isinstance(parameter, DTensor) else parameter
        if isinstance(local, WeightWithDynamicFloat8CastTensor):
            yield local
