"""Optimiser and learning-rate schedule as torchtitan components: weight decay per parameter group, AdamW or Muon, schedule.

AdamW decays matrices; norms and biases are not decayed, and embeddings only by a setting
(as OLMo-core and nanochat do). With ``muon``, the matrices of the transformer blocks follow torch.optim.Muon, the rest AdamW.
torchtitan's Llama keeps q, k and v in one matrix, and Muon takes it as one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer, ParamGroupConfig

from training.schedule import ScheduleSpec, rate
from training.spec import OptimizerSpec

NOT_DECAYED = r"norm|\.bias$"
EMBEDDING = r"^tok_embeddings\."
BLOCK_MATRIX = r"^layers\.(?!.*(norm|\.bias$))"  # of a Llama block everything but norms and biases is a matrix


class LegOptimizers(OptimizersContainer):
    """torchtitan's optimisers with Muon; a parameter group may be empty on a pipeline stage."""

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):
        """torchtitan's."""

    @staticmethod
    def _resolve_optimizer_factory(name: str) -> Callable[..., Optimizer]:
        return torch.optim.Muon if name == "Muon" else OptimizersContainer._resolve_optimizer_factory(name)

    @staticmethod
    def _build_param_groups(model: nn.Module, param_group_configs: list[ParamGroupConfig], impl_kwargs: dict[str, Any]) -> Any:
        """torchtitan's, which would refuse a pattern that matches nothing: a middle pipeline stage has no embedding."""
        names = [name for name, _ in model.named_parameters()]
        present = [group for group in param_group_configs if any(re.search(group.pattern, name) for name in names)]
        return OptimizersContainer._build_param_groups(model, present, impl_kwargs)


class LegSchedule(LRSchedulersContainer):
    """torchtitan's scheduler with the curve of training/schedule.py."""

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        """The curve; torchtitan's own fields are ignored."""

        schedule: ScheduleSpec

        def build(self, *, optimizers: Any, training_steps: int) -> LRSchedulersContainer:
            """The schedulers of these optimisers. ``training_steps`` is the length of a curve that names none."""
            total = training_steps if self.schedule.total_steps is None else self.schedule.total_steps
            return LegSchedule(optimizers, functools.partial(rate, self.schedule, total))


def optimizer_config(chosen: OptimizerSpec, *, tied: bool) -> LegOptimizers.Config:
    """Groups of parameters in torchtitan's order, first match wins. A tied embedding is the output layer too, and decayed as such."""
    adamw: dict[str, Any] = {
        "lr": chosen.lr, "betas": (chosen.beta1, chosen.beta2), "eps": chosen.eps, "weight_decay": chosen.weight_decay,
    }  # fmt: skip
    still = adamw | {"weight_decay": 0.0}
    groups = [ParamGroupConfig(pattern=NOT_DECAYED, optimizer_name="AdamW", optimizer_kwargs=still)]
    if not chosen.decay_embeddings and not tied:
        groups.append(ParamGroupConfig(pattern=EMBEDDING, optimizer_name="AdamW", optimizer_kwargs=still))
    if chosen.name == "muon":
        muon: dict[str, Any] = {
            "lr": chosen.lr,
            "momentum": chosen.muon_momentum,
            "weight_decay": chosen.weight_decay,
            # Scales each update to the size of AdamW's (0.2 x sqrt(larger side)), so that lr and decay mean what they mean there.
            "adjust_lr_fn": "match_rms_adamw",
            "nesterov": True, "ns_coefficients": (3.4445, -4.7750, 2.0315), "ns_steps": 5, "eps": 1e-7,
        }  # fmt: skip
        groups.append(ParamGroupConfig(pattern=BLOCK_MATRIX, optimizer_name="Muon", optimizer_kwargs=muon))
        groups.append(ParamGroupConfig(pattern=r"^(?!layers\.)", optimizer_name="AdamW", optimizer_kwargs=adamw))
    else:
        groups.append(ParamGroupConfig(pattern=".*", optimizer_name="AdamW", optimizer_kwargs=adamw))
    return LegOptimizers.Config(param_groups=groups, implementation="fused")
