"""Hugging Face's config.json of a Llama against ``training.model``: what differs, and the setting that would fit.

Both sides are plain JSON here, because data preparation asks as well, and knows no TrainingSpec. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from contracts.config import Json, Problem
from contracts.weights_folder import DTYPE_BYTES, ModelFolder

ARCHITECTURE = "LlamaForCausalLM"
SETTINGS = {
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "ffn_dim",
    "vocab_size": "vocab_size",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
    "rope_theta": "rope_theta",
    "rope_scaling": "rope_scaling",
    "rope_scaling_factor": "rope_scaling_factor",
}
"""config.json's name -> the setting below ``training.model``. The two last and the base come from :func:`rope_of`."""
DEFAULTS = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False}
"""transformers' LlamaConfig, for keys that a config.json leaves out."""
LLAMA3_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What Llama 3.1, 3.2 and 3.3 have in common; their factor is 8 or 32."""
IGNORED_WEIGHT = "rotary_emb.inv_freq"
"""End of a name that early exports hold: computed from the config, and no parameter."""
MOST_NAMED = 3


def rope_of(config: Json) -> tuple[float | None, Json]:
    """Base and scaling of the rotary embedding: ``rope_theta`` and ``rope_scaling``, or transformers 5's ``rope_parameters``."""
    both = config.get("rope_parameters")
    scaling = both if isinstance(both, dict) else config.get("rope_scaling")
    scaling = scaling if isinstance(scaling, dict) else {}
    return scaling.get("rope_theta", config.get("rope_theta", 10_000.0)), scaling


def config_problems(config: Json, model: Json) -> Iterator[Problem]:
    """What in ``config`` (config.json) differs from ``model`` (``training.model``). Paths are below ``training``."""
    architecture = config.get("architectures") or [config.get("model_type")]
    if architecture not in ([ARCHITECTURE], ["llama"]):
        yield Problem("initial", f"config.json describes {json.dumps(architecture)[:80]}, and only {ARCHITECTURE} is trained here")
        return
    if config.get("quantization_config"):
        yield Problem("initial", "config.json has a quantization_config; name weights in bfloat16, float16 or float32")
    theta, scaling = rope_of(config)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "llama3"):
        yield Problem("initial", f'config.json scales the rotary embedding by "{kind}", and only llama3 scaling is known here')
    for key, value in LLAMA3_SCALING.items() if kind == "llama3" else ():
        if scaling.get(key) != value:
            yield Problem(
                "initial", f"config.json has {key}={scaling.get(key)} in its rope scaling, and {value:g} is what is computed here"
            )
    for key, allowed in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if config.get(key, allowed) not in (allowed, None):
            yield Problem("initial", f"config.json has {key}={json.dumps(config[key])}, and only {json.dumps(allowed)} is computed here")
    found = {**DEFAULTS, **config, "rope_theta": theta, "rope_scaling": "llama3" if kind == "llama3" else "none"}
    found["rope_scaling_factor"] = scaling.get("factor") if kind == "llama3" else model.get("rope_scaling_factor")
    if found.get("num_key_value_heads") is None:
        found["num_key_value_heads"] = found.get("num_attention_heads")
    for key, setting in SETTINGS.items():
        theirs, ours = found.get(key), model.get(setting)
        if theirs != ours:
            yield Problem(
                f"model.{setting}", f"it is {json.dumps(ours)}, and the weights' config.json has {key}={json.dumps(theirs)}; {_fix(theirs)}"
            )
    head = found.get("head_dim")
    width, heads = found.get("hidden_size"), found.get("num_attention_heads")
    if head is not None and isinstance(width, int) and isinstance(heads, int) and head * heads != width:
        yield Problem("initial", f"config.json has heads of {head}, and only hidden_size / num_attention_heads is computed here")


def _fix(value: Any) -> str:
    return "that key is missing there" if value is None else f"set it to {json.dumps(value)}"


def expected_weights(model: Json) -> dict[str, tuple[int, ...]]:
    """Hugging Face's names and shapes of a model's weights; a tied output layer is none of them."""
    dim, ffn, vocabulary = model["dim"], model["ffn_dim"], model["vocab_size"]
    key_rows = dim // model["heads"] * model["kv_heads"]
    layer = {
        "self_attn.q_proj": (dim, dim), "self_attn.k_proj": (key_rows, dim), "self_attn.v_proj": (key_rows, dim),
        "self_attn.o_proj": (dim, dim), "mlp.gate_proj": (ffn, dim), "mlp.up_proj": (ffn, dim), "mlp.down_proj": (dim, ffn),
        "input_layernorm": (dim,), "post_attention_layernorm": (dim,),
    }  # fmt: skip
    ends = {"model.embed_tokens.weight": (vocabulary, dim), "model.norm.weight": (dim,)}
    if not model["tie_embeddings"]:
        ends["lm_head.weight"] = (vocabulary, dim)
    return ends | {f"model.layers.{number}.{name}.weight": shape for number in range(model["layers"]) for name, shape in layer.items()}


def weight_problems(folder: ModelFolder, model: Json) -> Iterator[Problem]:
    """What the weights of ``folder`` lack, or have that ``model`` does not. Asked when the config fits. Paths are below ``training``."""
    expected, found = expected_weights(model), folder.weights
    tied = {"lm_head.weight"} if model["tie_embeddings"] else set()
    extra = [name for name in found.keys() - expected.keys() - tied if not name.endswith(IGNORED_WEIGHT)]
    shared = expected.keys() & found.keys()
    misshapen = [f"{name} {list(found[name].shape)}, not {list(expected[name])}" for name in shared if found[name].shape != expected[name]]
    untyped = [f"{name} ({found[name].dtype})" for name in shared if found[name].dtype not in DTYPE_BYTES]
    for words, names in (
        ("lack", sorted(expected.keys() - found.keys())),
        ("also hold", sorted(extra)),
        ("have another shape:", sorted(misshapen)),
        (f"have a type that is none of {', '.join(DTYPE_BYTES)}:", sorted(untyped)),
    ):
        if names:
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            yield Problem("initial", f"the weights {words} {', '.join(names[:MOST_NAMED])}{more}")


def vocabulary_of(tokenizer: bytes) -> Mapping[str, int] | None:
    """Token -> id of a tokenizer.json, added tokens included; None where it has no such table."""
    try:
        content = json.loads(tokenizer)
        table = dict(content["model"]["vocab"])
        table |= {str(token["content"]): int(token["id"]) for token in content.get("added_tokens") or ()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return table


def tokenizer_problem(theirs: bytes, ours: bytes) -> Problem | None:
    """Why the weights' tokenizer.json does not give the run's tokens the meaning that the weights learned; None when it does.

    A token of the run must have the same id there. Files may differ in layout, and theirs may know more tokens.
    """
    if theirs == ours:
        return None
    known, used = vocabulary_of(theirs), vocabulary_of(ours)
    if known is None or used is None:
        return Problem("initial", "the weights' tokenizer.json is another file than the run's, and its vocabulary cannot be compared")
    other = [token for token, number in used.items() if known.get(token) != number]
    if not other:
        return None
    first = min(other, key=lambda token: used[token])
    there = f"id {known[first]}" if first in known else "missing"
    return Problem(
        "initial",
        f"{len(other):,} of the run's {len(used):,} tokens mean something else to the weights (the first: {json.dumps(first)[:40]} is id "
        f"{used[first]} in the run's tokenizer and {there} in the weights'); set data.tokenizer.uri to the tokenizer of the weights",
    )
