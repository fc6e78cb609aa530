"""Parquet and Arrow files to rows of one text column. Memory: a page of the one or a record batch of the other, and a few rows."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.columns import ROWS, Columns, Row, rows_of, wanted_columns
from data_prep.declared_sizes import DICTIONARY_PAGE, MOST_BYTES, RECORD_BATCH, arrow_messages, parquet_pages
from data_prep.failure_classes import CorruptSource
from data_prep.store import READ_BYTES

PARQUET_MAGIC = b"PAR1"
ARROW_FILE_MAGIC, FEATHER_1_MAGIC = b"ARROW1", b"FEA1"
END_BYTES = 256  # between the last message and the footer: an end mark of 8 bytes, and padding; a second file is longer


def parquet_rows(file: BinaryIO, start: int, stop: int, columns: Columns, name: str) -> Iterator[Row]:
    """Rows of the row groups that begin between ``start`` and ``stop``.

    Raises:
        BadInput: the column is missing or there are several of its name.
        Exception: pyarrow's, when the file is damaged.
    """
    parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), buffer_size=1 << 20, pre_buffer=False)
    wanted = wanted_columns(parquet.schema_arrow, columns, name)
    if start == 0:
        _refuse_joined_parquet(file, parquet.metadata, name)
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
                    yield from rows_of(batch, columns, at)
                    at += batch.num_rows
        row += facts.num_rows


def _refuse_joined_parquet(file: BinaryIO, metadata: Any, name: str) -> None:
    """Of files that were joined the last one's footer is read, and its places lead into the first one. Between the last row group and
    the footer only indexes lie, a few kilobytes.
    """
    groups = (metadata.row_group(number) for number in reversed(range(metadata.num_row_groups)))
    last = next((group for group in groups if group.num_rows), None)
    chunks = [last.column(i) for i in range(last.num_columns)] if last is not None else []
    stop = file.seek(0, io.SEEK_END) - metadata.serialized_size - 8
    at, before = max((_begin(chunk) + chunk.total_compressed_size for chunk in chunks), default=stop), b""
    file.seek(at)
    while at < stop and (block := file.read(min(READ_BYTES, stop - at))):
        if PARQUET_MAGIC * 2 in before + block:
            raise CorruptSource(
                f"{name} holds several parquet files one after the other; write them again as one, or give each its own name"
            )
        at, before = at + len(block), block[-8:]


def _begin(chunk: Any) -> int:
    begin: int = min(at for at in (chunk.data_page_offset, chunk.dictionary_page_offset) if at)
    return begin


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
        begin = _begin(chunk)
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
    """Rows of an Arrow IPC file (Feather version 2 is one), or of one or several streams.

    Raises:
        BadInput: as for parquet.
        CorruptSource: a batch is too large to read, files were joined, or it is Feather version 1.
        Exception: pyarrow's, when the file is damaged.
    """
    magic = file.read(len(ARROW_FILE_MAGIC))
    if magic.startswith(FEATHER_1_MAGIC):
        raise CorruptSource(f"{name} is Feather version 1; write it again as version 2 (pyarrow.feather.write_feather), or as parquet")
    file.seek(0)
    stored = pa.PythonFile(file, mode="r")
    if magic == ARROW_FILE_MAGIC:
        reader: Any = pa.ipc.open_file(stored)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        sizes = _BatchSizes(file, len(ARROW_FILE_MAGIC) + 2)
        yield from _batches(batches, reader.schema, sizes, columns, name)
        _refuse_joined_file(file, sizes.stop, name)
        return
    at = 0
    while file.read(1):  # streams may follow each other
        file.seek(-1, io.SEEK_CUR)
        sizes = _BatchSizes(file, file.tell())
        reader = pa.ipc.open_stream(stored)
        for row in _batches(iter(reader), reader.schema, sizes, columns, name, at):
            yield row
            at = row.position + 1


def _batches(batches: Iterator[Any], schema: Any, sizes: Iterator[int], columns: Columns, name: str, at: int = 0) -> Iterator[Row]:
    wanted_columns(schema, columns, name)
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
        batch.validate()  # a damaged file's lengths would be followed out of its memory
        yield from rows_of(batch, columns, at)
        at += batch.num_rows


def _refuse_joined_file(file: BinaryIO, messages_end: int, name: str) -> None:
    """Of files that were joined the last one's footer is read, and its places lead into the first one."""
    size = file.seek(0, io.SEEK_END)
    file.seek(size - len(ARROW_FILE_MAGIC) - 4)
    footer = struct.unpack("<i", file.read(4))[0]
    if size - len(ARROW_FILE_MAGIC) - 4 - footer - messages_end > END_BYTES:
        raise CorruptSource(f"{name} holds several Arrow files one after the other; write them again as one, or give each its own name")


class _BatchSizes:
    """Decompressed bytes of each record batch or of a dictionary before it, whichever are more. Leaves the file where it was."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self._messages = file, arrow_messages(file, start)
        self.stop = start
        """Where the last message ends."""

    def __iter__(self) -> Iterator[int]:
        """Itself."""
        return self

    def __next__(self) -> int:
        """Of the next batch."""
        largest = 0
        while True:
            before = self._file.tell()
            message = next(self._messages, None)
            self._file.seek(before)
            if message is None:
                raise StopIteration
            kind, size, self.stop = message
            largest = max(largest, size)
            if kind == RECORD_BATCH:
                return largest
