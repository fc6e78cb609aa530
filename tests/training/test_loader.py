"""The loader: exact samples, another number of ranks, resume from one cursor."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_shards import BOS, EOS, write_shards

from training.failure_classes import CheckpointMismatch, CorruptShard, TokensMismatch
from training.loader import ShardLoader
from training.token_shards import IGNORE_INDEX, TokenShards, check_channel


def loader(folder: Path, *, world: int = 1, rank: int = 0, length: int = 8, batch: int = 2, **config: Any) -> ShardLoader:
    made = ShardLoader.Config(tokens_dir=str(folder), **config).build(
        dp_world_size=world, dp_rank=rank, tokenizer=None, seq_len=length, local_batch_size=batch, snapshot_every_n_steps=5
    )
    assert isinstance(made, ShardLoader)
    return made


def steps(folder: Path, count: int, world: int, cursor: int = 0, **options: Any) -> tuple[list[list[int]], list[list[int]], dict[str, Any]]:
    """Inputs and labels of ``count`` steps in the global order, and the state after them."""
    ranks = [loader(folder, world=world, rank=rank, **options) for rank in range(world)]
    for one in ranks:
        one.load_state_dict({"cursor": cursor})
    batches = [iter(one) for one in ranks]
    inputs: list[list[int]] = []
    labels: list[list[int]] = []
    for _ in range(count):
        for batch in batches:
            found, wanted = next(batch)
            inputs += found["input"].tolist()
            labels += wanted.tolist()
    states = [one.state_dict() for one in ranks]
    assert all(state == states[0] for state in states)
    return inputs, labels, states[0]


lengths = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=6), min_size=1, max_size=5)
relaxed = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(shards=lengths, world=st.integers(1, 4), batch=st.integers(1, 3), length=st.integers(2, 16), seed=st.integers(0, 5))
def test_an_epoch_trains_every_label_once_tail_included(tmp_path_factory, shards, world, batch, length, seed):
    folder = tmp_path_factory.mktemp("shards")
    stream = write_shards(folder, shards)
    samples = len(TokenShards(folder, "train", length))
    count = -(-samples // (world * batch))
    inputs, labels, _ = steps(folder, count, world, length=length, batch=batch, seed=seed, mask_borders=False)
    pairs = Counter(
        (x, y)
        for row, wanted in zip(inputs[:samples], labels[:samples], strict=True)
        for x, y in zip(row, wanted, strict=True)
        if y != IGNORE_INDEX
    )
    assert pairs == Counter(itertools.pairwise(stream))


@relaxed
@given(shards=lengths, first=st.integers(1, 4), second=st.integers(1, 4), stop=st.integers(1, 6))
def test_another_number_of_ranks_continues_the_same_order(tmp_path_factory, shards, first, second, stop):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, shards)
    per_step, unit = 12, 12  # samples per step on any number of ranks: 12 = world x batch for world in 1..4
    one, _, _ = steps(folder, 2 * stop, 1, batch=unit)
    before, _, state = steps(folder, stop, first, batch=unit // first)
    after, _, end = steps(folder, stop, second, cursor=state["cursor"], batch=unit // second)
    assert before + after == one
    assert end == {"cursor": 2 * stop * per_step}


def test_the_order_is_the_seeds_and_the_epochs(tmp_path: Path):
    write_shards(tmp_path, [[30] * 40])
    samples = len(TokenShards(tmp_path, "train", 8))
    first, _, _ = steps(tmp_path, samples, 1, batch=1, seed=1)
    assert steps(tmp_path, samples, 1, batch=1, seed=1)[0] == first
    assert steps(tmp_path, samples, 1, batch=1, seed=2)[0] != first
    assert steps(tmp_path, samples, 1, batch=1, seed=1, cursor=samples)[0] != first
    assert sorted(steps(tmp_path, samples, 1, batch=1, seed=1, cursor=samples)[0]) == sorted(first)


@pytest.mark.parametrize(("bos", "eos"), [(BOS, EOS), (None, EOS), (BOS, None)])
def test_labels_across_document_borders_are_masked_and_no_others(tmp_path: Path, bos: int | None, eos: int | None):
    shards = [[5, 0, 9], [3, 20]]
    stream = write_shards(tmp_path, shards, bos=bos, eos=eos)
    around = (bos is not None) + (eos is not None)
    ends = np.cumsum([length + around for lengths in shards for length in lengths])
    across = Counter((stream[end - 1], stream[end]) for end in ends[:-1])
    _, plain, _ = steps(tmp_path, 1, 1, batch=20, mask_borders=False, infinite=False)
    inputs, masked, _ = steps(tmp_path, 1, 1, batch=20, mask_borders=True, infinite=False)
    gone = Counter(
        (x, y) for row, one, other in zip(inputs, plain, masked, strict=True) for x, y, z in zip(row, one, other, strict=True) if y != z
    )
    assert gone == across


def test_positions_restart_at_documents_and_samples(tmp_path: Path):
    write_shards(tmp_path, [[2, 7]])  # BOS a b EOS BOS 7 x EOS: documents of 4 and 9 tokens
    inputs, _ = next(iter(loader(tmp_path, length=6, batch=3, split="validation", infinite=False, emit_positions=True)))
    rows = {tuple(row): positions for row, positions in zip(inputs["input"].tolist(), inputs["positions"].tolist(), strict=True)}
    assert rows[(0, 2, 3, 1, 0, 4)] == [0, 1, 2, 3, 0, 1]
    assert rows[(5, 6, 7, 8, 9, 10)] == [0, 1, 2, 3, 4, 5]
    assert inputs["positions"].dtype == inputs["input"].dtype == torch.int64


def test_a_finite_pass_gives_every_rank_the_same_number_of_batches(tmp_path: Path):
    stream = write_shards(tmp_path, [[10, 11], [12]])
    found: Counter[tuple[int, int]] = Counter()
    counts = []
    for rank in range(3):
        batches = list(loader(tmp_path, world=3, rank=rank, length=7, batch=2, split="validation", infinite=False, mask_borders=False))
        counts.append(len(batches))
        for inputs, labels in batches:
            assert inputs["input"].shape == labels.shape == (2, 7)
            found.update(
                (x, y) for x, y in zip(inputs["input"].flatten().tolist(), labels.flatten().tolist(), strict=True) if y != IGNORE_INDEX
            )
    assert len(set(counts)) == 1
    assert found == Counter(itertools.pairwise(stream))


def test_the_validator_reads_the_same_samples_whatever_the_seed(tmp_path: Path):
    write_shards(tmp_path, [[30] * 20])
    first, _, _ = steps(tmp_path, 5, 2, split="validation", seed=1)
    assert steps(tmp_path, 5, 2, split="validation", seed=9)[0] == first


def test_the_state_is_one_cursor(tmp_path: Path):
    write_shards(tmp_path, [[30] * 20])
    one = loader(tmp_path, world=4, rank=3, batch=2)
    batches = iter(one)
    assert one.state_dict() == {"cursor": 0}
    next(batches)
    assert one.state_dict() == {"cursor": 8}
    one.load_state_dict({})
    assert one.state_dict() == {"cursor": 8}
    with pytest.raises(CheckpointMismatch, match="expected one cursor"):
        one.load_state_dict({"dp_rank_0": b"..."})


def test_thirty_two_bit_tokens_and_windows_across_shards(tmp_path: Path):
    stream = write_shards(tmp_path, [[3], [4], [5], [6]], vocab_size=128_256)
    shards = TokenShards(tmp_path, "train", 64)
    assert shards.read(0, len(stream)).tolist() == stream
    assert shards.read(4, 12).tolist() == stream[4:12]
    assert shards.document_ends(0, len(stream)).tolist() == [5, 11, 18, 26]
    assert shards.document_ends(5, 18).tolist() == [11, 18]


@pytest.mark.parametrize(("size", "check"), [(-2, "sizes"), (0, "edges")])
def test_a_damaged_shard_is_named_before_the_first_batch(tmp_path: Path, size: int, check: str):
    write_shards(tmp_path, [[30], [40]])
    path = tmp_path / "train/s-1.tokens"
    content = path.read_bytes()
    path.write_bytes(content[:size] if size else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(CorruptShard, match=r"shard train/s-1.tokens"):
        loader(tmp_path, check=check)
    with pytest.raises(CorruptShard, match=r"shard train/s-1.tokens"):
        check_channel(tmp_path)


def test_too_little_text_is_a_sentence(tmp_path: Path):
    write_shards(tmp_path, [[0]], bos=None)
    with pytest.raises(TokensMismatch, match=r"raise data\.validation_share"):
        loader(tmp_path, split="validation")


def test_the_ignored_label_is_torchtitans():
    from torchtitan.components import loss

    assert loss.IGNORE_INDEX == IGNORE_INDEX
