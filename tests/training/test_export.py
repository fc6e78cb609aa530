"""The export's names, config.json and rope scaling: transformers computes what torchtitan computes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torchtitan.models.llama3.model import Llama3Model
from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter
from transformers import LlamaConfig, LlamaForCausalLM

from training.model import hugging_face_config, model_spec
from training.spec import ModelShape

SHAPE = ModelShape(dim=64, layers=2, heads=4, kv_heads=2, ffn_dim=160, vocab_size=300, max_sequence_length=512)
SHAPES = {
    "untied": SHAPE,
    "tied": dataclasses.replace(SHAPE, tie_embeddings=True),
    "rope scaling": dataclasses.replace(SHAPE, rope_scaling="llama3"),
    "other epsilon and base": dataclasses.replace(SHAPE, norm_eps=1e-3, rope_theta=10_000.0),
}


def built(shape: ModelShape) -> tuple[Llama3Model.Config, Llama3Model]:
    """A model whose attention counts: at its own initialisation the positions hardly reach the logits."""
    torch.manual_seed(1)
    config = model_spec(shape).model
    model = config.build()
    model.init_states(buffer_device=torch.device("cpu"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention.qkv" in name or "attention.wo" in name:
                parameter.mul_(15)
    return config, model


@pytest.mark.parametrize("name", SHAPES)
def test_logits_in_transformers_are_torchtitans_within_one_in_ten_thousand(name: str) -> None:
    shape = SHAPES[name]
    config, ours = built(shape)
    exported = Llama3StateDictAdapter(config, None).to_hf(ours.state_dict())
    described = LlamaConfig(**hugging_face_config(shape, dtype="float32", bos_id=0, eos_id=1))
    theirs = LlamaForCausalLM(described)
    missing, unexpected = theirs.load_state_dict(exported, strict=False)
    assert unexpected == []
    assert missing == (["lm_head.weight"] if shape.tie_embeddings else [])
    theirs.tie_weights()
    tokens = torch.randint(0, shape.vocab_size, (2, 512))
    with torch.no_grad():
        assert (ours(tokens) - theirs.eval()(tokens).logits).abs().max() < 1e-4


def test_rope_scaling_changes_the_logits_so_that_the_comparison_means_something() -> None:
    tokens = torch.arange(512).remainder(300).unsqueeze(0)
    logits = []
    for name in ("untied", "rope scaling"):
        _, model = built(SHAPES[name])
        with torch.no_grad():
            logits.append(model(tokens))
    assert (logits[0] - logits[1]).abs().max() > 1e-3
