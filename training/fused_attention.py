"""Fused query, key and value weights in checkpoints and exports.

torchtitan's state dict gathers each fused weight on every rank and splits it into three whole ones. A checkpoint would hold them
for every rank to read whole: 26.8 GB of Llama-3 70B a rank, 215 GB a host, twice its share of everything else; and the gathered
copies stay in each device's memory. So the state dict shows the fused weight as it lies, sharded, and only the export splits it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torchtitan.models.common.attention import FusedQKVLinear
from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter

FUSED = "qkv_linear.wqkv.weight"


def keep_fused(models: Iterable[nn.Module]) -> None:
    """Let the models' state dicts show fused weights as they are, and take them back so."""
    for model in models:
        for module in model.modules():
            if isinstance(module, FusedQKVLinear):
                module._state_dict_hooks.clear()
                module._load_state_dict_pre_hooks.clear()


def split(fused: torch.Tensor, heads: int, kv_heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value weights of a whole fused one: groups of heads / kv_heads query heads, one key and one value head."""
    per_group = heads // kv_heads
    grouped = fused.reshape(kv_heads, per_group + 2, -1, fused.shape[1])
    parts = (grouped[:, :per_group], grouped[:, per_group], grouped[:, per_group + 1])
    query, key, value = (part.reshape(-1, fused.shape[1]).contiguous() for part in parts)
    return query, key, value


class SplittingAdapter(Llama3StateDictAdapter):
    """torchtitan's adapter to Hugging Face's names, which also takes fused weights."""

    def to_hf(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Hugging Face's weights; a fused one becomes three."""
        attention = self.model_config.layers[0].attention
        apart: dict[str, Any] = {}
        for name, value in state_dict.items():
            if name.endswith(FUSED):
                stem = name.removesuffix("wqkv.weight")
                parts = split(value, attention.n_heads, attention.n_kv_heads or attention.n_heads)
                apart |= {f"{stem}{part}.weight": tensor for part, tensor in zip(("wq", "wk", "wv"), parts, strict=True)}
            else:
                apart[name] = value
        converted: dict[str, Any] = super().to_hf(apart)
        return converted
