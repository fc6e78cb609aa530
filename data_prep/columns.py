"""Batches of Parquet and Arrow files to rows of one text column. Memory: a few texts beside the batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.failure import BadInput

ROWS = 1024
DECODED_BYTES = 32 << 20  # of texts written out at once
BYTES_OF = {
    pa.types.is_string: pa.binary(),
    pa.types.is_large_string: pa.large_binary(),
    pa.types.is_string_view: pa.binary_view(),
}


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


def wanted_columns(schema: Any, columns: Columns, name: str) -> list[str]:
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


def rows_of(batch: Any, columns: Columns, at: int) -> Iterator[Row]:
    """The rows of a batch whose first has the number ``at``."""
    texts = _as_bytes(_column(batch, columns.text))
    texts.validate(full=True)  # offsets and indices; bytes that are no UTF-8 are the policies' to judge
    names = _names(batch, columns.identity)
    for low in range(0, batch.num_rows, ROWS):
        part = [texts.slice(low, ROWS)] if names is None else [texts.slice(low, ROWS), names.slice(low, ROWS)]
        for first, count in _windows(*part):
            values, *named = (column.slice(first, count) for column in part)
            begin = at + low + first
            yield from map(Row, range(begin, begin + count), _values(values), _named(*named) or [None] * count)


def _names(batch: Any, column: str | None) -> Any:
    """The id field's column; None when there is none that reads."""
    if column is None or not _exists(batch.schema, column):
        return None
    names = _column(batch, column)
    try:
        names.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return names


def _named(names: Any = None) -> list[Any]:
    """Values of the id field, or nothing. They serve sentences only: one that Python has no value for (a date beyond the year 9999, a
    time zone that nobody knows) leaves documents without a name, and not the source unread.
    """
    try:
        return [] if names is None else _dense(names).to_pylist()
    except Exception:  # pyarrow, zoneinfo, pytz and pandas each have their own
        return []


def _as_bytes(column: Any) -> Any:
    """Text as the bytes that it is stored as, without a copy."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(column.indices, _as_bytes(column.dictionary))
    for is_text, as_bytes in BYTES_OF.items():
        if is_text(kind):
            return column.view(as_bytes)
    return column


def _windows(*columns: Any) -> Iterator[tuple[int, int]]:
    """(first, count) of runs of rows whose values, each written out, take DECODED_BYTES at most, or of one row that takes more."""
    rows = len(columns[0])
    ends = np.cumsum(sum((_lengths(column) for column in columns), np.zeros(rows, np.int64)))
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
