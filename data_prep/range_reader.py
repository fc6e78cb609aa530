"""A remote object as a file: every read is one range request, which can be retried without losing bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class RangeReader(io.RawIOBase):
    """Reads bytes through ``fetch(start, count)``, which gives fewer only at the object's end."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, start: int = 0) -> None:
        super().__init__()
        self._fetch, self._size, self._at = fetch, size, start

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move without a request."""
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """One request."""
        content = self._fetch(self._at, len(buffer))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
