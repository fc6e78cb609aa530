"""What a run left in S3, read back. Objects may be missing, cut off, or changed by hand; each reader says which it is."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from contracts.config import Json

_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
MAX_BYTES = 64 << 20
"""Of one JSON object. The largest, index.json, has about 300 bytes a shard: 200,000 shards are 60 MB."""
MAX_DEPTH = 50
"""Levels of one JSON object; ours have 8 at most, and Python's own limit is near 1,000 frames, of which callers need some."""
CHUNK_BYTES = 1 << 20
"""Read at once of a file of lines, so that a file of any length needs little memory."""
LINE_BYTES = 64 << 10
"""A longer line is none of ours (a metrics line has 400 bytes); it is cut here."""


class Unreadable(ValueError):
    """An object that is there and cannot be used. The text names it and says why, in one sentence without a full stop."""


def read_bytes(s3: Any, bucket: str, key: str) -> bytes | None:
    """The object's bytes, None when there is none."""
    body = _open(s3, bucket, key)
    return None if body is None else bytes(body.read())


def read_json(s3: Any, bucket: str, key: str) -> Json:
    """The JSON object stored there, {} when there is none. Its texts are :func:`plain`; numbers can still be NaN or infinite.

    Raises:
        Unreadable: it is no UTF-8, no JSON, no JSON object, or larger or deeper than ours can be.
    """
    body = _open(s3, bucket, key)
    if body is None:
        return {}
    try:
        value = plain(json.loads(_whole(body)))
    except RecursionError:
        raise Unreadable(f"s3://{bucket}/{key} cannot be read: it is nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"s3://{bucket}/{key} cannot be read: {_why(error)}") from None
    if not isinstance(value, dict):
        raise Unreadable(f"s3://{bucket}/{key} cannot be read: it holds {in_words(value)}, not a JSON object")
    return value


def read_lines(s3: Any, bucket: str, key: str) -> Iterator[str]:
    """The object's lines, without their ends; none when there is no object. What is not UTF-8 becomes U+FFFD."""
    body = _open(s3, bucket, key)
    rest = b""
    while body is not None and (chunk := body.read(CHUNK_BYTES)):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[: LINE_BYTES + 1]
        for line in lines:
            yield line[:LINE_BYTES].decode("utf-8", errors="replace")
    if rest:
        yield rest[:LINE_BYTES].decode("utf-8", errors="replace")


def written(s3: Any, bucket: str, key: str) -> dt.datetime | None:
    """When the object was written, None when there is none."""
    found = _get(s3, bucket, key)
    return None if found is None else found.get("LastModified")


def plain(value: Any, depth: int = 0) -> Any:
    """The value with U+FFFD for lone surrogates, which no file can hold as text.

    Raises:
        ValueError: it is nested deeper than ``MAX_DEPTH``.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {_text(str(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if value is None or isinstance(value, (bool, int, float, dt.datetime)):
        return value
    return _text(str(value))


def in_words(value: Any) -> str:
    """What a JSON value is, for a sentence."""
    if isinstance(value, str):
        return f"the text {json.dumps(value if len(value) <= 30 else value[:27] + '...')}"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else json.dumps(value, default=str)[:30]


def _text(value: str) -> str:
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not value.isascii() else value


def _get(s3: Any, bucket: str, key: str) -> Any:
    try:
        return s3.get_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in _MISSING:
            return None
        raise


def _open(s3: Any, bucket: str, key: str) -> Any:
    found = _get(s3, bucket, key)
    return None if found is None else found["Body"]


def _whole(body: Any) -> str:
    content: bytes = body.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    if not content.strip():
        raise ValueError("it is empty")
    return content.decode()


def _why(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is no UTF-8 from byte {error.start} on"
    if isinstance(error, json.JSONDecodeError):
        return f"it is cut off or no JSON (line {error.lineno}, column {error.colno}: {error.msg})"
    return str(error)
