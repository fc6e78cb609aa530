"""Loss of the exported model on token shards: the same windows, masks and order as the training job's own validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as functional

from contracts.config import Json
from training.loader import VALIDATION_SEED, ShardLoader
from training.token_shards import IGNORE_INDEX, SplitName

LOGIT_ROWS = 2048  # tokens whose logits are brought to float32 at once: 128,256 entries of them are 1 GB


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How tokens are cut into sequences; the leg's own training settings."""

    sequence_length: int
    mask_borders: bool
    """Leave the label from a document's last token to the next document out."""
    documents_apart: bool
    """Documents of a window do not see each other (``attention: flex``)."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Sums over the labels of some samples, in the order that validation reads them."""

    nats: Sequence[float]
    labels: Sequence[int]

    def loss(self, samples: int | None = None) -> float | None:
        """Nats per token of the first ``samples``, or of all; None without a label."""
        labels = sum(self.labels[:samples])
        return math.fsum(self.nats[:samples]) / labels if labels else None


@torch.inference_mode()
def measure(model: Any, folder: Path, split: SplitName, windows: Windows, *, max_tokens: int, batch_size: int) -> Measured:
    """Sums of every sample of a split, ``max_tokens`` at most. Ranks share the samples and all get the whole answer.

    Args:
        model: a LlamaForCausalLM on its device.
        folder: index.json and shards.
        split: which of its splits.
        windows: the leg's.
        max_tokens: whole samples are read up to this many tokens, one at least.
        batch_size: samples of one forward pass.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    reads = ShardLoader.Config(
        tokens_dir=str(folder), split=split, seed=VALIDATION_SEED, mask_borders=windows.mask_borders,
        emit_positions=windows.documents_apart, infinite=False,
    )  # fmt: skip
    loader = ShardLoader(reads, dp_world_size=world, dp_rank=rank, seq_len=windows.sequence_length, local_batch_size=batch_size)
    count = min(loader.samples, max(1, max_tokens // windows.sequence_length))
    sums = torch.zeros(count, 2, dtype=torch.float64)
    for step, (inputs, labels) in enumerate(loader):
        if step * world * batch_size >= count:
            break
        rows = slice((step * world + rank) * batch_size, count)
        found = _sums(model, inputs, labels)
        sums[rows][:batch_size] = found[: len(sums[rows])]
    if world > 1:
        shared = sums.to(model.device)
        dist.all_reduce(shared)
        sums = shared.cpu()
    return Measured(nats=sums[:, 0].tolist(), labels=[int(n) for n in sums[:, 1].tolist()])


def _sums(model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Nats and labels of each row: (rows, 2)."""
    given: Json = {"input_ids": inputs["input"].to(model.device), "use_cache": False}
    if "positions" in inputs:  # without a mask transformers takes positions that restart for documents that do not see each other
        given["position_ids"] = inputs["positions"].to(model.device)
    hidden = model.model(**given).last_hidden_state
    target = labels.to(hidden.device)
    nats = torch.zeros(target.shape, device=hidden.device)
    step = max(1, LOGIT_ROWS // len(target))
    for start in range(0, target.shape[1], step):
        piece = slice(start, start + step)
        logits = model.lm_head(hidden[:, piece]).float()
        nats[:, piece] = functional.cross_entropy(logits.flatten(0, 1), target[:, piece].flatten(), reduction="none").view(len(target), -1)
    return torch.stack((nats.double().sum(1), (target != IGNORE_INDEX).double().sum(1)), dim=1).cpu()
