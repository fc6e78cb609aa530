"""Files that were joined, cut or written by another program: every document comes out, is counted, or stops the job with its reason."""

from __future__ import annotations

import bz2
import gzip
import inspect
import json
import lzma
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_documents import line, read, spec, zstd
from test_reader_faults import arrow, parquet

from contracts.failure import BadInput, JobFailure
from data_prep import decompress
from data_prep.accept import Skipped
from data_prep.documents import SegmentReader
from data_prep.failure_classes import AccessDenied, CorruptSource, SourceChanged
from data_prep.fingerprint import SourceObject
from data_prep.folder import walk
from data_prep.local_store import LocalStore
from data_prep.partition import whole_object
from data_prep.sources import local_etag
from data_prep.tables import table_rows

BOM = b"\xef\xbb\xbf"
ONE, TWO = line("one"), line("two")
SKIPPABLE = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"  # RFC 8878, 3.1.2


def texts(*values: Any) -> pa.Table:
    return pa.table({"text": pa.array(values)})


# -- one after the other ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", BOM + ONE + BOM + TWO + BOM + b"\n" + BOM),
        ("x.jsonl.gz", gzip.compress(BOM + ONE) + gzip.compress(BOM + TWO)),
        ("x.jsonl.gz", gzip.compress(ONE) + bytes(64) + gzip.compress(TWO)),
        ("x.jsonl.zst", SKIPPABLE + zstd(ONE) + SKIPPABLE + zstd(TWO) + SKIPPABLE),
        ("x.jsonl.bz2", bz2.compress(ONE) + bz2.compress(b"") + bz2.compress(TWO)),
        ("x.csv", b"id,text\n1,one\nid,text\n2,two\n"),
        ("x.csv", BOM + b"id,text\n1,one\n" + BOM + b"id,text\n2,two\n"),
        ("x.arrow", arrow(texts("one"), stream=True) + arrow(texts("two"), stream=True)),
    ],
)
def test_joined_files_are_read_to_the_end(tmp_path: Path, name: str, content: bytes):
    assert read(tmp_path, name, content) == ["one", "two"]


@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress])
@pytest.mark.parametrize("padding", range(0, 40, 4))
def test_padding_between_streams_may_end_wherever_a_read_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Any, padding: int):
    monkeypatch.setattr(decompress, "READ_BYTES", 16)
    ending = {lzma.compress: "xz", bz2.compress: "bz2"}[pack]
    assert read(tmp_path, f"x.jsonl.{ending}", pack(ONE) + bytes(padding) + pack(TWO)) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.jsonl.bz2", bz2.compress(ONE) + b"X" + bz2.compress(TWO)[1:], "does not decompress"),
        ("x.jsonl.bz2", bz2.compress(ONE) + bz2.compress(TWO)[:7], "is a truncated bz2 file"),
        ("x.jsonl.xz", lzma.compress(ONE) + lzma.compress(TWO)[:9], "is a truncated xz file"),
        ("x.jsonl.gz", gzip.compress(ONE) + TWO, "does not decompress"),
        ("x.jsonl.zst", zstd(ONE) + zstd(TWO)[:3], "does not decompress"),
        ("x.arrow", arrow(texts("one"), stream=False) + arrow(texts("two"), stream=False), "several Arrow files one after the other"),
        ("x.arrow", arrow(texts("one"), stream=True) + b"more", "does not read as arrow"),
        ("x.parquet", parquet(texts("one")) + parquet(texts("two")), "several parquet files one after the other"),
    ],
)
def test_what_cannot_be_read_to_the_end_is_refused(tmp_path: Path, name: str, content: bytes, sentence: str):
    with pytest.raises(CorruptSource, match=sentence):
        read(tmp_path, name, content, corrupt_records="skip")


def test_feather_of_the_first_version_gets_the_right_advice(tmp_path: Path):
    with pytest.raises(CorruptSource, match="is Feather version 1; write it again as version 2"):
        read(tmp_path, "x.feather", b"FEA1" + bytes(60) + b"FEA1")


# -- characters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_utf16_is_named_and_never_replaced_character_by_character(tmp_path: Path, name: str, encoding: str):
    content = ("\ufeff" if encoding == "utf-16-be" else "") + "text\none\n"
    for policy in ("fail", "replace"):
        with pytest.raises(CorruptSource, match=f"{name} is UTF-16 or UTF-32, not UTF-8; convert it"):
            read(tmp_path, name, content.encode(encoding), invalid_utf8=policy)


def test_what_was_replaced_is_counted(tmp_path: Path):
    skipped = Skipped()
    content = line("a\ud800") + line("b") + b'{"text": "c\xff"}\n' + line("d\udfff")
    assert read(tmp_path, "x.jsonl", content, skipped, invalid_utf8="replace") == ["a\ufffd", "b", "c\ufffd", "d\ufffd"]
    assert skipped.replaced == {"lone_surrogates": 2, "invalid_utf8": 1}
    assert skipped.counts == {}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_invalid_utf8_in_a_column_follows_its_policy(tmp_path: Path, kind: str):
    damaged = pa.array([b"one", b"\xff"]).view(pa.string())
    coded = pa.DictionaryArray.from_arrays(pa.array([0, 1]), damaged)
    for column in (damaged, coded) if kind == "arrow" else (damaged,):  # pyarrow itself refuses damaged dictionaries of parquet
        table = pa.table({"text": column})
        content = parquet(table) if kind == "parquet" else arrow(table, stream=False, rows=9)
        assert read(tmp_path, f"x.{kind}", content, invalid_utf8="skip") == ["one"]
        with pytest.raises(CorruptSource, match="at row 1 is no valid UTF-8"):
            read(tmp_path, f"x.{kind}", content)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize(
    "names",
    [
        pa.array([600_000_000_000_000_000], pa.timestamp("us")),  # the year 20982
        pa.array([1], pa.timestamp("us", "Mars/One")),
        pa.array([b"\xff"]).view(pa.string()),
        pa.array([[1, 2]]),
        pa.array([{"a": None}]),
    ],
)
def test_an_odd_id_keeps_no_document_from_being_read(tmp_path: Path, kind: str, names: pa.Array):
    table = pa.table({"text": ["one"], "id": names})
    content = parquet(table) if kind == "parquet" else arrow(table, stream=False)
    assert read(tmp_path, f"x.{kind}", content, id_field="id") == ["one"]


def test_an_id_is_shown_in_what_every_log_can_hold(tmp_path: Path):
    with pytest.raises(CorruptSource, match=r'\(id="\\ud800x{199}"\) holds a lone surrogate'):
        read(tmp_path, "x.jsonl", line("\udfff", id="\ud800" + "x" * 999), id_field="id", lone_surrogates="fail")
    skipped = Skipped()
    read(tmp_path, "x.jsonl", line("\udfff", id="\ud800"), skipped, id_field="id", lone_surrogates="skip", max_skipped_share=1)
    json.dumps(skipped.examples, ensure_ascii=False).encode()


# -- records ---------------------------------------------------------------------------------------


def test_numbers_of_any_length_are_json(tmp_path: Path):
    assert read(tmp_path, "x.jsonl", b'{"text": "one", "n": ' + b"9" * 5000 + b', "x": NaN}\n') == ["one"]


def test_null_on_the_way_to_a_nested_field_is_an_empty_document(tmp_path: Path):
    skipped = Skipped()
    assert read(tmp_path, "x.jsonl", b'{"meta": null}\n{"meta": {"body": "one"}}\n', skipped, text_field="meta.body") == ["one"]
    assert skipped.counts == {"empty": 1}


def test_an_array_in_one_overlong_line_says_one_object_per_line(tmp_path: Path):
    content = json.dumps([{"text": "a" * 50}] * 10).encode()
    with pytest.raises(CorruptSource, match=r"max_line_bytes=200; JSONL has one object per line"):
        read(tmp_path, "x.json", content, max_line_bytes=200)


@pytest.mark.parametrize(
    ("content", "found", "corrupt"),
    [
        (b"id,text\n1," + b"a" * 300 + b"\n2,b\n3,c\n", ["b", "c"], 1),
        (b'id,text\n1,"never\n2,b\n3,c\n', ["b", "c"], 1),
        (b'id,text\n1,"never\n2,b\n3,"c"\n4,d\n', ["b", "c", "d"], 1),
        (b'id,text\n1,"' + b"a\n" * 100 + b'"\n2,b\n', ["b"], 101),
    ],
)
def test_a_damaged_row_takes_no_other_with_it(tmp_path: Path, content: bytes, found: list[str], corrupt: int):
    skipped = Skipped()
    assert read(tmp_path, "x.csv", content, skipped, max_line_bytes=200, corrupt_records="skip") == found
    assert skipped.counts == {"corrupt_record": corrupt}


def test_a_table_without_a_readable_header_is_refused_under_every_policy(tmp_path: Path):
    with pytest.raises(CorruptSource, match="has no header: its first line is no CSV row"):
        read(tmp_path, "x.csv", b"id," + b"t" * 300 + b"\n1,a\n", max_line_bytes=200, corrupt_records="skip")


FIELDS = st.text(st.sampled_from('ab,"\n\r\t\x00é\u2028'), max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(FIELDS, FIELDS), min_size=1, max_size=8), kind=st.sampled_from(["csv", "tsv"]))
def test_whatever_is_quoted_comes_back(rows: list[tuple[str, str]], kind: Any):
    comma = {"csv": ",", "tsv": "\t"}[kind]
    content = "\n".join(comma.join('"' + field.replace('"', '""') + '"' for field in row) for row in rows)
    lines = iter((0, one) for one in content.encode().split(b"\n"))
    assert [tuple(row.fields) for row in table_rows(lines, kind, 1000)] == rows


# -- folders ---------------------------------------------------------------------------------------


def test_a_link_to_itself_is_a_sentence(tmp_path: Path):
    (tmp_path / "a.jsonl").symlink_to("a.jsonl")
    with pytest.raises(AccessDenied, match=r"a.jsonl below the source cannot be read \(Too many levels of symbolic links\)"):
        list(walk(tmp_path))


def test_a_pipe_is_named_and_never_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(BadInput, match=r"a.jsonl is no file but a pipe, a socket or a device"):
        list(walk(tmp_path))


def test_folders_without_an_end_are_a_sentence(tmp_path: Path):
    deepest = tmp_path
    for _ in range(120):
        deepest /= "a"
        deepest.mkdir()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 90)
    try:
        with pytest.raises(BadInput, match="lie too deep in each other"):
            list(walk(tmp_path))
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("other", ["folder", "loop", "below"])
def test_a_file_that_became_something_else_is_a_sentence(tmp_path: Path, other: str):
    path = tmp_path / "in" / "x.jsonl"
    path.parent.mkdir()
    path.write_bytes(ONE)
    item = SourceObject("in/x.jsonl", len(ONE), local_etag(path))
    path.unlink()
    if other == "folder":
        path.mkdir()
    elif other == "loop":
        path.symlink_to(path)
    else:
        path.parent.rmdir()
        path.parent.write_bytes(b"")
    with pytest.raises(JobFailure) as caught:
        list(SegmentReader(LocalStore(tmp_path), whole_object(spec(), item), spec(), Skipped()))
    assert isinstance(caught.value, AccessDenied if other == "loop" else SourceChanged)


@pytest.mark.parametrize("place", ["file", "file/below", "loop", "x" * 300])
def test_a_destination_that_cannot_be_a_folder_is_a_sentence(tmp_path: Path, place: str):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(AccessDenied, match=r"writing .* was refused"):
        LocalStore(tmp_path / place).write("train/a", b"")


def test_a_folder_in_the_place_of_a_file_is_a_sentence(tmp_path: Path):
    (tmp_path / "index.json").mkdir()
    with pytest.raises(AccessDenied, match=r"index.json cannot be read \(Is a directory\)"):
        LocalStore(tmp_path).read("index.json")
