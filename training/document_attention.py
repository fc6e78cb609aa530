"""Attention by documents on CPUs, where FlexAttention has no backward pass and flash kernels do not exist: a dense mask.

torchtitan hands the document borders of a batch to whatever stands where VarlenAttention stands. The mask takes samples x tokens^2
bytes, which CPU tests and the embedded AWS can afford; on CUDA the same setting is FlexAttention with a block mask.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torchtitan.models.common.attention import VarlenAttention, VarlenMetadata
from torchtitan.protocols.model_spec import ModelSpec


class DocumentAttention(VarlenAttention):
    """Causal attention of each token to its own document."""

    @dataclass(kw_only=True, slots=True)
    class Config(VarlenAttention.Config):
        """Nothing of its own; the base class makes torchtitan give it the documents' borders."""

    def forward(
        self, q_BLNH: torch.Tensor, k_BLNH: torch.Tensor, v_BLNH: torch.Tensor, *, attention_masks: VarlenMetadata, **rest: Any
    ) -> torch.Tensor:
        """(B, L, N, H) of queries and (B, L, N or fewer, H) of keys and values -> (B, L, N, H)."""
        samples, length = q_BLNH.shape[:2]
        tokens = torch.arange(samples * length)
        document = torch.searchsorted(attention_masks.cu_seq_q[1:], tokens.to(attention_masks.cu_seq_q.dtype), right=True)
        document = document.view(samples, length)
        same = document[:, :, None] == document[:, None, :]
        mask = same & torch.ones(length, length, dtype=torch.bool).tril()
        query, key, value = (x.transpose(1, 2) for x in (q_BLNH, k_BLNH, v_BLNH))
        out = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask[:, None], scale=rest.get("scale"), enable_gqa=query.shape[1] != key.shape[1]
        )
        return out.transpose(1, 2)


def on_cpu(spec: ModelSpec) -> ModelSpec:
    """The model whose layers attend by documents without FlexAttention."""
    layers = [dataclasses.replace(layer) for layer in spec.model.layers]
    for layer in layers:
        layer.attention = dataclasses.replace(layer.attention, inner_attention=DocumentAttention.Config())
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, layers=layers))
