"""Loss on the held-out shards, with torchtitan's validator: every N steps and after the last one. Each source by itself."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchtitan.components.validate import Validator

from training.loader import ShardLoader
from training.positions import with_positions


class LegValidator(Validator):
    """The same first batches each time, so that values of different steps and legs compare."""

    @dataclass(kw_only=True, slots=True)
    class Config(Validator.Config):
        """When to validate."""

        last_step: int
        """Validated whatever the interval."""
        sources: dict[str, ShardLoader.Config]
        """How each source's held-out split is read; the one source of a run without mixture has an empty name."""

    def __init__(self, config: Config, **rest: Any) -> None:
        super().__init__(config, **rest)
        self.validations = 0
        """Validations of this process."""
        self.watched: Callable[[], AbstractContextManager[None]] = nullcontext
        """Around a validation: the watchdog's limit for it."""

    def should_validate(self, step: int) -> bool:
        """Every ``freq`` steps (0: never in between) and after the last."""
        every, last = int(self.config.freq), int(self.config.last_step)
        return step == last or (every > 0 and step % every == 0)

    def post_dataloading_process(self, input_dict: dict[str, torch.Tensor], labels: torch.Tensor, model_parts: list[nn.Module]) -> Any:
        """torchtitan's, which needs positions to split a sequence over ranks."""
        batch = with_positions(input_dict) if self.parallel_dims.cp_enabled else input_dict
        return super().post_dataloading_process(batch, labels, model_parts)

    def validate(self, model_parts: list[nn.Module], step: int) -> None:
        """Log the loss of each source and their mean; the time is kept out of the training speed."""
        metrics = self.metrics_processor
        tokens, begin = metrics.ntokens_since_last_log, time.perf_counter()
        with self.watched():
            for loader in self.config.sources.values():
                self.dl_config = dataclasses.replace(loader, infinite=self.config.steps != -1)
                super().validate(model_parts, step)
        metrics.end_validation(step, tuple(self.config.sources))
        self.validations += 1
        metrics.ntokens_since_last_log = tokens
        metrics.held.validation += time.perf_counter() - begin
