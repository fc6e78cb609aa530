"""How much memory a leg needs on each device, before anything is paid for. Pure Python: Admit reads it in a Lambda."""

from __future__ import annotations

from training.spec import ModelShape


def parameter_count(shape: ModelShape) -> int:
    """Parameters, a tied embedding counted once."""
    head = shape.dim // shape.heads
    attention = shape.dim * head * (2 * shape.heads + 2 * shape.kv_heads)
    block = attention + 3 * shape.dim * shape.ffn_dim + 2 * shape.dim
    vocabularies = 1 if shape.tie_embeddings else 2
    return shape.layers * block + vocabularies * shape.vocab_size * shape.dim + shape.dim
