"""Named starting points of a run. A recipe is a typed value; the input is laid over its JSON."""

from __future__ import annotations

from infra.run.recipes import llama3_1b, llama3_3b, llama3_8b, llama3_70b, llama3_125m, local
from infra.run.recipes.recipe import AblationLeg, Recipe

__all__ = ["RECIPES", "REFERENCE_ABLATION", "AblationLeg", "Recipe"]

RECIPES: dict[str, Recipe] = {
    "local": local.RECIPE,
    "llama3_125m": llama3_125m.RECIPE,
    "llama3_1b": llama3_1b.RECIPE,
    "llama3_3b": llama3_3b.RECIPE,
    "llama3_8b": llama3_8b.RECIPE,
    "llama3_70b": llama3_70b.RECIPE,
}

REFERENCE_ABLATION: tuple[AblationLeg, ...] = (
    AblationLeg(name="baseline", compile=False, float8="off", reference_tokens_per_second=6475.0),
    AblationLeg(name="compile", compile=True, float8="off", reference_tokens_per_second=7166.0),
    AblationLeg(name="float8", compile=True, float8="tensorwise", reference_tokens_per_second=8624.0),
    AblationLeg(name="float8_allgather", compile=True, float8="tensorwise_all_gather", reference_tokens_per_second=8950.0),
)
"""The reference sample's four legs; ``"ablation": "reference"`` runs them."""
