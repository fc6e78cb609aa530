"""An S3 prefix as a store: ranges by the listed ETag, whole objects, patient with throttling and broken connections."""

from __future__ import annotations

import functools
import io
import time
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import ConnectionClosedError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

from data_prep.fingerprint import SourceObject
from data_prep.range_reader import RangeReader
from data_prep.s3_errors import PreconditionFailed, s3_errors
from data_prep.sources import split_s3
from data_prep.store import Store, changed

RANGE_BYTES = 8 << 20  # one GetObject: long enough that its latency does not count
BODY_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between attempts at a body that broke off
BROKEN_BODY = (ReadTimeoutError, ConnectionClosedError, IncompleteReadError, ResponseStreamingError)
S3_ATTEMPTS = 10  # with exponential backoff up to 20 s each: rides out minutes of "503 Slow Down"


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
