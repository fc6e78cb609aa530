"""Parquet and Arrow files to rows of one text column. Memory: a few rows of a parquet row group; one record batch of an Arrow file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.failure import BadInput
from data_prep.store import READ_BYTES

ROWS = 1024
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
                size = sum(facts.column(i).total_uncompressed_size for i in range(facts.num_columns))
                rows = max(1, min(ROWS, READ_BYTES * facts.num_rows // max(1, size)))
                at = row
                for batch in parquet.iter_batches(batch_size=rows, row_groups=[group], columns=wanted, use_threads=False):
                    yield from _rows(batch, columns, at)
                    at += batch.num_rows
        row += facts.num_rows


def arrow_rows(file: BinaryIO, columns: Columns, name: str) -> Iterator[Row]:
    """Rows of an Arrow IPC file or stream (Feather version 2 is the former).

    Raises:
        BadInput: as for parquet.
        Exception: pyarrow's, when the file is damaged.
    """
    magic = file.read(len(ARROW_FILE_MAGIC))
    file.seek(0)
    stored = pa.PythonFile(file, mode="r")
    reader: Any = pa.ipc.open_file(stored) if magic == ARROW_FILE_MAGIC else pa.ipc.open_stream(stored)
    _wanted(reader.schema, columns, name)
    batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if magic == ARROW_FILE_MAGIC else reader
    at = 0
    for batch in batches:
        batch.validate(full=True)  # a damaged file's offsets would be followed out of its memory
        for first in range(0, batch.num_rows, ROWS):
            yield from _rows(batch.slice(first, ROWS), columns, at + first)
        at += batch.num_rows


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
    identities = [None] * batch.num_rows
    if columns.identity is not None and _exists(batch.schema, columns.identity):
        identities = _column(batch, columns.identity).to_pylist()
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    kind = texts.type
    if _is_text(kind):
        values: Any = texts.cast(pa.large_binary()).to_pylist()
    else:
        valid = texts.is_valid().to_pylist()
        values = [WrongType(str(kind)) if there else None for there in valid]
    yield from map(Row, range(at, at + len(values)), values, identities)


def _is_text(kind: Any) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        or types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    )  # fmt: skip


def _column(batch: Any, column: str) -> Any:
    if column in batch.schema.names:
        return batch.column(column)
    head, *rest = column.split(".")
    return pc.struct_field(batch.column(head), rest)
