"""torchtitan's data loader over token shards: deterministic, elastic, resumed by one number.

    ShardLoader.Config(tokens_dir="/opt/ml/input/data/tokens", split="train", seed=1).build(
        dp_world_size=8, dp_rank=3, tokenizer=None, seq_len=8192, local_batch_size=2)

The state is one global sample cursor, equal on all ranks. A step takes ``dp_world_size * local_batch_size`` consecutive
places of the order f(seed, epoch, index); rank r takes its run of ``local_batch_size`` of them. A checkpoint written by 64
ranks therefore goes on with 32 at the same place, and no sample of an epoch is lost or repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torchtitan.components.dataloader import BaseDataLoader

from training.failure_classes import BadInput, CheckpointMismatch
from training.sample_order import Indices, SampleOrder
from training.token_shards import Int64, TokenShards

BLOCK_BYTES = 8 << 20  # what one request of FastFile or a spinning disk reads well (8-64 MiB)
GROUP_BLOCKS = 8  # 64 MiB of shards in use at a time: stays in the page cache, mixes thousands of documents
LOOK_AHEAD = 256  # places of the order computed at once: about a millisecond every 256 samples
FIRST_ONES = 16  # the first batch of a run computes its places one by one, so that a resume does not wait for that millisecond
VALIDATION_SEED = 0  # every validation reads the same samples in the same order, whatever the run's seed

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


class ShardLoader(BaseDataLoader):
    """Yields ``({"input": (B, L) int64, "positions": (B, L) int64}, labels (B, L) int64)``; positions only on request."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        """How one split is read."""

        tokens_dir: str = ""
        """Folder of index.json, the tokens channel."""
        split: Literal["train", "validation"] = "train"
        """Which shards."""
        seed: int = 1
        """Order of the train split; the validation split's never changes."""
        mask_borders: bool = True
        """Leave the label from a document's last token to the next document out of the loss."""
        emit_positions: bool = False
        """Add positions that restart at each document: FlexAttention and varlen attention mask by them."""
        infinite: bool = True
        """Go on with the next epoch. False: one pass, the same number of batches on every rank (torchtitan's Validator sets it)."""
        check: Literal["none", "sizes", "edges", "full"] = "edges"
        """How much of the shards is compared with the index before the first batch."""

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int,
        dp_rank: int,
        seq_len: int,
        local_batch_size: int,
        tokenizer: object = None,
        snapshot_every_n_steps: int | None = None,
        **_: Any,
    ) -> None:
        if not 0 <= dp_rank < dp_world_size:
            raise BadInput(f"rank {dp_rank} of {dp_world_size} data-parallel ranks does not exist")
        self.config = config
        self.world, self.rank, self.batch = dp_world_size, dp_rank, local_batch_size
        self.shards = TokenShards(config.tokens_dir, config.split, seq_len, check=config.check)
        item_bytes = np.dtype(self.shards.index.dtype).itemsize
        self.order = SampleOrder(
            seed=config.seed if config.split == "train" else VALIDATION_SEED,
            samples=len(self.shards),
            block_samples=max(1, BLOCK_BYTES // (seq_len * item_bytes)),
            group_blocks=GROUP_BLOCKS,
        )
        self.cursor = 0
        self._fresh = True
        self._ahead_from = 0
        self._ahead: Indices = np.empty(0, np.int64)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the cursor on. The cursor moves before a batch is handed out, so a state saved after it skips it."""
        per_step = self.world * self.batch
        while self.config.infinite or self.cursor < len(self.shards):
            first = self.cursor + self.rank * self.batch
            self.cursor += per_step
            yield self._make(first)

    def _make(self, first: int) -> Batch:
        shape = (self.batch, self.shards.sequence_length)
        inputs, labels = np.empty(shape, np.int64), np.empty(shape, np.int64)
        positions: Int64 | None = np.empty(shape, np.int64) if self.config.emit_positions else None
        whole = self.batch if self.config.infinite else max(0, min(self.batch, len(self.shards) - first))
        self.shards.fill(self._samples(first, whole), inputs, labels, positions, self.config.mask_borders)
        for row in range(whole, self.batch):  # ranks past the end of a finite pass still take part in its collectives
            self.shards.fill_masked(row, inputs, labels, positions)
        named = {"input": torch.from_numpy(inputs)}
        if positions is not None:
            named["positions"] = torch.from_numpy(positions)
        return named, torch.from_numpy(labels)

    def _samples(self, first: int, count: int) -> Indices:
        if count == 0:
            return self._ahead[:0]
        if self._fresh and count <= FIRST_ONES:
            self._fresh = False
            return np.array([self.order.one(first + number) for number in range(count)], np.int64)
        offset = first - self._ahead_from
        if offset < 0 or offset + count > len(self._ahead):
            self._ahead_from, offset = first, 0
            self._ahead = self.order.at(first, max(LOOK_AHEAD, count))
        return self._ahead[offset : offset + count]

    def state_dict(self) -> dict[str, Any]:
        """The global cursor: samples handed out so far over all ranks and epochs."""
        return {"cursor": self.cursor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved cursor; an empty state (a fresh run) changes nothing."""
        if not state_dict:
            return
        cursor = state_dict.get("cursor")
        if not isinstance(cursor, int) or cursor < 0:
            raise CheckpointMismatch(
                f"the checkpoint's loader state is {state_dict!r}, expected one cursor; it was written by another loader"
            )
        self.cursor = cursor
