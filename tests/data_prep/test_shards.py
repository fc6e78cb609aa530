from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tokenizer_faults import BOUNDED, DEPTH, mutated

from contracts.config import to_json
from contracts.failure import CorruptShard, read_failure
from contracts.shard_index import FORMAT_VERSION, ShardIndex, Split, Splits, TokenizerFacts, dtype_for, index_bytes, parse_index, read_index
from data_prep.shards import ShardWriter, check_shard, open_ends, open_tokens

FACTS = TokenizerFacts(sha256="0" * 64, vocab_size=600, bos_id=0, eos_id=1, files=("tokenizer.json",))


def write(folder: Path, name: str = "train/part-00000-000.tokens", documents: int = 3, length: int = 1000) -> ShardIndex:
    writer = ShardWriter(folder / name.removesuffix(".tokens"))
    for start in range(documents):
        tokens = (np.arange(length) + start).astype("<u2")
        writer.add(tokens, np.array([length // 2, length], np.uint64))
    shard = writer.close(name)
    split = Split(tokens=shard.tokens, documents=shard.documents, text_bytes=0, shards=(shard,))
    index = ShardIndex(
        format_version=FORMAT_VERSION,
        fingerprint="f",
        dtype="uint16",
        tokenizer=FACTS,
        splits=Splits(train=split, validation=Split(tokens=0, documents=0, text_bytes=0)),
    )
    (folder / "index.json").write_bytes(index_bytes(index))
    return index


def test_what_is_written_is_read_back(tmp_path: Path):
    index = write(tmp_path)
    assert read_index(tmp_path) == index
    shard = index.splits["train"].shards[0]
    assert open_tokens(tmp_path, index, shard).tolist() == [(i + start) for start in range(3) for i in range(1000)]
    assert open_ends(tmp_path, shard).tolist() == [500, 1000, 1500, 2000, 2500, 3000]
    check_shard(tmp_path, shard, "full")


def test_sixteen_bits_hold_65536_ids():
    assert [dtype_for(size) for size in (65_536, 65_537)] == ["uint16", "uint32"]


@pytest.mark.parametrize("level", ["sizes", "edges", "full"])
def test_a_truncated_shard_is_named_at_every_level(tmp_path: Path, level):
    shard = write(tmp_path).splits["train"].shards[0]
    path = tmp_path / shard.name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptShard) as found:
        check_shard(tmp_path, shard, level)
    failure = read_failure(str(found.value))
    assert failure is not None
    assert (failure.name, failure.retry) == ("CorruptShard", "stop")
    assert "shard train/part-00000-000.tokens has 10 bytes fewer than index.json says (5990 for 6000)" in failure.sentence


def test_a_swapped_shard_shows_at_its_edges(tmp_path: Path):
    shard = write(tmp_path, length=2_000_000).splits["train"].shards[0]
    path = tmp_path / shard.name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    check_shard(tmp_path, shard, "sizes")
    with pytest.raises(CorruptShard, match="first or last MiB"):
        check_shard(tmp_path, shard, "edges")


def test_damage_in_the_middle_shows_in_the_full_check(tmp_path: Path):
    shard = write(tmp_path, length=2_000_000).splits["train"].shards[0]
    path = tmp_path / shard.name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    check_shard(tmp_path, shard, "edges")
    with pytest.raises(CorruptShard, match=r"part-00000-000.tokens has checksum \w+, index.json says"):
        check_shard(tmp_path, shard, "full")


def test_a_missing_shard_and_damaged_ends_are_named(tmp_path: Path):
    shard = write(tmp_path).splits["train"].shards[0]
    ends = tmp_path / shard.ends_name
    content = bytearray(ends.read_bytes())
    content[0] ^= 1
    ends.write_bytes(content)
    with pytest.raises(CorruptShard, match=r"part-00000-000.ends has checksum"):
        check_shard(tmp_path, shard, "full")
    (tmp_path / shard.name).unlink()
    with pytest.raises(CorruptShard, match="cannot be opened"):
        check_shard(tmp_path, shard, "sizes")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist: the data set is unfinished"),
        ("{", "is no JSON"),
        ('{"format_version": 99}', "has format version 99, this code reads 2"),
        ('{"format_version": 2, "oops": 2}', "oops: unknown key"),
    ],
)
def test_an_unusable_index_is_a_sentence(tmp_path: Path, content: str | None, sentence: str):
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    with pytest.raises(CorruptShard, match=sentence):
        read_index(tmp_path)


# -- whatever index.json is ------------------------------------------------------------------------


def content_of(folder: Path) -> Any:
    return to_json(write(folder))


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "train/../../x.tokens", "train//x.tokens", "other/x.tokens", "train/.x.tokens", "train/x"]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str):
    content = content_of(tmp_path)
    content["splits"]["train"]["shards"][0]["name"] = name
    with pytest.raises(CorruptShard, match=r"splits.train.shards\[0\].name: .* is not a tokens file below"):
        parse_index(content)
    content = content_of(tmp_path)
    content["tokenizer"]["files"] = ["tokenizer.json", name]
    with pytest.raises(CorruptShard, match=r"tokenizer.files: .* is not the plain name of a file"):
        parse_index(content)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["splits"]["train"].update(tokens=1), "the shards hold"),
        (lambda c: c["splits"]["train"]["shards"][0].update(bytes=7), "7 are not those of"),
        (lambda c: c["tokenizer"].update(vocab_size=1 << 17), "uint16 holds no vocabulary"),
        (lambda c: c["tokenizer"].update(eos_id=600), "is not below vocab_size"),
        (lambda c: c["splits"]["train"]["shards"].append(c["splits"]["train"]["shards"][0]), "is named twice"),
        (lambda c: c["splits"]["train"].update(tokens=1e308), "tokens: "),
        (lambda c: c.update(format_version=True), "has format version True"),
    ],
)
def test_an_index_that_contradicts_itself_is_a_sentence(tmp_path: Path, change: Any, sentence: str):
    content = content_of(tmp_path)
    change(content)
    with pytest.raises(CorruptShard, match=sentence):
        parse_index(content)


@settings(max_examples=5 * DEPTH, derandomize=DEPTH == BOUNDED, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_index_is_only_corrupt_shard_comes_out(tmp_path: Path, data: st.DataObject):
    if not hasattr(test_whatever_the_index_is_only_corrupt_shard_comes_out, "base"):
        test_whatever_the_index_is_only_corrupt_shard_comes_out.base = content_of(tmp_path)  # type: ignore[attr-defined]
    content = data.draw(mutated(test_whatever_the_index_is_only_corrupt_shard_comes_out.base))  # type: ignore[attr-defined]
    (tmp_path / "index.json").write_text(json.dumps(content))
    try:
        read_index(tmp_path)
    except CorruptShard as failure:
        assert len(str(failure)) < 1000
