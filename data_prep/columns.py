"""Parquet and Arrow files to rows of one text column. Memory: a page of the one or a record batch of the other, and a few rows."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.failure import BadInput
from data_prep.declared_sizes import DICTIONARY_PAGE, MOST_BYTES, RECORD_BATCH, arrow_messages, parquet_pages
from data_prep.failure_classes import CorruptSource
from data_prep.store import READ_BYTES

ROWS = 1024
DECODED_BYTES = 32 << 20  # of texts written out at once
ARROW_FILE_MAGIC = b"ARROW1"


class WrongType(NamedTuple):
    """Stands in for the text of a column that holds something else."""

    name: str
    """Arrow's name of the type."""


class Row(NamedTuple):
    """One row."""

    position: int
    """Its number in the file."""
    text: bytes | WrongType | None
    """UTF-8, hopefully; None for null."""
    identity: Any
    """Value of the id field."""


class Columns(NamedTuple):
    """Which columns to read; a dot leads into a struct unless a column's own name holds it."""

    text: str
    identity: str | None


def parquet_rows(file: BinaryIO, start: int, stop: int, columns: Columns, name: str) -> Iterator[Row]:
    """Rows of the row groups that begin between ``start`` and ``stop``.

    Raises:
        BadInput: the column is missing or there are several of its name.
        Exception: pyarrow's, when the file is damaged.
    """
    parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), buffer_size=1 << 20, pre_buffer=False)
    wanted = _wanted(parquet.schema_arrow, columns, name)
    row, begins = 0, 0
    for group in range(parquet.metadata.num_row_groups):
        facts = parquet.metadata.row_group(group)
        if facts.num_rows and facts.num_columns:
            first = facts.column(0)
            begins = min((x for x in (first.data_page_offset, first.dictionary_page_offset) if x), default=begins)
            if start <= begins < stop:
                at = row
                rows = _rows_at_once(file, facts, wanted, f"{name}, row group {group},")
                for batch in parquet.iter_batches(batch_size=rows, row_groups=[group], columns=wanted, use_threads=False):
                    yield from _rows(batch, columns, at)
                    at += batch.num_rows
        row += facts.num_rows


def _rows_at_once(file: BinaryIO, group: Any, wanted: list[str], name: str) -> int:
    """How many rows of a row group to read at once, so that neither many texts nor one of a dictionary, repeated, are too much memory.

    Raises:
        CorruptSource: a page of a wanted column is too large to read.
    """
    chunks = [group.column(i) for i in range(group.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    rows: int = min(ROWS, READ_BYTES * group.num_rows // max(1, size))
    for chunk in chunks:
        if chunk.path_in_schema not in wanted:
            continue
        begin = min(x for x in (chunk.data_page_offset, chunk.dictionary_page_offset) if x)
        # On disk headers are a few reads; in S3 they are the whole chunk once more, so they are looked at where the sum allows a large one.
        everywhere = isinstance(file, io.RawIOBase) or chunk.total_uncompressed_size > MOST_BYTES
        pages = parquet_pages(file, begin, begin + chunk.total_compressed_size)
        for page in pages if everywhere else itertools.islice(pages, 1):
            if page.bytes > MOST_BYTES:
                raise CorruptSource(
                    f'{name} has a page of {page.bytes} bytes in the column "{chunk.path_in_schema}", more than the {MOST_BYTES} that a '
                    "worker reads at once; write it again with fewer rows in a page (pyarrow: write_table(table, write_batch_size=16)), "
                    "or leave it out with data.include"
                )
            if page.kind == DICTIONARY_PAGE:
                rows = min(rows, MOST_BYTES // max(1, page.bytes))
    return max(1, rows)


def arrow_rows(file: BinaryIO, columns: Columns, name: str) -> Iterator[Row]:
    """Rows of an Arrow IPC file or stream (Feather version 2 is the former).

    Raises:
        BadInput: as for parquet.
        Exception: pyarrow's, when the file is damaged.
    """
    magic = file.read(len(ARROW_FILE_MAGIC))
    file.seek(0)
    stored = pa.PythonFile(file, mode="r")
    in_file = magic == ARROW_FILE_MAGIC
    reader: Any = pa.ipc.open_file(stored) if in_file else pa.ipc.open_stream(stored)
    _wanted(reader.schema, columns, name)
    batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if in_file else iter(reader)
    sizes = _batch_sizes(file, len(ARROW_FILE_MAGIC) + 2 if in_file else 0)
    at = 0
    for number in itertools.count():
        size = next(sizes, 0)
        if size > MOST_BYTES:
            raise CorruptSource(
                f"{name} has {size} bytes in record batch {number}, more than the {MOST_BYTES} that a worker reads at once; write it again "
                "in smaller ones (pyarrow: write_table(table, max_chunksize=1000)), or as parquet, or leave it out with data.include"
            )
        batch = next(batches, None)
        if batch is None:
            return
        batch.validate(full=True)  # a damaged file's offsets would be followed out of its memory
        for first in range(0, batch.num_rows, ROWS):
            yield from _rows(batch.slice(first, ROWS), columns, at + first)
        at += batch.num_rows


def _batch_sizes(file: BinaryIO, start: int) -> Iterator[int]:
    """Decompressed bytes of each record batch or of a dictionary before it, whichever are more. Leaves the file where it was."""
    largest = 0
    messages = arrow_messages(file, start)
    while True:
        before = file.tell()
        message = next(messages, None)
        file.seek(before)
        if message is None:
            return
        kind, size, _ = message
        largest = max(largest, size)
        if kind == RECORD_BATCH:
            yield largest
            largest = 0


def _wanted(schema: Any, columns: Columns, name: str) -> list[str]:
    """What to read of a file: paths as parquet takes them."""
    found = []
    for column in (columns.text, columns.identity):
        if column is None:
            continue
        head = column if column in schema.names else column.split(".")[0]
        if schema.names.count(head) > 1:
            raise BadInput(f'{name} has {schema.names.count(head)} columns named "{head}"; rename all but one')
        if _exists(schema, column):
            found.append(column)
        elif column == columns.text:
            raise BadInput(f'{name} has no column "{column}"; it has {", ".join(schema.names)}; set data.text_field')
    return found


def _exists(schema: Any, column: str) -> bool:
    if column in schema.names:
        return True
    head, *rest = column.split(".")
    if head not in schema.names:
        return False
    kind = schema.field(head).type
    for step in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(step) < 0:
            return False
        kind = kind.field(step).type
    return True


def _rows(batch: Any, columns: Columns, at: int) -> Iterator[Row]:
    texts = _column(batch, columns.text)
    identities: Any = [None] * batch.num_rows
    if columns.identity is not None and _exists(batch.schema, columns.identity):
        identities = _column(batch, columns.identity)
    for first, count in _windows(texts, identities):
        part = slice(first, first + count)
        values = _values(texts.slice(first, count))
        named = identities[part] if isinstance(identities, list) else _dense(identities.slice(first, count)).to_pylist()
        yield from map(Row, range(at + first, at + first + count), values, named)


def _windows(*columns: Any) -> Iterator[tuple[int, int]]:
    """(first, count) of runs of rows whose values, each written out, take DECODED_BYTES at most, or of one row that takes more."""
    rows = len(columns[0])
    ends = np.cumsum(sum((_lengths(column) for column in columns if not isinstance(column, list)), np.zeros(rows, np.int64)))
    first = 0
    while first < rows:
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + DECODED_BYTES, side="right")))
        yield first, last - first
        first = last


def _lengths(column: Any) -> npt.NDArray[np.int64]:
    """Bytes of each value; dictionaries and views make no copies of what they repeat, and writing it out does."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        found = _lengths(column.dictionary)
        indices = _integers(column.indices)
        return found[indices] if len(found) else np.zeros(len(column), np.int64)
    if _is_view(kind):
        return np.array([len(value.as_buffer() or b"") if value.is_valid else 0 for value in column], np.int64)
    if not _is_text(kind):
        return np.zeros(len(column), np.int64)
    return _integers(pc.binary_length(column))


def _integers(column: Any) -> npt.NDArray[np.int64]:
    """As numpy, null as 0. Arrow's own ways there (to_numpy, fill_null) import pandas where it is installed: a second."""
    column = column.cast(pa.int64())
    values = np.frombuffer(column.buffers()[1] or b"", np.int64)[column.offset :][: len(column)]
    return np.where(column.is_valid().to_pylist(), values, 0) if column.null_count else values


def _dense(column: Any) -> Any:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _values(texts: Any) -> list[Any]:
    texts = _dense(texts)
    if _is_text(texts.type):
        values: list[Any] = texts.cast(pa.large_binary()).to_pylist()
        return values
    return [WrongType(str(texts.type)) if there else None for there in texts.is_valid().to_pylist()]


def _is_text(kind: Any) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind) or _is_view(kind)
    )


def _is_view(kind: Any) -> bool:
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def _column(batch: Any, column: str) -> Any:
    if column in batch.schema.names:
        return batch.column(column)
    head, *rest = column.split(".")
    return pc.struct_field(batch.column(head), rest)
