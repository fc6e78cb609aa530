"""ModelShape -> torchtitan's Llama-3 as a ModelSpec, and the Hugging Face config.json of the same shape."""

from __future__ import annotations

from typing import Any

from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.llama3 import (
    _EMBEDDING_INIT,
    _EMBEDDING_SKIP_INIT,
    _NORM_INIT,
    _build_llama3_layers,
    _output_linear_init,
    parallelize_llama,
)
from torchtitan.models.llama3.model import Llama3Model
from torchtitan.protocols.model_spec import ModelSpec

from contracts.config import Json
from contracts.llama_config import LLAMA3_SCALING
from training.fused_attention import SplittingAdapter
from training.spec import Attention, ModelShape


def model_spec(shape: ModelShape, *, attention: Attention = "causal", name: str = "leg") -> ModelSpec:
    """torchtitan's Llama-3 of this shape, with its own initialisation, sharding and parallelisation."""
    tied = shape.tie_embeddings
    layers = _build_llama3_layers(
        n_layers=shape.layers,
        dim=shape.dim,
        n_heads=shape.heads,
        n_kv_heads=shape.kv_heads,
        hidden_dim=shape.ffn_dim,
        attn_backend="flex",
        rope=_rope(shape),
    )
    for layer in layers:
        layer.attention_norm, layer.ffn_norm = _norm(shape), _norm(shape)
        if attention == "causal":
            layer.attention.inner_attention = ScaledDotProductAttention.Config()
    config = Llama3Model.Config(
        dim=shape.dim,
        vocab_size=shape.vocab_size,
        enable_weight_tying=tied,
        tok_embeddings=Embedding.Config(
            num_embeddings=shape.vocab_size,
            embedding_dim=shape.dim,
            # A tied embedding takes the output layer's initialisation.
            param_init=_EMBEDDING_SKIP_INIT if tied else _EMBEDDING_INIT,
        ),
        norm=_norm(shape),
        lm_head=Linear.Config(in_features=shape.dim, out_features=shape.vocab_size, param_init=_output_linear_init(shape.dim)),
        layers=layers,
    )
    return ModelSpec(
        name="llama3",
        flavor=name,
        model=config,
        parallelize_fn=parallelize_llama,
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=None,
        state_dict_adapter=SplittingAdapter,
    )


def _norm(shape: ModelShape) -> RMSNorm.Config:
    return RMSNorm.Config(normalized_shape=shape.dim, eps=shape.norm_eps, param_init=_NORM_INIT)


def _rope(shape: ModelShape) -> ComplexRoPE.Config:
    return ComplexRoPE.Config(
        dim=shape.dim // shape.heads,
        max_seq_len=shape.max_sequence_length,
        theta=shape.rope_theta,
        scaling="llama" if shape.rope_scaling == "llama3" else "none",
        scaling_factor=shape.rope_scaling_factor,  # the other three are torchtitan's defaults: LLAMA3_SCALING
    )


def hugging_face_config(shape: ModelShape, *, dtype: str, bos_id: int | None, eos_id: int | None) -> Json:
    """config.json of a LlamaForCausalLM with this shape."""
    scaling = {"rope_type": "llama3", "factor": shape.rope_scaling_factor, **LLAMA3_SCALING}
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.dim,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.dim // shape.heads,
        "intermediate_size": shape.ffn_dim,
        "vocab_size": shape.vocab_size,
        "rms_norm_eps": shape.norm_eps,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_sequence_length,
        "rope_theta": shape.rope_theta,
        "rope_scaling": scaling if shape.rope_scaling == "llama3" else None,
        "tie_word_embeddings": shape.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": dtype,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
    }
    return config
