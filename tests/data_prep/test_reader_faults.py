"""Files as they come: other formats, damaged ones, ones that expand without end. Only classed sentences come out."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_documents import line, read, zstd

from contracts.failure import BadInput, JobFailure, Unexpected
from data_prep import column_files, columns, decompress
from data_prep.accept import Skipped
from data_prep.failure_classes import CorruptSource

BOUNDED = 60
DEPTH = int(os.environ.get("FUZZ_EXAMPLES", BOUNDED))  # nightly: FUZZ_EXAMPLES=5000, with other inputs each time
TWO = line("one") + line("two ü")
ROWS = [{"id": 1, "text": "one"}, {"id": 2, "text": "two ü"}]


def arrow(table: pa.Table, *, stream: bool, rows: int = 1, compression: str | None = None) -> bytes:
    out, options = io.BytesIO(), pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return out.getvalue()


def parquet(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


CSV = b'id,text\n1,one\n2,"two \xc3\xbc"\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl.xz", lzma.compress(TWO)),
        ("x.jsonl.xz", lzma.compress(line("one")) + b"\0\0\0\0" + lzma.compress(line("two ü"))),
        ("x.jsonl.bz2", bz2.compress(line("one")) + bz2.compress(line("two ü"))),
        ("x.jsonl.zstd", zstd(TWO)),
        ("x.csv", CSV),
        ("x.csv", b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n")),
        ("x.csv.gz", gzip.compress(CSV)),
        ("x.tsv", CSV.replace(b",", b"\t")),
        ("x.arrow", arrow(pa.Table.from_pylist(ROWS), stream=False)),
        ("x.arrow", arrow(pa.Table.from_pylist(ROWS), stream=True)),
        ("x.feather", arrow(pa.Table.from_pylist(ROWS), stream=False)),
        ("x.jsonl", b"\xef\xbb\xbf" + TWO),
        ("x.jsonl.gz", gzip.compress(b"\xef\xbb\xbf" + TWO)),
    ],
)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str, content: bytes):
    assert read(tmp_path, name, content) == ["one", "two ü"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path):
    assert read(tmp_path, "x.txt", b"\xef\xbb\xbfone") == ["one"]
    assert read(tmp_path, "x.jsonl", line("\ufeffone")) == ["\ufeffone"]  # inside a document it is the author's
    assert read(tmp_path, "x.txt", b"\xef\xbb\xbf", empty_documents="skip") == []


NESTED = [{"meta": {"body": "one", "n": 1}}, {"meta": {"body": "two", "n": 2}}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in NESTED)),
        ("x.parquet", parquet(pa.Table.from_pylist(NESTED))),
        ("x.arrow", arrow(pa.Table.from_pylist(NESTED), stream=False)),
        ("x.jsonl", b'{"meta.body": "one", "meta": {"body": "no"}}\n{"meta.body": "two"}\n'),
        ("x.parquet", parquet(pa.table({"meta.body": ["one", "two"]}))),
        ("x.csv", b"meta.body\none\ntwo\n"),
    ],
)
def test_a_path_leads_into_nested_fields_unless_a_field_has_that_name(tmp_path: Path, name: str, content: bytes):
    assert read(tmp_path, name, content, text_field="meta.body") == ["one", "two"]


# -- wrong types and names -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("values", "named"), [(pa.array([1, None]), "int64"), (pa.array([["a"], None]), "list<.*string>"), (pa.array([1.5, None]), "double")]
)
def test_a_column_of_another_type_is_named_and_follows_corrupt_records(tmp_path: Path, kind: str, values: pa.Array, named: str):
    table = pa.table({"text": values})
    content = parquet(table) if kind == "parquet" else arrow(table, stream=False)
    with pytest.raises(CorruptSource, match=rf'at row 0 has a column "text" of type {named}, which is no string; set data.text_field'):
        read(tmp_path, f"x.{kind}", content)
    skipped = Skipped()
    assert read(tmp_path, f"x.{kind}", content, skipped, corrupt_records="skip") == []
    assert skipped.counts == {"corrupt_record": 1, "empty": 1}


def test_two_columns_of_one_name_are_a_sentence(tmp_path: Path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    for name, content in (("x.parquet", parquet(table)), ("x.csv", b"text,text\na,b\n"), ("x.arrow", arrow(table, stream=True))):
        with pytest.raises(BadInput, match='has 2 columns named "text"'):
            read(tmp_path, name, content)


def test_empty_row_groups_without_dictionaries_are_passed_over(tmp_path: Path):
    out = io.BytesIO()
    with pq.ParquetWriter(out, pa.schema([("text", pa.string())]), use_dictionary=False) as writer:
        for texts in ([], ["one"], [], ["two"]):
            writer.write_table(pa.table({"text": pa.array(texts, pa.string())}))
    assert read(tmp_path, "x.parquet", out.getvalue()) == ["one", "two"]


@pytest.mark.parametrize(
    "content", [b'[{"text": "a"}]\n', b'[\n  {"text": "a"}\n]\n', b'{\n  "text": "a"\n}\n', b'[{"text": "a"},\n{"text": "b"}]\n']
)
def test_an_array_or_a_pretty_printed_object_says_one_object_per_line(tmp_path: Path, content: bytes):
    with pytest.raises(CorruptSource, match="JSONL has one object per line"):
        read(tmp_path, "x.json", content)


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"id,body\n1,a\n", 'has no column "text"; its first line names id, body'),
        (b'id,text\n1,"never closed\n2,b\n', r"at byte 8 is no CSV row \(unexpected end of data\)"),
        (b"id,text\n1,a,b\n", r"at byte 8 has 3 fields, the header has 2"),
        (b"id,text\n1\n", r"at byte 8 has 1 fields"),
        (b"id,text\n1,\xff\n", r"at byte 8 is no valid UTF-8"),
        (b"id,text\n1," + b"a" * 300 + b"\n", "is no CSV row"),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path: Path, content: bytes, sentence: str):
    with pytest.raises(JobFailure, match=sentence):
        read(tmp_path, "x.csv", content, max_line_bytes=200)


def test_a_bad_row_can_be_skipped_and_the_others_stay(tmp_path: Path):
    skipped = Skipped()
    content = b'id,text\n1,a\n2,"b" c\n3,d,e\n4,"f\ng"\n5,h\n'
    assert read(tmp_path, "x.csv", content, skipped, corrupt_records="skip") == ["a", "f\ng", "h"]
    assert skipped.counts == {"corrupt_record": 2}
    assert skipped.examples["corrupt_record"][0].endswith("x.csv at byte 12")


# -- compression -----------------------------------------------------------------------------------


def zstd_frame(window_log: int, content: bytes) -> bytes:
    """One raw block behind a header that asks for a window of 2^window_log bytes (RFC 8878, 3.1.1)."""
    block = struct.pack("<I", (len(content) << 3) | 1)[:3] + content
    return b"\x28\xb5\x2f\xfd" + bytes([0, (window_log - 10) << 3]) + block


def test_a_window_of_two_gib_gets_the_right_advice(tmp_path: Path):
    assert read(tmp_path, "x.jsonl.zst", zstd_frame(27, TWO)) == ["one", "two ü"]
    with pytest.raises(CorruptSource, match="needs a window of more than 128 MiB; compress it again with zstd --long=27"):
        read(tmp_path, "x.jsonl.zst", zstd_frame(31, TWO))


def test_xz_of_a_large_dictionary_gets_the_right_advice(tmp_path: Path):
    packed = lzma.compress(TWO, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}])
    with pytest.raises(CorruptSource, match="compress it again with xz -9 or less"):
        read(tmp_path, "x.jsonl.xz", packed)


@pytest.mark.parametrize("kind", ["gz", "zst", "xz", "bz2"])
@pytest.mark.parametrize("byte", [b"\0", b"\n"])
def test_a_bomb_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, byte: bytes):
    monkeypatch.setattr(decompress, "FREE_BYTES", 1 << 20)
    pack = {"gz": gzip.compress, "zst": zstd, "xz": lzma.compress, "bz2": bz2.compress}[kind]
    with pytest.raises(CorruptSource, match="over 200 times as much"):
        read(tmp_path, f"x.jsonl.{kind}", pack(byte * (2 << 20)), corrupt_records="skip")


PACKED = {"gz": gzip.compress(TWO), "zst": zstd(TWO), "xz": lzma.compress(TWO), "bz2": bz2.compress(TWO)}


PAGE = r"x.parquet, row group 0, has a page of \d+ bytes in the column \"text\", more than the 1048576 that a worker reads"
BATCH = r"x.arrow has \d+ bytes in record batch 0, more than the 1048576 that a worker reads"


def repeated(text: str, rows: int) -> pa.Table:
    return pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))})


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_long_text_of_a_dictionary_is_not_written_out_for_all_rows_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    """A kilobyte that declares 1,000 texts of 1 MB: a few of them are held at a time."""
    table, held = repeated("x" * (1 << 20), 1000), []
    whole = columns._values

    def watched(texts: Any) -> list[Any]:
        found = whole(texts)
        held.append(sum(map(len, found)))
        return found

    monkeypatch.setattr(columns, "_values", watched)
    content = parquet(table, compression="zstd") if kind == "parquet" else arrow(table, stream=False, rows=1000)
    assert len(content) < 2 << 20
    found = read(tmp_path, f"x.{kind}", content)
    assert len(found) == 1000
    assert max(held) <= columns.DECODED_BYTES < sum(held)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.parquet", lambda t: parquet(t, compression="zstd", use_dictionary=False), PAGE),
        ("x.parquet", lambda t: parquet(t, compression="zstd"), PAGE),
        ("x.arrow", lambda t: arrow(t, stream=False, rows=9), BATCH),
        ("x.arrow", lambda t: arrow(t, stream=True, rows=9), BATCH),
        ("x.arrow", lambda t: arrow(t, stream=True, rows=9, compression="zstd"), BATCH),
        ("x.arrow", lambda t: arrow(repeated(t["text"][1].as_py(), 2), stream=False, rows=9, compression="lz4"), BATCH),
    ],
)  # fmt: skip
def test_a_page_or_batch_that_declares_too_much_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: Any, sentence: str
):
    monkeypatch.setattr(column_files, "MOST_BYTES", 1 << 20)
    table = pa.table({"text": ["short", "x" * (2 << 20)]})
    with pytest.raises(CorruptSource, match=sentence):
        read(tmp_path, name, content(table))


@pytest.mark.parametrize("kind", PACKED)
def test_a_truncated_file_is_named(tmp_path: Path, kind: str):
    with pytest.raises(CorruptSource, match=r"x.jsonl.\w+ (is a truncated|does not decompress)"):
        read(tmp_path, f"x.jsonl.{kind}", PACKED[kind][:-6])


# -- anything --------------------------------------------------------------------------------------

SEEDS = {
    "x.jsonl": TWO,
    "x.csv": CSV,
    "x.txt": b"\xef\xbb\xbftext",
    "x.parquet": parquet(pa.Table.from_pylist(ROWS)),
    "x.arrow": arrow(pa.Table.from_pylist(ROWS), stream=False),
    **{f"x.jsonl.{kind}": content for kind, content in PACKED.items()},
}


@settings(max_examples=DEPTH, derandomize=DEPTH == BOUNDED, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", SEEDS)
def test_whatever_a_file_holds_only_classed_failures_come_out(tmp_path: Path, name: str, data: st.DataObject):
    content = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    policy = data.draw(st.sampled_from(["fail", "skip"]))
    field = data.draw(st.sampled_from(["text", "id", "meta.body"]))
    try:
        for text in read(tmp_path, name, bytes(content), text_field=field, corrupt_records=policy):
            text.encode()
    except JobFailure as failure:
        assert not isinstance(failure, Unexpected)
        assert failure.retry == "stop"
