"""Named starting points of a run. A recipe is a plain value in RunSpec's shape; the input is laid over it."""

from __future__ import annotations

from typing import Any

from infra.run.recipes import llama3_8b, llama3_70b, local

RECIPES: dict[str, dict[str, Any]] = {
    "local": local.RECIPE,
    "llama3_8b": llama3_8b.RECIPE,
    "llama3_70b": llama3_70b.RECIPE,
}

REFERENCE_ABLATION: tuple[dict[str, Any], ...] = (
    {"name": "baseline", "training": {"compile": False, "float8": "off"}},
    {"name": "compile", "training": {"compile": True, "float8": "off"}},
    {"name": "float8", "training": {"compile": True, "float8": "tensorwise"}},
    {"name": "float8_allgather", "training": {"compile": True, "float8": "tensorwise_all_gather"}},
)
"""The reference sample's four legs; ``"ablation": "reference"`` runs them."""

REFERENCE_TOKENS_PER_SECOND = {"baseline": 6475.0, "compile": 7166.0, "float8": 8624.0, "float8_allgather": 8950.0}
"""What the reference's blog reports per GPU: 4 x ml.p5.48xlarge, Llama-3 8B, sequence length 8192."""
