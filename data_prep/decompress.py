"""Stored bytes of an object to decompressed blocks, counted as they are read."""

from __future__ import annotations

import bz2
import io
import lzma
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from data_prep.sources import Compression
from data_prep.store import READ_BYTES

MAX_EXPANSION = 200  # text compresses 3 to 10 times, logs up to 100; gzip's limit is 1032, zstd's beyond 100,000
FREE_BYTES = 64 << 20  # below this nobody counts
WINDOW_BYTES = 128 << 20  # of zstd (its decoder's own default limit) and xz (level 9 needs 65 MiB)


class TooMuch(Exception):
    """Decompressing would take more memory or time than any text is worth; the message is the predicate of a sentence."""


def blocks(stream: BinaryIO, compression: Compression, on_read: Callable[[int], None]) -> Iterator[bytes]:
    """Blocks of at most READ_BYTES; the stream is closed at the end.

    Raises:
        EOFError: a file ends before its end marker.
        TooMuch: a window larger than WINDOW_BYTES, or more than MAX_EXPANSION bytes for one.
        Exception: the library's own, when the content does not decompress.
    """
    with _Counted(stream, on_read) as counted:
        if compression == "none":
            yield from iter(lambda: counted.read(READ_BYTES), b"")
            return
        made = 0
        for block in _READERS[compression](counted):
            made += len(block)
            if made > FREE_BYTES and made > MAX_EXPANSION * counted.taken:
                raise TooMuch(
                    f"makes {made >> 20} MiB and more of {counted.taken} bytes, over {MAX_EXPANSION} times as much: "
                    "damaged, or made to fill memory and disks; leave it out with data.include"
                )
            yield block


class _Counted(io.RawIOBase):
    """A stream that reports the number of bytes read from it."""

    def __init__(self, stream: BinaryIO, on_read: Callable[[int], None]) -> None:
        super().__init__()
        self._stream, self._on_read, self.taken = stream, on_read, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read and tell."""
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self.taken += len(content)
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
        try:
            yield from iter(lambda: file.read(READ_BYTES), b"")
        except OSError as error:
            if "too much memory" not in str(error):
                raise
            raise TooMuch(f"needs a window of more than {WINDOW_BYTES >> 20} MiB; compress it again with zstd --long=27 or less") from None


def _unxz(stream: _Counted) -> Iterator[bytes]:
    try:
        yield from _streams(stream, lambda: lzma.LZMADecompressor(memlimit=WINDOW_BYTES))
    except lzma.LZMAError as error:
        if "memory" not in str(error).lower():
            raise
        raise TooMuch(f"needs more than {WINDOW_BYTES >> 20} MiB of memory; compress it again with xz -9 or less") from None


def _unbz2(stream: _Counted) -> Iterator[bytes]:
    return _streams(stream, bz2.BZ2Decompressor)  # BZ2File takes a damaged second stream for the end of the file


def _streams(stream: _Counted, decompressor: Callable[[], Any]) -> Iterator[bytes]:
    """Compressed streams one after the other, to the end of the file."""
    content = stream.read(READ_BYTES)
    while content:
        decoder = decompressor()
        while not decoder.eof:
            block = decoder.decompress(content, READ_BYTES)
            if block:
                yield block
            content = b""
            if not decoder.eof and decoder.needs_input:
                content = stream.read(READ_BYTES)
                if not content:
                    raise EOFError
        content = decoder.unused_data.lstrip(b"\0")  # streams may be padded
        while not content and (more := stream.read(READ_BYTES)):
            content = more.lstrip(b"\0")


_READERS = {"gz": _gunzip, "zst": _unzstd, "xz": _unxz, "bz2": _unbz2}
