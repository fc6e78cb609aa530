"""Segments of a source to documents: formats and lines; accept.py applies the policies.

Memory is bounded by max_line_bytes, max_document_bytes and a few blocks of 4 MiB, whatever the size of a file.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from contracts.failure import BadInput, JobFailure
from data_prep.accept import ONE_PER_LINE, Document, Policies, Skipped
from data_prep.decompress import TooMuch, blocks
from data_prep.failure_classes import CorruptSource
from data_prep.partition import Segment
from data_prep.spec import DataSpec
from data_prep.store import Source
from data_prep.tables import table_rows

if TYPE_CHECKING:
    from data_prep.columns import Row

MISSING: Any = object()
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32's other mark begins as the first


def _field(record: dict[str, Any], name: str) -> Any:
    """A field by its name, or by a path of names with dots between; MISSING when there is none, None where null stands on the way."""
    if name in record or "." not in name:
        return record.get(name, MISSING)
    value: Any = record
    for step in name.split("."):
        if value is None:
            return None
        if type(value) is not dict or step not in value:
            return MISSING
        value = value[step]
    return value


def _without_mark(fields: list[str]) -> list[str]:
    return [fields[0].removeprefix("\ufeff"), *fields[1:]]


class SegmentReader:
    """Reads the documents of one segment."""

    def __init__(
        self, store: Source, segment: Segment, spec: DataSpec, skipped: Skipped, on_read: Callable[[int], None] = lambda count: None
    ) -> None:
        self.store, self.segment, self.spec = store, segment, spec
        self.object_uri = f"{store.uri.rstrip('/')}/{segment.item.key}"
        self._policies = Policies(self.object_uri, segment.kind, spec, skipped)
        self._on_read = on_read

    def __iter__(self) -> Iterator[Document]:
        """Documents in the order of the segment.

        Raises:
            CorruptSource: a damaged object, or a record that a ``fail`` policy refuses.
            SourceChanged: the object is not the one that was listed.
        """
        kind = self.segment.kind
        if kind in ("parquet", "arrow"):
            return self._columns()
        if kind in ("csv", "tsv"):
            return self._table()
        return self._jsonl() if kind == "jsonl" else self._text()

    def place(self, position: int, identity: object = None) -> str:
        """Where a document is, in words."""
        return self._policies.place(position, identity)

    # -- formats -----------------------------------------------------------------------------------

    def _text(self) -> Iterator[Document]:
        limit = self.spec.max_document_bytes
        content = bytearray()
        for block in self._blocks(self.store.open(self.segment.item)):
            if not content:
                self._refuse_utf16(block)
            content += block
            if len(content) > limit:
                self._policies.apply(
                    "too_long", self.spec.long_documents, 0, None, f"has more than max_document_bytes={limit} bytes", "long_documents"
                )
                return
        document = self._policies.accept_bytes(bytes(content.removeprefix(codecs.BOM_UTF8)), 0, None)
        if document is not None:
            yield document

    def _jsonl(self) -> Iterator[Document]:
        text_field, id_field = self.spec.text_field, self.spec.id_field
        loads, accept = orjson.loads, self._policies.accept
        for offset, line in self._lines():
            if line is None:
                self._policies.corrupt(offset, f"is a line of more than max_line_bytes={self.spec.max_line_bytes}; {ONE_PER_LINE}")
                continue
            if not line or line.isspace():
                continue
            try:
                record = loads(line)
            except orjson.JSONDecodeError:
                line = line.removeprefix(codecs.BOM_UTF8)  # of a file that was joined to the one before
                if not line.strip():
                    continue
                record = self._policies.parse_slowly(line, offset)
                if record is None:
                    continue
            text = record.get(text_field, MISSING) if type(record) is dict else MISSING
            if text is MISSING and type(record) is dict and "." in text_field:
                text = _field(record, text_field)
            if text is MISSING:
                what = f'has no field "{text_field}"' if isinstance(record, dict) else f"is no JSON object; {ONE_PER_LINE}"
                self._policies.corrupt(offset, what + self._field_hint(record))
                continue
            identity = _field(record, id_field) if id_field is not None else None
            document = accept(text, offset, None if identity is MISSING else identity)
            if document is not None:
                yield document

    def _columns(self) -> Iterator[Document]:
        from data_prep.column_files import arrow_rows, parquet_rows  # pyarrow: 0.2 s and 35 MiB in every process
        from data_prep.columns import Columns

        columns, segment = Columns(self.spec.text_field, self.spec.id_field), self.segment
        with self.store.open_seekable(segment.item) as file:
            parquet = segment.kind == "parquet"
            rows = (
                parquet_rows(file, segment.start, segment.stop, columns, self.object_uri)
                if parquet
                else arrow_rows(file, columns, self.object_uri)
            )
            while True:
                try:
                    row = next(rows, None)
                except JobFailure:
                    raise
                except Exception as error:  # pyarrow lets many kinds out of a damaged file
                    raise self._policies.damaged(f"does not read as {segment.kind} ({type(error).__name__}: {str(error)[:200]})") from error
                if row is None:
                    return
                document = self._accept_row(row)
                if document is not None:
                    yield document

    def _accept_row(self, row: Row) -> Document | None:
        from data_prep.columns import WrongType

        if isinstance(row.text, WrongType):
            what = f'has a column "{self.spec.text_field}" of type {row.text.name}, which is no string; set data.text_field'
            self._policies.corrupt(row.position, what, row.identity)
            return None
        if row.text is None:
            return self._policies.accept(None, row.position, row.identity)
        return self._policies.accept_bytes(row.text, row.position, row.identity)

    def _table(self) -> Iterator[Document]:
        """CSV and TSV with a header."""
        header: list[str] | None = None
        place: dict[str, int] = {}
        for row in table_rows(self._lines(), self.segment.kind, self.spec.max_line_bytes):
            if header is None:
                if row.damage is not None:
                    raise self._policies.damaged(f"has no header: its first line {row.damage}")
                header, place = row.fields, self._header(row.fields)
            elif row.damage is not None:
                self._policies.corrupt(row.at, row.damage)
            elif len(row.fields) != len(header):
                self._policies.corrupt(row.at, f"has {len(row.fields)} fields, the header has {len(header)}")
            elif len(header) > 1 and _without_mark(row.fields) == header:
                continue  # of a file that was joined to the one before
            else:
                identity = row.fields[place["id"]] if "id" in place else None
                text = row.fields[place["text"]].encode(errors="surrogateescape")
                document = self._policies.accept_bytes(text, row.at, identity)
                if document is not None:
                    yield document

    def _header(self, names: list[str]) -> dict[str, int]:
        place = {}
        for what, name in (("text", self.spec.text_field), ("id", self.spec.id_field)):
            if name is not None and names.count(name) > 1:
                raise BadInput(f'{self.object_uri} has {names.count(name)} columns named "{name}"; rename all but one')
            if name in names:
                place[what] = names.index(name)
        if "text" not in place:
            shown = ", ".join(names)[:300]
            raise BadInput(f'{self.object_uri} has no column "{self.spec.text_field}"; its first line names {shown}; set data.text_field')
        return place

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
        for number, block in enumerate(self._blocks(self.store.open(segment.item, at))):
            if number == 0 and at == 0:
                self._refuse_utf16(block)
                if block.startswith(codecs.BOM_UTF8):
                    at, block = len(codecs.BOM_UTF8), block[len(codecs.BOM_UTF8) :]
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

    def _refuse_utf16(self, begin: bytes) -> None:
        """A file in UTF-16 is none of single bad bytes, which data.invalid_utf8 is about; to skip it is to skip all of it, counted."""
        if begin.startswith(UTF16_MARKS) and self.spec.invalid_utf8 != "skip":
            raise CorruptSource(
                f"{self.object_uri} is UTF-16 or UTF-32, not UTF-8; "
                "convert it (iconv -f UTF-16 -t UTF-8), or leave it out with data.include"
            )

    def _blocks(self, stream: BinaryIO) -> Iterator[bytes]:
        """Decompressed blocks; a damaged or truncated object raises."""
        compression = self.segment.compression
        try:
            yield from blocks(stream, compression, self._on_read)
        except EOFError:
            word = "gzip" if compression == "gz" else compression
            raise self._policies.damaged(f"is a truncated {word} file: it ends before its end marker") from None
        except TooMuch as error:
            raise CorruptSource(f"{self.object_uri} {error}") from None
        except JobFailure:
            raise
        except Exception as error:  # each library has its own
            what = "cannot be read" if compression == "none" else "does not decompress"
            raise self._policies.damaged(f"{what} ({error})") from error

    def _field_hint(self, record: Any) -> str:
        return f" (it has {', '.join(map(str, list(record)[:8]))}; data.text_field names it)" if isinstance(record, dict) and record else ""
