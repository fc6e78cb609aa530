"""The tokens channel as one stream of samples. numpy only; training/loader.py makes torch batches of it.

A split's shards, in index order, are one stream of T tokens. Sample i reads tokens i*L ... i*L+L: L inputs and, one
further, L labels. Neighbouring samples share one token, so every token but the first is a label exactly once. The last
sample may be shorter: it is filled up and the filling is masked.
"""

from __future__ import annotations

import bisect
import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from contracts.shard_index import ShardIndex, read_index
from data_prep.shards import CheckLevel, check_shard, open_ends, open_tokens
from training.failure_classes import CorruptShard, TokensMismatch

SplitName = Literal["train", "validation"]
Int64 = npt.NDArray[np.int64]

IGNORE_INDEX = -100  # torchtitan.components.loss.IGNORE_INDEX, which a test compares; not imported, to stay free of torch


def check_channel(tokens_dir: str | Path, level: CheckLevel = "edges") -> ShardIndex:
    """Verify every shard of both splits against the index; called once per host before training starts.

    Raises:
        CorruptShard: names the shard and what is wrong with it.
    """
    folder = Path(tokens_dir)
    index = read_index(folder)
    for shard in index.shards:
        check_shard(folder, shard, level)
    for name in index.tokenizer.files:
        if not (folder / name).is_file():
            raise CorruptShard(f"{name} is in index.json but not in {folder}; prepare the data again")
    return index


class TokenShards:
    """Random access to the samples of one split. Files are mapped when first touched."""

    def __init__(self, tokens_dir: str | Path, split: SplitName, sequence_length: int, check: CheckLevel = "sizes") -> None:
        self.folder = Path(tokens_dir)
        self.index = read_index(self.folder)
        self.split = self.index.splits[split]
        self.sequence_length = sequence_length
        if self.split.tokens < 2:
            fix = "give more text" if split == "train" else "raise data.validation_share, give more text, or switch validation off"
            raise TokensMismatch(f"the {split} split holds {self.split.tokens} tokens, and a sample needs 2 at least; {fix}")
        self.shards = self.split.shards
        for shard in self.shards:
            check_shard(self.folder, shard, check)
        self._starts = list(itertools.accumulate((shard.tokens for shard in self.shards), initial=0))
        if self._starts[-1] != self.split.tokens:
            raise CorruptShard(
                f"the {split} shards of index.json hold {self._starts[-1]} tokens, its total says {self.split.tokens}; prepare again"
            )
        self._tokens: list[npt.NDArray[np.unsignedinteger] | None] = [None] * len(self.shards)
        self._ends: list[npt.NDArray[np.uint64] | None] = [None] * len(self.shards)
        facts = self.index.tokenizer
        self.filler = facts.eos_id if facts.eos_id is not None else (facts.bos_id or 0)
        self._count_up = np.arange(sequence_length, dtype=np.int64)

    def __len__(self) -> int:
        """Samples of an epoch, the short last one included."""
        return -(-(self.split.tokens - 1) // self.sequence_length)

    def read(self, start: int, stop: int) -> npt.NDArray[np.unsignedinteger]:
        """Tokens ``start`` to ``stop`` of the stream: a view into one shard, a copy across several."""
        number = bisect.bisect_right(self._starts, start) - 1
        base = self._starts[number]
        if stop <= self._starts[number + 1]:
            return self._map(number)[start - base : stop - base]
        pieces = []
        while start < stop:
            base, end = self._starts[number], self._starts[number + 1]
            pieces.append(self._map(number)[start - base : min(stop, end) - base])
            start, number = min(stop, end), number + 1
        return np.concatenate(pieces)

    def document_ends(self, start: int, stop: int) -> Int64:
        """Stream offsets e with start < e <= stop at which a document ends."""
        number = bisect.bisect_right(self._starts, start) - 1
        found = []
        while number < len(self.shards) and self._starts[number] < stop:
            base = self._starts[number]
            ends = self._map_ends(number)
            # Both bounds in the array's own type: any other would have numpy convert the whole array first.
            low, high = ends.searchsorted(np.array((max(0, start - base), stop - base), np.uint64), "right").tolist()
            found.append(ends[low:high].astype(np.int64) + base)
            number += 1
        return found[0] if len(found) == 1 else np.concatenate(found)

    def fill(self, sample: int, inputs: Int64, labels: Int64, positions: Int64 | None, mask_borders: bool) -> None:
        """Write one sample into preallocated rows, each of shape (sequence_length,).

        A label is IGNORE_INDEX where the input is a document's last token (with ``mask_borders``) and past the end of the
        stream. ``positions`` count from 0 at each document's start and at the sample's.
        """
        length = self.sequence_length
        start = sample * length
        stop = min(start + length + 1, self.split.tokens)
        tokens = self.read(start, stop)
        used = stop - start - 1
        inputs[:used] = tokens[:-1]
        labels[:used] = tokens[1:]
        if used < length:
            inputs[used:] = self.filler
            labels[used:] = IGNORE_INDEX
        if not mask_borders and positions is None:
            return
        ends = self.document_ends(start, start + used) - start
        if mask_borders:
            labels[ends - 1] = IGNORE_INDEX
        if positions is not None:
            self._fill_positions(positions, ends.tolist(), used)

    def fill_masked(self, inputs: Int64, labels: Int64, positions: Int64 | None) -> None:
        """Make one row that no loss counts."""
        inputs[:] = self.filler
        labels[:] = IGNORE_INDEX
        if positions is not None:
            positions[:] = self._count_up

    def _fill_positions(self, row: Int64, ends: list[int], used: int) -> None:
        borders = [0, *ends, used, self.sequence_length]  # two may be equal: a piece of length 0
        np.concatenate([self._count_up[: end - start] for start, end in itertools.pairwise(borders)], out=row)

    def _map(self, number: int) -> npt.NDArray[np.unsignedinteger]:
        mapped = self._tokens[number]
        if mapped is None:
            mapped = self._tokens[number] = open_tokens(self.folder, self.index, self.shards[number])
        return mapped

    def _map_ends(self, number: int) -> npt.NDArray[np.uint64]:
        mapped = self._ends[number]
        if mapped is None:
            mapped = self._ends[number] = open_ends(self.folder, self.shards[number])
        return mapped
