"""Token positions for context parallelism, which splits a sequence over ranks."""

from __future__ import annotations

import torch


def with_positions(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with positions 0 to L-1, as a model on one rank counts them when it is given none; input is (B, L)."""
    if "positions" in batch:
        return batch
    tokens = batch["input"]
    return {**batch, "positions": torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)}
