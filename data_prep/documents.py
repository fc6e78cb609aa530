"""Segments of a source to documents, every policy of the DataSpec applied on the way.

Memory is bounded by max_line_bytes, max_document_bytes and a few blocks of 4 MiB, whatever the size of a file.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, NamedTuple

import orjson

from contracts.failure import BadInput
from data_prep.decompress import blocks
from data_prep.failure_classes import CorruptSource
from data_prep.partition import Segment
from data_prep.spec import DataSpec
from data_prep.store import READ_BYTES, Source

Reason = Literal["empty", "invalid_utf8", "lone_surrogates", "too_long", "corrupt_record", "separator_in_text", "tokenizer_loss"]
EXAMPLES_PER_REASON = 3
PARQUET_ROWS = 1024

_SURROGATES = re.compile("[\ud800-\udfff]")


class Document(NamedTuple):
    """One accepted document."""

    text: str
    utf8: bytes
    position: int
    """Byte of its line (JSONL, after decompression), row (parquet), or 0 (text)."""
    identity: str | None
    """Value of the id field."""


@dataclass
class Skipped:
    """Counts of skipped documents, with the places of the first few."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: Reason, place: str) -> None:
        """Count one."""
        self.counts[reason] += 1
        known = self.examples.setdefault(reason, [])
        if len(known) < EXAMPLES_PER_REASON:
            known.append(place)


class SegmentReader:
    """Reads the documents of one segment."""

    def __init__(
        self, store: Source, segment: Segment, spec: DataSpec, skipped: Skipped, on_read: Callable[[int], None] = lambda count: None
    ) -> None:
        self.store, self.segment, self.spec, self.skipped = store, segment, spec, skipped
        self._on_read = on_read

    def __iter__(self) -> Iterator[Document]:
        """Documents in the order of the segment.

        Raises:
            CorruptSource: a damaged object, or a record that a ``fail`` policy refuses.
            SourceChanged: the object is not the one that was listed.
        """
        if self.segment.kind == "parquet":
            return self._parquet()
        return self._jsonl() if self.segment.kind == "jsonl" else self._text()

    def place(self, position: int, identity: object = None) -> str:
        """Where a document is, in words."""
        unit = "row" if self.segment.kind == "parquet" else "byte"
        named = f' ({self.spec.id_field}="{identity}")' if identity is not None else ""
        where = f" at {unit} {position}" if self.segment.kind != "text" else ""
        return f"{self.object_uri}{where}{named}"

    @property
    def object_uri(self) -> str:
        """The object's full name."""
        return f"{self.store.uri.rstrip('/')}/{self.segment.item.key}"

    # -- formats -----------------------------------------------------------------------------------

    def _text(self) -> Iterator[Document]:
        limit = self.spec.max_document_bytes
        content = bytearray()
        for block in self._blocks(self.store.open(self.segment.item)):
            content += block
            if len(content) > limit:
                self._policy(
                    "too_long", self.spec.long_documents, 0, None, f"has more than max_document_bytes={limit} bytes", "long_documents"
                )
                return
        document = self._accept_bytes(bytes(content), 0, None)
        if document is not None:
            yield document

    def _jsonl(self) -> Iterator[Document]:
        text_field, id_field = self.spec.text_field, self.spec.id_field
        loads, accept = orjson.loads, self._accept
        for offset, line in self._lines():
            if line is None:
                self._corrupt(offset, f"is a line of more than max_line_bytes={self.spec.max_line_bytes}")
                continue
            try:
                record = loads(line)
            except orjson.JSONDecodeError:
                if not line.strip():
                    continue
                record = self._loads_slowly(line, offset)
                if record is None:
                    continue
            if type(record) is not dict or text_field not in record:
                what = f'has no field "{text_field}"' if isinstance(record, dict) else "is no JSON object"
                self._corrupt(offset, what + self._field_hint(record))
                continue
            document = accept(record[text_field], offset, record.get(id_field) if id_field is not None else None)
            if document is not None:
                yield document

    def _parquet(self) -> Iterator[Document]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        column = self.spec.text_field
        with self.store.open_seekable(self.segment.item) as file:
            try:
                parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), buffer_size=1 << 20, pre_buffer=False)
                names = parquet.schema_arrow.names
                if column not in names:
                    raise BadInput(f'{self.object_uri} has no column "{column}"; it has {", ".join(names)}; set data.text_field')
                columns = [name for name in (column, self.spec.id_field) if name is not None and name in names]
                yield from self._row_groups(parquet, columns)
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(f"does not read as parquet ({error})") from error

    def _row_groups(self, parquet: Any, columns: list[str]) -> Iterator[Document]:
        import pyarrow as pa

        row = 0
        for group in range(parquet.metadata.num_row_groups):
            facts = parquet.metadata.row_group(group)
            first = facts.column(0)
            start = min(x for x in (first.data_page_offset, first.dictionary_page_offset) if x)
            if self.segment.start <= start < self.segment.stop:
                size = sum(facts.column(i).total_uncompressed_size for i in range(facts.num_columns))
                rows = max(1, min(PARQUET_ROWS, READ_BYTES * max(1, facts.num_rows) // max(1, size)))
                at = row
                for batch in parquet.iter_batches(batch_size=rows, row_groups=[group], columns=columns, use_threads=False):
                    texts = batch.column(columns[0])
                    identities = batch.column(columns[1]).to_pylist() if len(columns) > 1 else [None] * len(texts)
                    if pa.types.is_dictionary(texts.type):
                        texts = texts.dictionary_decode()
                    for text, identity in zip(texts.cast(pa.large_binary()).to_pylist(), identities, strict=True):
                        document = self._accept(None, at, identity) if text is None else self._accept_bytes(text, at, identity)
                        if document is not None:
                            yield document
                        at += 1
            row += facts.num_rows

    # -- bytes -------------------------------------------------------------------------------------

    def _lines(self) -> Iterator[tuple[int, bytes | None]]:
        """(offset, line) for every line that starts inside the segment; None for one that is too long to hold."""
        segment, limit = self.segment, self.spec.max_line_bytes
        whole = segment.compression != "none"
        stop = None if whole else segment.stop
        # A range that starts inside the file begins one byte early: if that byte ends a line, the range owns the next one.
        at = 0 if whole or segment.start == 0 else segment.start - 1
        dropping = not whole and segment.start > 0
        tail = b""
        for block in self._blocks(self.store.open(segment.item, at)):
            if dropping:
                cut = block.find(b"\n") + 1
                at += cut or len(block)
                if not cut:
                    if stop is not None and at >= stop:
                        return
                    continue
                block, dropping = block[cut:], False
            data = tail + block if tail else block
            cut = data.rfind(b"\n") + 1
            tail = data[cut:]
            for line in data[:cut].split(b"\n")[:-1]:
                if stop is not None and at >= stop:
                    return
                yield at, line if len(line) <= limit else None
                at += len(line) + 1
            if stop is not None and at >= stop:
                return
            if len(tail) > limit:
                yield at, None
                at += len(tail)
                tail, dropping = b"", True
        if tail:
            yield at, tail

    def _blocks(self, stream: BinaryIO) -> Iterator[bytes]:
        """Decompressed blocks; a damaged or truncated object raises."""
        try:
            yield from blocks(stream, self.segment.compression, self._on_read)
        except EOFError:
            raise self._damaged("is a truncated gzip file: it ends before its end marker") from None
        except (zlib.error, OSError, ValueError) as error:
            raise self._damaged(f"does not decompress ({error})") from error

    # -- policies ----------------------------------------------------------------------------------

    def _accept_bytes(self, utf8: bytes, position: int, identity: Any) -> Document | None:
        try:
            text = utf8.decode()
        except UnicodeDecodeError as error:
            if not self._policy(
                "invalid_utf8", self.spec.invalid_utf8, position, identity, f"is no valid UTF-8 ({error.reason})", "invalid_utf8"
            ):
                return None
            text = utf8.decode(errors="replace")
        return self._accept(text, position, identity)

    def _accept(self, text: Any, position: int, identity: Any) -> Document | None:
        if text is None or (type(text) is str and (not text or text.isspace())):
            self._policy("empty", self.spec.empty_documents, position, identity, "holds no text", "empty_documents")
            return None
        if type(text) is not str:
            self._corrupt(position, f'has a field "{self.spec.text_field}" that is no text but {type(text).__name__}', identity)
            return None
        try:
            utf8 = text.encode()
        except UnicodeEncodeError:
            what = "holds a lone surrogate, which no UTF-8 can"
            if not self._policy("lone_surrogates", self.spec.lone_surrogates, position, identity, what, "lone_surrogates"):
                return None
            text = _SURROGATES.sub("\ufffd", text)
            utf8 = text.encode()
        if len(utf8) > self.spec.max_document_bytes:
            what = f"has {len(utf8)} bytes, more than max_document_bytes={self.spec.max_document_bytes}"
            self._policy("too_long", self.spec.long_documents, position, identity, what, "long_documents")
            return None
        return Document(text, utf8, position, None if identity is None else str(identity))

    def _loads_slowly(self, line: bytes, offset: int) -> Any:
        """Parse what orjson refuses and a policy may allow: invalid UTF-8, escaped lone surrogates, NaN."""
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            if not self._policy(
                "invalid_utf8", self.spec.invalid_utf8, offset, None, f"is no valid UTF-8 ({error.reason})", "invalid_utf8"
            ):
                return None
            text = line.decode(errors="replace")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            self._corrupt(offset, f"is no JSON ({error})")
            return None

    def _policy(self, reason: Reason, policy: str, position: int, identity: Any, what: str, setting: str) -> bool:
        """Raise (fail), count (skip: False) or go on with a replacement (True)."""
        if policy == "fail":
            choices = '"skip" or "replace"' if setting in ("invalid_utf8", "lone_surrogates") else '"skip"'
            raise CorruptSource(f"{self.place(position, identity)} {what}; repair it, or set data.{setting} to {choices}")
        if policy == "replace":
            return True
        self.skipped.add(reason, self.place(position, identity))
        return False

    def _corrupt(self, position: int, what: str, identity: Any = None) -> None:
        self._policy("corrupt_record", self.spec.corrupt_records, position, identity, what, "corrupt_records")

    def _field_hint(self, record: Any) -> str:
        return f" (it has {', '.join(map(str, list(record)[:8]))}; data.text_field names it)" if isinstance(record, dict) and record else ""

    def _damaged(self, what: str) -> CorruptSource:
        return CorruptSource(f"{self.object_uri} {what}; upload it again, or leave it out with data.include")
