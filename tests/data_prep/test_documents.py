from __future__ import annotations

import gzip
import io
import itertools
import json
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.failure import BadInput
from data_prep.accept import Skipped
from data_prep.documents import SegmentReader
from data_prep.failure_classes import CorruptSource, SourceChanged
from data_prep.fingerprint import SourceObject
from data_prep.local_store import LocalStore
from data_prep.partition import Segment, whole_object
from data_prep.sources import local_etag
from data_prep.spec import DataSpec, TokenizerSpec, TokenizerTraining


def zstd(content: bytes) -> bytes:
    """One frame."""
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


TOKENIZER = TokenizerSpec(train=TokenizerTraining())


def spec(**changes: Any) -> DataSpec:
    return DataSpec(source="/x", tokenizer=TOKENIZER, **changes)


def read(folder: Path, name: str, content: bytes, skipped: Skipped | None = None, **changes: Any) -> list[str]:
    path = folder / name
    path.write_bytes(content)
    item = SourceObject(name, len(content), local_etag(path))
    reader = SegmentReader(LocalStore(folder), whole_object(spec(**changes), item), spec(**changes), skipped or Skipped())
    return [document.text for document in reader]


def line(text: Any, **more: Any) -> bytes:
    return json.dumps({"text": text, **more}).encode() + b"\n"


TWO = line("one") + line("two ü")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", TWO),
        ("x.json", TWO.rstrip()),
        ("x.ndjson", TWO.replace(b"\n", b"\r\n") + b"\n  \n"),
        ("x.jsonl.gz", gzip.compress(TWO)),
        ("x.jsonl.gz", gzip.compress(line("one")) + gzip.compress(line("two ü"))),
        ("x.jsonl.zst", zstd(TWO)),
        ("x.jsonl.zst", zstd(line("one")) + zstd(line("two ü"))),
    ],
)
def test_jsonl_in_every_wrapping(tmp_path: Path, name: str, content: bytes):
    assert read(tmp_path, name, content) == ["one", "two ü"]


@pytest.mark.parametrize(("name", "content"), [("x.txt", b"a\nb"), ("x.md.gz", gzip.compress(b"a\nb")), ("x.txt.zst", zstd(b"a\nb"))])
def test_a_text_file_is_one_document(tmp_path: Path, name: str, content: bytes):
    assert read(tmp_path, name, content) == ["a\nb"]


def parquet(table: dict[str, Any], rows: int = 2) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(table), out, row_group_size=rows)
    return out.getvalue()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_columns_of_text(tmp_path: Path, kind: pa.DataType):
    column = pa.array(["a", "b", "ü", None, "c"]).cast(pa.string())
    content = parquet({"n": [1, 2, 3, 4, 5], "text": column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)})
    skipped = Skipped()
    assert read(tmp_path, "x.parquet", content, skipped) == ["a", "b", "ü", "c"]
    assert skipped.counts == {"empty": 1}
    assert skipped.examples["empty"][0].endswith("x.parquet at row 3")


def test_parquet_without_the_field_names_the_columns(tmp_path: Path):
    with pytest.raises(BadInput, match=r'has no column "text"; it has body, n; set data.text_field'):
        read(tmp_path, "x.parquet", parquet({"body": ["a"], "n": [1]}))


def test_a_truncated_parquet_is_a_sentence(tmp_path: Path):
    with pytest.raises(CorruptSource, match="does not read as parquet"):
        read(tmp_path, "x.parquet", parquet({"text": ["a"] * 100})[:-20])


def ranges(folder: Path, name: str, content: bytes, cuts: list[int]) -> list[str]:
    (folder / name).write_bytes(content)
    item = SourceObject(name, len(content), local_etag(folder / name))
    whole = whole_object(spec(), item)
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(content)}), len(content)]
    found: list[str] = []
    for start, stop in itertools.pairwise(edges):
        segment = Segment(item, whole.kind, whole.compression, start, stop)
        found += [document.text for document in SegmentReader(LocalStore(folder), segment, spec(), Skipped())]
    return found


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=20).filter(str.strip), max_size=12), cuts=st.lists(st.integers(1, 400), max_size=6))
def test_byte_ranges_of_jsonl_hold_every_line_once(tmp_path_factory: pytest.TempPathFactory, texts: list[str], cuts: list[int]):
    texts = [text.encode(errors="replace").decode() for text in texts]
    assert ranges(tmp_path_factory.mktemp("r"), "x.jsonl", b"".join(line(text) for text in texts) or b"\n", cuts) == texts


def test_byte_ranges_of_parquet_hold_every_row_group_once(tmp_path: Path):
    texts = [f"{i} " * 50 for i in range(40)]
    content = parquet({"text": texts}, rows=3)
    for cuts in ([], [100], list(range(50, len(content), 333))):
        assert ranges(tmp_path, "x.parquet", content, cuts) == texts


def test_truncated_archives_are_named(tmp_path: Path):
    rows = b"".join(line(f"row {i} {zlib.crc32(b'%d' % i)}") for i in range(5000))
    with pytest.raises(CorruptSource, match=r"x.jsonl.gz is a truncated gzip file"):
        read(tmp_path, "x.jsonl.gz", gzip.compress(rows)[:-1000])
    with pytest.raises(CorruptSource, match=r"x.jsonl.zst does not decompress"):
        read(tmp_path, "x.jsonl.zst", zstd(rows)[:-1000])
    damaged = bytearray(gzip.compress(rows))
    damaged[len(damaged) // 2] ^= 0xFF
    with pytest.raises(CorruptSource, match=r"x.jsonl.gz"):
        read(tmp_path, "x.jsonl.gz", bytes(damaged))
    with pytest.raises(CorruptSource, match=r"does not decompress"):
        read(tmp_path, "x.jsonl.gz", b"plain text, not gzip")


POLICIES = [
    ("invalid_utf8", b'{"text": "a\xff\xfeb"}\n', "a\ufffd\ufffdb", "is no valid UTF-8"),
    ("lone_surrogates", b'{"text": "a\\ud800b"}\n', "a\ufffdb", "lone surrogate"),
]


@pytest.mark.parametrize(("setting", "content", "replaced", "sentence"), POLICIES)
def test_bad_text_fails_is_skipped_or_replaced(tmp_path: Path, setting: str, content: bytes, replaced: str, sentence: str):
    with pytest.raises(
        CorruptSource, match=rf'x.jsonl at byte 16 {sentence}.*; repair it, or set data.{setting} to "skip" or "replace"|{sentence}'
    ):
        read(tmp_path, "x.jsonl", line("before") + content, **{setting: "fail"})
    skipped = Skipped()
    assert read(tmp_path, "x.jsonl", content + line("after"), skipped, **{setting: "skip"}) == ["after"]
    assert skipped.counts == {setting: 1}
    assert read(tmp_path, "x.jsonl", content + line("after"), **{setting: "replace"}) == [replaced, "after"]


def test_a_surrogate_pair_is_one_character(tmp_path: Path):
    assert read(tmp_path, "x.jsonl", b'{"text": "\\ud83d\\ude00"}\n', lone_surrogates="fail") == ["😀"]


def test_empty_documents_are_skipped_or_refused(tmp_path: Path):
    content = line("") + line("  \n\t") + line(None) + line("a")
    skipped = Skipped()
    assert read(tmp_path, "x.jsonl", content, skipped) == ["a"]
    assert skipped.counts == {"empty": 3}
    with pytest.raises(CorruptSource, match=r"holds no text.*data.empty_documents"):
        read(tmp_path, "x.jsonl", content, empty_documents="fail")


def test_long_documents_are_refused_or_skipped_in_every_format(tmp_path: Path):
    for name, content in (("x.jsonl", line("ü" * 60)), ("x.txt", b"a" * 101), ("x.parquet", parquet({"text": ["a" * 101]}))):
        with pytest.raises(CorruptSource, match=r"max_document_bytes=100.*data.long_documents"):
            read(tmp_path, name, content, max_document_bytes=100)
        skipped = Skipped()
        assert read(tmp_path, name, content, skipped, max_document_bytes=100, long_documents="skip") == []
        assert skipped.counts == {"too_long": 1}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{broken\n", "is no JSON"),
        (b"[1, 2]\n", "is no JSON object"),
        (b'{"body": "a"}\n', r'has no field "text" \(it has body; data.text_field names it\)'),
        (b'{"text": 5}\n', "no text but a number"),
        (b'{"text": "' + b"a" * 300 + b'"}\n', "max_line_bytes=256"),
    ],
)
def test_corrupt_records_fail_or_are_counted(tmp_path: Path, content: bytes, sentence: str):
    with pytest.raises(CorruptSource, match=sentence):
        read(tmp_path, "x.jsonl", line("a") + content, max_line_bytes=256)
    skipped = Skipped()
    assert read(tmp_path, "x.jsonl", line("a") + content + line("b"), skipped, max_line_bytes=256, corrupt_records="skip") == ["a", "b"]
    assert skipped.counts == {"corrupt_record": 1}


def test_the_id_field_names_a_document(tmp_path: Path):
    with pytest.raises(CorruptSource, match=r'x.jsonl at byte \d+ \(key="k7"\) holds no text'):
        read(tmp_path, "x.jsonl", line("a", key="k6") + line("", key="k7"), empty_documents="fail", id_field="key")


def test_a_changed_or_removed_object_is_refused(tmp_path: Path):
    (tmp_path / "x.jsonl").write_bytes(line("a"))
    store, old = LocalStore(tmp_path), SourceObject("x.jsonl", 14, "another")
    with pytest.raises(SourceChanged, match=r"x.jsonl was changed since this run was admitted"):
        list(SegmentReader(store, whole_object(spec(), old), spec(), Skipped()))
    with pytest.raises(SourceChanged, match="was removed"):
        list(SegmentReader(store, whole_object(spec(), SourceObject("gone.jsonl", 1, "e")), spec(), Skipped()))


class _Gigabyte(io.RawIOBase):
    """One line of a gigabyte, then a good one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.tail = 1 << 30, b'"}\n' + line("after")
        self.zeros = b"a" * (4 << 20)

    def read(self, size: int = -1) -> bytes:
        if self.left:
            count = min(size, self.left, len(self.zeros))
            self.left -= count
            return self.zeros[:count]
        found, self.tail = self.tail[:size], self.tail[size:]
        return found


def test_a_gigabyte_line_is_counted_and_held_nowhere(tmp_path: Path):
    store = LocalStore(tmp_path)
    store.open = lambda item, start=0: _Gigabyte()  # type: ignore[method-assign]
    skipped = Skipped()
    item = SourceObject("x.jsonl", (1 << 30) + 30, "")
    options = spec(corrupt_records="skip", max_line_bytes=16 << 20)
    tracemalloc.start()
    try:
        found = [document.text for document in SegmentReader(store, whole_object(options, item), options, skipped)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == ["after"]
    assert skipped.counts == {"corrupt_record": 1}
    assert peak < 4 * (16 << 20)
