"""How much memory parquet pages and Arrow batches take, by what the files declare of them: read before a library allocates it.

Both libraries decompress a page or a batch whole, and trust its declared size. A few kilobytes can declare gigabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

MOST_BYTES = 512 << 20
"""Of one page or batch: 1024 rows of 500 kB, which pyarrow has put into one page; a hundred times what writers aim at."""
HEADER_BYTES = (8 << 10, 17 << 20)  # nearly all headers; the largest that Arrow reads
DICTIONARY_PAGE = 2
RECORD_BATCH, DICTIONARY_BATCH = 3, 2
CONTINUATION = b"\xff\xff\xff\xff"


class Page(NamedTuple):
    """A page of a parquet file."""

    kind: int
    """PageType of parquet.thrift."""
    bytes: int
    """Decompressed."""


# -- parquet: PageHeader of parquet.thrift, in Thrift's compact protocol ---------------------------


def parquet_pages(file: BinaryIO, start: int, stop: int) -> Iterator[Page]:
    """The pages of a column chunk that lies between two bytes of the file.

    Raises:
        ValueError: what lies there is no page.
    """
    while start < stop:
        header, size = _page_header(file, start)
        kind, whole, stored = (header.get(field) for field in (1, 2, 3))
        if kind is None or whole is None or stored is None or whole < 0 or stored < 0:
            raise ValueError("a page header without type and sizes")
        yield Page(kind, whole)
        start += size + stored


def _page_header(file: BinaryIO, start: int) -> tuple[dict[int, int], int]:
    for most in HEADER_BYTES:
        file.seek(start)
        reader = _Compact(file.read(most))
        try:
            return reader.struct(), reader.at
        except IndexError:
            continue  # statistics can make it long
    raise ValueError("a page header that does not end")


class _Compact:
    """Just enough of the protocol to find the integers of a struct and its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self) -> dict[int, int]:
        """Integers by field; everything else is passed over."""
        found: dict[int, int] = {}
        field = 0
        while (head := self._byte()) != 0:
            field = field + (head >> 4) if head >> 4 else self._integer()
            value = self._value(head & 15)
            if value is not None:
                found[field] = value
        return found

    def _value(self, kind: int) -> int | None:
        if kind in (4, 5, 6):
            return self._integer()
        if kind in (3, 7):
            self._skip(1 if kind == 3 else 8)
        elif kind == 8:
            self._skip(self._varint())
        elif kind in (9, 10):
            head = self._byte()
            for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
                self._value(head & 15)
        elif kind == 12:
            self.struct()
        elif kind not in (1, 2):  # true and false take no space; maps do not occur
            raise ValueError(f"a page header with a field of type {kind}")
        return None

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise IndexError

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


# -- Arrow IPC: Message.fbs, a flatbuffer before each body ------------------------------------------


def arrow_messages(file: BinaryIO, start: int) -> Iterator[tuple[int, int, int]]:
    """(type, decompressed bytes, place of the next message) of the messages from byte ``start`` on.

    Raises:
        ValueError, struct.error: what lies there is no message.
    """
    while True:
        file.seek(start)
        head = file.read(8)
        prefix = 8 if head[:4] == CONTINUATION else 4  # without it before Arrow 0.15
        if len(head) < prefix or (size := struct.unpack_from("<i", head, prefix - 4)[0]) == 0:
            return
        if not 0 < size <= HEADER_BYTES[1]:
            raise ValueError(f"a message header of {size} bytes")
        file.seek(start + prefix)
        message = _Table.root(file.read(size))
        body = start + prefix + size
        kind, length = message.number(1, "<B"), message.number(3, "<q")
        if length < 0:
            raise ValueError(f"a message of {length} bytes")
        header = message.table(2)
        if header is not None and kind == DICTIONARY_BATCH:
            header = header.table(1)
        memory = _decompressed(file, header, body) if header is not None and kind in (RECORD_BATCH, DICTIONARY_BATCH) else length
        start = body + length
        yield kind, max(memory, length), start


def _decompressed(file: BinaryIO, batch: _Table, body: int) -> int:
    """Bytes of all buffers: a compressed one begins with its decompressed size, or with -1."""
    if batch.table(3) is None:
        return 0
    total = 0
    for offset, length in batch.pairs(2):
        if length > 8:
            file.seek(body + offset)
            declared = struct.unpack("<q", file.read(8))[0]
            total += length if declared < 0 else declared
    return total


class _Table:
    """A flatbuffer's table."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self._vtable = at - self._read("<i", at)
        self._slots = self._read("<H", self._vtable)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def number(self, field: int, kind: str) -> int:
        """A number; 0 when it is absent."""
        at = self._field(field)
        return self._read(kind, at) if at is not None else 0

    def table(self, field: int) -> _Table | None:
        """A table inside; None when it is absent."""
        at = self._field(field)
        return _Table(self.data, at + self._read("<I", at)) if at is not None else None

    def pairs(self, field: int) -> Iterator[tuple[int, int]]:
        """A vector of structs of two 64-bit integers."""
        at = self._field(field)
        if at is not None:
            begin = at + self._read("<I", at)
            for number in range(self._read("<I", begin)):
                yield struct.unpack_from("<qq", self.data, begin + 4 + 16 * number)

    def _field(self, number: int) -> int | None:
        slot = 4 + 2 * number
        offset = self._read("<H", self._vtable + slot) if slot < self._slots else 0
        return self.at + offset if offset else None

    def _read(self, kind: str, at: int) -> Any:
        if at < 0:
            raise ValueError("a message that points before itself")
        return struct.unpack_from(kind, self.data, at)[0]
