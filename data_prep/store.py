"""One way to read sources and write parts: a local folder or an S3 prefix.

Writes are whole objects: a file appears complete or not at all (rename here, PutObject there). The S3 client retries
throttling and broken connections with backoff by itself; what still fails after that becomes a sentence.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import ConnectionClosedError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

from data_prep.failure_classes import AccessDenied, DiskFull, SourceChanged
from data_prep.fingerprint import SourceObject
from data_prep.range_reader import RangeReader
from data_prep.sources import PreconditionFailed, local_etag, local_path, s3_errors, split_s3

READ_BYTES = 4 << 20
RANGE_BYTES = 8 << 20  # one GetObject: long enough that its latency does not count
BODY_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between attempts at a body that broke off
BROKEN_BODY = (ReadTimeoutError, ConnectionClosedError, IncompleteReadError, ResponseStreamingError)
S3_ATTEMPTS = 10  # with exponential backoff up to 20 s each: rides out minutes of "503 Slow Down"


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
def disk_errors(what: str) -> Iterator[None]:
    """Turns a full disk and a refused path into sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space left while writing {what}; raise data.volume_size_gb (parts in work need about 3 GB per worker) or free the disk"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise AccessDenied(f"writing {what} was refused ({error.strerror}); choose a folder that this user may write") from error
        raise


class LocalStore(Store):
    """A folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = local_path(str(root)).absolute()
        self.uri = str(self.root)

    def read(self, key: str) -> bytes:
        """A whole small file."""
        return (self.root / key).read_bytes()

    def write(self, key: str, content: bytes) -> None:
        """Put a small object, whole."""
        target = self.root / key
        with disk_errors(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._partial(target), prefix=".", delete=False) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(target)

    def put(self, path: Path, key: str) -> None:
        """Move a finished local file in, whole."""
        target = self.root / key
        with disk_errors(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                partial = self._partial(target) / f".{target.name}.{os.getpid()}"
                shutil.move(path, partial)
                partial.replace(target)

    def _partial(self, target: Path) -> Path:
        """Where a file grows before it is renamed: in .work/ if there is one, which is cleared when the data set is complete."""
        work = self.root / ".work"
        return work if work.is_dir() else target.parent

    def move(self, key: str, to: str) -> None:
        """Rename."""
        with disk_errors(str(self.root / to)):
            (self.root / to).parent.mkdir(parents=True, exist_ok=True)
            (self.root / key).rename(self.root / to)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Sizes by key."""
        folder = self.root / prefix.rpartition("/")[0]
        found = (path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else iter(())
        keyed = ((path.relative_to(self.root).as_posix(), path) for path in found)
        return {key: path.stat().st_size for key, path in keyed if key.startswith(prefix)}

    def delete(self, prefix: str) -> None:
        """Remove everything below a prefix."""
        shutil.rmtree(self.root / prefix, ignore_errors=True)

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return (self.root / key).is_file()

    def open(self, item: SourceObject, start: int = 0) -> BinaryIO:
        """Stream from byte ``start``."""
        path = self.root / item.key
        try:
            etag = local_etag(path)
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise changed(self.uri, item.key, "was removed") from None
        except PermissionError as error:
            raise AccessDenied(f"{path} cannot be read ({error.strerror})") from None
        if item.etag and etag != item.etag:
            file.close()
            raise changed(self.uri, item.key, "was changed")
        file.seek(start)
        return file

    def open_seekable(self, item: SourceObject) -> BinaryIO:
        """Open for random access."""
        return self.open(item)

    def require_unchanged(self, item: SourceObject) -> None:
        """The file still has the times, size and edges that were listed."""
        if item.etag:
            self.open(item).close()


class S3Store(Store):
    """An S3 prefix, or any endpoint that speaks S3 (AWS_ENDPOINT_URL)."""

    def __init__(self, uri: str, client: Any) -> None:
        self.bucket, prefix = split_s3(uri)
        self.prefix = prefix if not prefix or prefix.endswith("/") else prefix + "/"
        self.uri = f"s3://{self.bucket}/{self.prefix}"
        self.client = client

    def read(self, key: str) -> bytes:
        """A whole small file."""
        with s3_errors(f"reading {self.uri}{key}"):
            content: bytes = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
            return content

    def write(self, key: str, content: bytes) -> None:
        """Put a small object, whole."""
        with s3_errors(f"writing {self.uri}{key}"):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=content)

    def put(self, path: Path, key: str) -> None:
        """Move a finished local file in, whole."""
        with s3_errors(f"uploading {self.uri}{key}"):
            self.client.upload_file(str(path), self.bucket, self.prefix + key, Config=_transfer())
        path.unlink()

    def sizes(self, prefix: str) -> dict[str, int]:
        """Sizes by key."""
        found: dict[str, int] = {}
        with s3_errors(f"listing {self.uri}{prefix}"):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                found |= {item["Key"].removeprefix(self.prefix): item["Size"] for item in page.get("Contents", ())}
        return found

    def move(self, key: str, to: str) -> None:
        """Copy inside S3, then delete."""
        with s3_errors(f"moving {self.uri}{key}"):
            source = {"Bucket": self.bucket, "Key": self.prefix + key}
            self.client.copy(source, self.bucket, self.prefix + to)
            self.client.delete_object(**source)

    def delete(self, prefix: str) -> None:
        """Remove everything below a prefix."""
        keys = [{"Key": self.prefix + key} for key in self.sizes(prefix)]
        with s3_errors(f"deleting {self.uri}{prefix}"):
            for first in range(0, len(keys), 1000):  # DeleteObjects takes 1000 keys
                self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": keys[first : first + 1000], "Quiet": True})

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            with s3_errors(f"looking for {self.uri}{key}"):
                self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)
        except FileNotFoundError:
            return False
        return True

    def open(self, item: SourceObject, start: int = 0) -> BinaryIO:
        """Stream from byte ``start``."""
        return io.BufferedReader(self._ranges(item, start), RANGE_BYTES)

    def open_seekable(self, item: SourceObject) -> BinaryIO:
        """Open for random access."""
        return io.BufferedReader(self._ranges(item), RANGE_BYTES)

    def get_range(self, item: SourceObject, start: int, count: int) -> bytes:
        """Bytes ``start`` to ``start + count`` of the object that was listed."""
        if start >= item.size or count <= 0:
            return b""
        match = {"IfMatch": f'"{item.etag}"'} if item.etag else {}
        span = f"bytes={start}-{min(start + count, item.size) - 1}"
        try:
            with s3_errors(f"reading {self.uri}{item.key}"):
                return self._get(Bucket=self.bucket, Key=self.prefix + item.key, Range=span, **match)
        except PreconditionFailed:
            raise changed(self.uri, item.key, "was changed") from None
        except FileNotFoundError:
            raise changed(self.uri, item.key, "was removed") from None

    def _ranges(self, item: SourceObject, start: int = 0) -> RangeReader:
        return RangeReader(functools.partial(self.get_range, item), item.size, start)

    def _get(self, **request: str) -> bytes:
        """GetObject with its body. The client retries until the response begins; a body that breaks off is asked for again here."""
        for wait in BODY_WAITS:
            try:
                content: bytes = self.client.get_object(**request)["Body"].read()
                return content
            except BROKEN_BODY:
                time.sleep(wait)
        last: bytes = self.client.get_object(**request)["Body"].read()
        return last


def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=16 << 20, max_concurrency=2)  # two chunks in memory per worker


def s3_client() -> Any:
    """A boto3 S3 client: region, credentials and endpoint (AWS_ENDPOINT_URL) from the environment, patient retries."""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": S3_ATTEMPTS}, read_timeout=60))


def open_store(uri: str, client: Any = None) -> Store:
    """The store that a URI names."""
    if uri.startswith("s3://"):
        return S3Store(uri, client if client is not None else s3_client())
    return LocalStore(uri)
