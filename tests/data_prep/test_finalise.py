from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.failure import CorruptShard
from contracts.shard_index import Shard, Split, TokenizerFacts
from data_prep.failure_classes import TooMuchSkipped
from data_prep.finalise import check_skipped, check_stored, full_shards, gather, packings, unigram_entropy
from data_prep.local_store import LocalStore
from data_prep.part_record import PartRecord, Piece
from data_prep.shards import ShardWriter
from data_prep.spec import DataSpec, TokenizerSpec, TokenizerTraining

SHARD_TOKENS = 1000
SPEC = DataSpec(source="/x", tokenizer=TokenizerSpec(train=TokenizerTraining()), max_skipped_share=0.1)


def shard(name: str, tokens: int, documents: int = 1) -> Shard:
    return Shard(name=name, tokens=tokens, documents=documents, bytes=2 * tokens, checksum="0" * 32, edges="0" * 32, ends_checksum="0" * 32)


def record(number: int, tokens: int, documents: int = 1, **skipped: int) -> PartRecord:
    """A part of so many tokens: full pieces and a tail."""
    full, tail = divmod(tokens, SHARD_TOKENS)
    pieces = [Piece(shard=shard(f"train/part-{number}-{i}.tokens", SHARD_TOKENS), full=True) for i in range(full)]
    if tail:
        pieces.append(Piece(shard=shard(f".work/pieces/train/part-{number}.tokens", tail, documents), full=False))
    places = {reason: [f"x.jsonl at byte {number}"] for reason in skipped}
    return PartRecord(
        part=number,
        train=tuple(pieces),
        validation=(),
        stored_bytes=1,
        text_bytes={},
        skipped=skipped,
        skipped_examples=places,
        lengths={},
        excerpts=(),
    )


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=60))
def test_many_parts_make_no_more_shards_than_one_of_the_same_total(sizes: list[int]):
    records = [record(number, size) for number, size in enumerate(sizes)]
    groups = packings("train", records, SHARD_TOKENS)
    one = record(0, sum(sizes))
    assert len(groups) + len(full_shards("train", records)) <= len(full_shards("train", [one])) + 1
    packed = [tail.name for group in groups for tail in group.tails]
    assert packed == [piece.shard.name for r in records for piece in r.train if not piece.full]


def test_skipping_up_to_the_limit_passes_and_beyond_it_names_reasons_and_places():
    check_skipped(SPEC, [record(0, 900, documents=9, too_long=1, empty=100)])
    with pytest.raises(TooMuchSkipped, match=r"2 of 10 documents were skipped \(1 corrupt_record, 1 too_long\).*x.jsonl at byte 0"):
        check_skipped(SPEC, [record(0, 900, documents=8, too_long=1, corrupt_record=1)])


def test_a_shard_that_is_not_in_the_store_stops_the_index(tmp_path: Path):
    with pytest.raises(CorruptShard, match=r"part-0-0.tokens has None bytes, 2000 were written"):
        check_stored(LocalStore(tmp_path), [gather("train", [record(0, 1000)], [])])


def test_the_unigram_entropy_is_that_of_the_labels(tmp_path: Path):
    writer = ShardWriter(tmp_path / "validation/x")
    tokens = np.array([0, 5, 5, 6, 1, 0, 7, 8, 9, 1], "<u2")
    writer.add(tokens, np.array([5, 10], np.uint64))
    split = Split(tokens=10, documents=2, text_bytes=0, shards=(writer.close("validation/x.tokens"),))
    facts = TokenizerFacts(sha256="", vocab_size=10, bos_id=0, eos_id=1, files=())
    counts = [2, 1, 2, 1, 1, 1]  # 5, 6, EOS, 7, 8, 9; BOS is no label
    expected = -sum(c / 8 * math.log(c / 8) for c in counts)
    assert unigram_entropy(LocalStore(tmp_path), split, facts) == pytest.approx(expected)
    assert unigram_entropy(LocalStore(tmp_path), Split(tokens=0, documents=0, text_bytes=0), facts) is None
