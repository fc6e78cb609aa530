"""The order of samples: an exact permutation computed from (seed, epoch, index), with no table of an epoch's size.

Samples lie in blocks of consecutive ones, and blocks are what a disk or FastFile reads well. An epoch

1. puts the blocks in a random order (the last, short block somewhere among them),
2. shuffles the samples of every few consecutive blocks of that order among each other.

So at any time a reader touches a handful of blocks, each sequential on disk, and every sample comes exactly once.
Both steps are Feistel networks with cycle walking (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002)
over 64-bit integers: the same on every machine and numpy version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
_U64 = np.uint64
_MASK = (1 << 64) - 1
_ROUNDS = 6  # four give a pseudo-random permutation in theory (Luby-Rackoff); two more for the cheap round function


def mix64(value: int) -> int:
    """SplitMix64's finaliser (Steele et al., 2014): spreads every input bit over 64."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def key_of(*parts: int) -> int:
    """One 64-bit key from several numbers."""
    key = 0
    for part in parts:
        key = mix64(key ^ mix64(part & _MASK))
    return key


def permute(values: Indices, size: int, key: int) -> Indices:
    """Images of ``values`` (each in [0, size)) under the permutation of [0, size) that ``key`` names."""
    if size <= 1:
        return values.copy()
    half = ((size - 1).bit_length() + 1) // 2
    round_keys = [_U64(key_of(key, size, r)) for r in range(_ROUNDS)]
    out = _feistel(values.astype(_U64), half, round_keys)
    outside = np.flatnonzero(out >= _U64(size))
    while len(outside):  # the network permutes [0, 4**half), at most four times `size`: walk on until inside
        again = _feistel(out[outside], half, round_keys)
        out[outside] = again
        outside = outside[again >= _U64(size)]
    return out.astype(np.int64)


def _feistel(values: npt.NDArray[np.uint64], half: int, round_keys: list[Any]) -> npt.NDArray[np.uint64]:
    mask, shift = _U64((1 << half) - 1), _U64(half)
    left, right = values >> shift, values & mask
    for round_key in round_keys:
        word = (right ^ round_key) * _U64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> _U64(29))) * _U64(0x94D049BB133111EB)
        left, right = right, left ^ ((word >> _U64(32)) & mask)
    return (left << shift) | right


def permute_one(value: int, size: int, key: int) -> int:
    """``permute`` of a single value in Python integers: 20 microseconds, where numpy's calls for one value take a millisecond."""
    if size <= 1:
        return value
    half = ((size - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    round_keys = [key_of(key, size, r) for r in range(_ROUNDS)]
    while True:
        left, right = value >> half, value & mask
        for round_key in round_keys:
            word = ((right ^ round_key) * 0xBF58476D1CE4E5B9) & _MASK
            word = ((word ^ (word >> 29)) * 0x94D049BB133111EB) & _MASK
            left, right = right, left ^ ((word >> 32) & mask)
        value = (left << half) | right
        if value < size:
            return value


@dataclass(frozen=True, kw_only=True)
class SampleOrder:
    """f(seed, epoch, index) -> sample, a bijection of [0, samples) for every epoch."""

    seed: int
    samples: int
    block_samples: int
    """Consecutive samples read as one block."""
    group_blocks: int
    """Blocks shuffled among each other; a reader's working set."""

    def at(self, first: int, count: int) -> Indices:
        """Samples at the global cursor positions ``first`` ... ``first + count - 1``; epochs follow each other."""
        out = np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, index = divmod(first + done, self.samples)
            group_size = self.block_samples * self.group_blocks
            group = index // group_size
            size = min(group_size, self.samples - group * group_size)
            offset = index - group * group_size
            take = min(count - done, size - offset)
            places = permute(np.arange(offset, offset + take), size, key_of(self.seed, epoch, 1, group))
            out[done : done + take] = self._samples_at(epoch, places + group * group_size)
            done += take
        return out

    def one(self, cursor: int) -> int:
        """``at(cursor, 1)``, faster: what a resumed run waits for."""
        epoch, index = divmod(cursor, self.samples)
        group_size = self.block_samples * self.group_blocks
        group, offset = divmod(index, group_size)
        size = min(group_size, self.samples - group * group_size)
        place = group * group_size + permute_one(offset, size, key_of(self.seed, epoch, 1, group))
        blocks, short = divmod(self.samples, self.block_samples)
        if blocks == 0:
            return place
        short_at = key_of(self.seed, epoch, 2) % (blocks + 1) * self.block_samples if short else self.samples
        if short_at <= place < short_at + short:
            return blocks * self.block_samples + place - short_at
        block, within = divmod(place - short if place >= short_at + short else place, self.block_samples)
        return permute_one(block, blocks, key_of(self.seed, epoch, 3)) * self.block_samples + within

    def _samples_at(self, epoch: int, places: Indices) -> Indices:
        """Where the epoch's block order puts each place."""
        blocks, short = divmod(self.samples, self.block_samples)
        if blocks == 0:
            return places
        short_at = key_of(self.seed, epoch, 2) % (blocks + 1) * self.block_samples if short else self.samples
        in_short = (places >= short_at) & (places < short_at + short)
        among_full = np.where(places >= short_at + short, places - short, places)
        among_full = np.where(in_short, 0, among_full)  # any valid place; replaced below
        block = permute(among_full // self.block_samples, blocks, key_of(self.seed, epoch, 3))
        samples = block * self.block_samples + among_full % self.block_samples
        return np.where(in_short, blocks * self.block_samples + places - short_at, samples)
