"""Stored bytes of an object to decompressed blocks, counted as they are read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from data_prep.sources import Compression
from data_prep.store import READ_BYTES


def blocks(stream: BinaryIO, compression: Compression, on_read: Callable[[int], None]) -> Iterator[bytes]:
    """Blocks of at most READ_BYTES; the stream is closed at the end.

    Raises:
        EOFError: a gzip file ends before its end marker.
        zlib.error, OSError, ValueError: the content does not decompress.
    """
    with _Counted(stream, on_read) as counted:
        if compression == "none":
            yield from iter(lambda: counted.read(READ_BYTES), b"")
        elif compression == "gz":
            yield from _gunzip(counted)
        else:
            yield from _unzstd(counted)


class _Counted(io.RawIOBase):
    """A stream that reports the number of bytes read from it."""

    def __init__(self, stream: BinaryIO, on_read: Callable[[int], None]) -> None:
        super().__init__()
        self._stream, self._on_read = stream, on_read

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read and tell."""
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._on_read(len(content))
        return len(content)

    def close(self) -> None:
        """Close both."""
        self._stream.close()
        super().close()


def _gunzip(stream: _Counted) -> Iterator[bytes]:
    from isal import igzip

    opened: Any = igzip.IGzipFile  # isal declares no types
    with opened(fileobj=stream, mode="rb") as file:
        yield from iter(lambda: file.read(READ_BYTES), b"")


def _unzstd(stream: _Counted) -> Iterator[bytes]:
    import pyarrow as pa

    # Arrow's stream, since it raises on a truncated frame, reads concatenated frames and bounds its output.
    with pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd") as file:
        yield from iter(lambda: file.read(READ_BYTES), b"")
