"""torchtitan's data loader over token shards: deterministic, elastic, resumed at once.

    ShardLoader.Config(tokens_dir="/opt/ml/input/data/tokens", split="train", seed=1).build(
        dp_world_size=8, dp_rank=3, tokenizer=None, seq_len=8192, local_batch_size=2)

A step takes ``dp_world_size * local_batch_size`` consecutive places of one global order; rank r takes its run of
``local_batch_size`` of them. With several sources training/mixture_order.py says whose place it is, and each source has an order
of its own, f(seed, epoch, index). The state, equal on all ranks, is the global cursor, and with several sources their cursors.
A checkpoint written by 64 ranks therefore goes on with 32 at the same place, and no sample of an epoch is lost or repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torchtitan.components.dataloader import BaseDataLoader

from training.failure_classes import BadInput
from training.loader_state import read_state, write_state
from training.mixture_order import Mixture, MixtureOrder, Picks, Position, Stage
from training.sample_order import SampleOrder, key_of
from training.token_shards import SplitName, TokenShards

BLOCK_BYTES = 8 << 20  # what one request of FastFile or a spinning disk reads well (8-64 MiB)
GROUP_BLOCKS = 8  # 64 MiB of shards in use at a time: stays in the page cache, mixes thousands of documents
LOOK_AHEAD = 256  # places of a source's order computed at once: about a millisecond every 256 samples
ONES = 16  # as many places computed one by one take as long: so a resume's first ones, and of many ranks each one's places, are
VALIDATION_SEED = 0  # every validation reads the same samples in the same order, whatever the run's seed

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


class Source:
    """One source's samples by its own cursor, which counts on over its epochs."""

    def __init__(self, shards: TokenShards, seed: int) -> None:
        item_bytes = np.dtype(shards.index.dtype).itemsize
        self.shards = shards
        self.order = SampleOrder(
            seed=seed,
            samples=len(shards),
            block_samples=max(1, BLOCK_BYTES // (shards.sequence_length * item_bytes)),
            group_blocks=GROUP_BLOCKS,
        )
        self._ones = ONES
        self._last = 0
        self._from = 0
        self._ahead: list[int] = []

    def sample(self, cursor: int) -> int:
        """The sample at this place of the source's order."""
        offset, gap, self._last = cursor - self._from, cursor - self._last, cursor
        if 0 <= offset < len(self._ahead):
            return self._ahead[offset]
        if self._ones or gap > ONES:
            self._ones = max(0, self._ones - 1)
            return self.order.one(cursor)
        self._from, self._ahead = cursor, self.order.at(cursor, LOOK_AHEAD).tolist()
        return self._ahead[0]


class ShardLoader(BaseDataLoader):
    """Yields ``({"input": (B, L) int64, "positions": (B, L) int64}, labels (B, L) int64)``; positions only on request."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        """How one split is read."""

        tokens_dir: str = ""
        """Folder of index.json, the tokens channel of a run with one source."""
        mixture: Mixture | None = None
        """Several sources instead; they are read without end."""
        split: SplitName = "train"
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
        self.sequence_length = seq_len
        mixture = config.mixture or Mixture(folders={"": config.tokens_dir}, stages=(Stage(first=0, weights=(1,)),))
        seed = config.seed if config.split == "train" else VALIDATION_SEED
        self.sources = {
            name: Source(TokenShards(Path(folder), config.split, seq_len, check=config.check), source_seed(seed, name))
            for name, folder in mixture.folders.items()
        }
        self.order = MixtureOrder(mixture.stages)
        self.position = self.order.start()
        self._in_order = list(self.sources.values())

    @property
    def samples(self) -> int:
        """Samples of one pass over every source."""
        return sum(len(source.shards) for source in self._in_order)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the cursor on. The cursor moves before a batch is handed out, so a state saved after it skips it."""
        end = None if self.config.infinite else self.samples
        steps = self.order.steps(self.position, self.world * self.batch)
        while end is None or self.position.place < end:
            before = self.position
            picks, self.position = next(steps)
            yield self._make(before, picks, end)

    def _make(self, before: Position, picks: Picks, end: int | None) -> Batch:
        """This rank's batch of the step at ``before`` whose places ``picks`` gives to sources; what is past ``end`` is masked."""
        # One block: of three arrays glibc gives the pages back after every batch, and faulting them in again takes as long as filling them.
        block = np.empty((3 if self.config.emit_positions else 2, self.batch, self.sequence_length), np.int64)
        inputs, labels, positions = block[0], block[1], block[2] if len(block) == 3 else None
        first = self.rank * self.batch
        taken = np.bincount(picks[:first], minlength=len(self._in_order)).tolist()
        cursors = [cursor + more for cursor, more in zip(before.cursors, taken, strict=True)]
        for row, number in enumerate(picks[first : first + self.batch].tolist()):
            source, place = self._in_order[number], None if positions is None else positions[row]
            if end is None or before.place + first + row < end:
                source.shards.fill(source.sample(cursors[number]), inputs[row], labels[row], place, self.config.mask_borders)
            else:  # ranks past the end of a finite pass still take part in its collectives
                source.shards.fill_masked(inputs[row], labels[row], place)
            cursors[number] += 1
        named = {"input": torch.from_numpy(inputs)}
        if positions is not None:
            named["positions"] = torch.from_numpy(positions)
        return named, torch.from_numpy(labels)

    def state_dict(self) -> dict[str, Any]:
        """Where the order stands, over all ranks: training/loader_state.py."""
        return write_state(self.position, tuple(self.sources))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved place; an empty state (a fresh run) changes nothing."""
        if state_dict:
            self.position = read_state(state_dict, tuple(self.sources))

    def cursors(self) -> dict[str, int]:
        """The global cursor, and with a mixture each source's own, as a sentence shows them."""
        own = zip(self.sources, self.position.cursors, strict=True)
        return {"cursor": self.position.place} | {name: cursor for name, cursor in own if name}

    def seen(self) -> dict[str, dict[str, float]]:
        """``share`` and ``epochs`` of each source of a mixture so far, over all ranks; empty in a run with one source."""
        if self.config.mixture is None:
            return {}
        total = max(1, self.position.place)
        return {
            name: {"share": cursor / total, "epochs": cursor / source.order.samples}
            for (name, source), cursor in zip(self.sources.items(), self.position.cursors, strict=True)
        }


def source_seed(seed: int, name: str) -> int:
    """Seed of a source's order: the run's, and for a source of a mixture its name, so that no two have one permutation."""
    return key_of(seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")) if name else seed
