"""The types of a recipe and of a leg of the reference's ablation."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.config import Json
from data_prep.spec import DataSpec
from infra.run.compute import BudgetSpec, ComputeSpec
from training.spec import Float8, TrainingSpec


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete starting point; an execution's input is laid over its JSON, value by value."""

    data: DataSpec
    """Text and tokenizer."""
    training: TrainingSpec
    """One leg's training."""
    compute: ComputeSpec
    """Instances."""
    budget: BudgetSpec
    """Money."""


@dataclass(frozen=True, kw_only=True)
class AblationLeg:
    """One leg of the reference's ablation."""

    name: str
    """Name of the leg."""
    compile: bool
    """training.compile of the leg."""
    float8: Float8
    """training.float8 of the leg."""
    reference_tokens_per_second: float
    """What the reference's blog reports per GPU: 4 x ml.p5.48xlarge, Llama-3 8B, sequence length 8192."""

    @property
    def changes(self) -> Json:
        """What the leg lays over the run's ``training``."""
        return {"compile": self.compile, "float8": self.float8}
