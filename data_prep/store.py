"""One way to read sources and write parts: a local folder or an S3 prefix.

Writes are whole objects: a file appears complete or not at all (rename here, PutObject there). The S3 client retries
throttling and broken connections with backoff by itself; what still fails after that becomes a sentence.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from contracts.shard_index import Shard
from data_prep.failure_classes import AccessDenied, DiskFull, SourceChanged
from data_prep.fingerprint import SourceObject

READ_BYTES = 4 << 20
REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""The user may not write there, or a file or link stands where a folder must be, or no such name can be."""


class Source(ABC):
    """A folder of objects with ``/`` in their keys, to read from."""

    uri: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """A whole small object. Raises FileNotFoundError."""

    @abstractmethod
    def open(self, item: SourceObject, start: int = 0) -> BinaryIO:
        """Stream an object from byte ``start``.

        Raises:
            SourceChanged: it is not the object that was listed (ETag), or is gone.
        """

    @abstractmethod
    def open_seekable(self, item: SourceObject) -> BinaryIO:
        """The same for random access."""

    def require_unchanged(self, item: SourceObject) -> None:
        """After an object was read: it was still the listed one. Where every request names the ETag there is nothing to do.

        Raises:
            SourceChanged: it was written to meanwhile.
        """
        del item


class Store(Source):
    """The same, to write to as well."""

    @abstractmethod
    def get_range(self, item: SourceObject, start: int, count: int) -> bytes:
        """Bytes ``start`` to ``start + count`` of an object, as far as it has them. Raises as ``open``."""

    @abstractmethod
    def write(self, key: str, content: bytes) -> None:
        """Put a small object, whole."""

    @abstractmethod
    def put(self, path: Path, key: str) -> None:
        """Move a finished local file into the store, whole. The local file is gone afterwards."""

    @abstractmethod
    def sizes(self, prefix: str) -> dict[str, int]:
        """Size of every object whose key begins with ``prefix``."""

    @abstractmethod
    def move(self, key: str, to: str) -> None:
        """Give an object another key."""

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Remove every object whose key begins with ``prefix`` (a folder, ending in "/")."""

    def intact(self, shard: Shard) -> bool:
        """Whether a shard that is there with its sizes is the one that was written. Objects in S3 are: nothing edits them in place."""
        del shard
        return True

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            self.read(key)
        except FileNotFoundError:
            return False
        return True


def changed(uri: str, key: str, why: str) -> SourceChanged:
    """The sentence for an object that is not the listed one."""
    return SourceChanged(
        f"{uri.rstrip('/')}/{key} {why} since this run was admitted; start a new run, which will see the source as it is now"
    )


@contextmanager
def disk_errors(what: str, fix: str = "raise data.volume_size_gb (parts in work need about 3 GB per worker)") -> Iterator[None]:
    """Turns a full disk, with its ``fix``, and a refused path into sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left while writing {what}; {fix} or free the disk") from error
        if error.errno in REFUSED:
            raise AccessDenied(f"writing {what} was refused ({error.strerror}); choose a folder that this user may write") from error
        raise
