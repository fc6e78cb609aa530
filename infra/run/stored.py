"""What a run left in S3, read back: text and JSON of objects that may not be there yet."""

from __future__ import annotations

import json
from typing import Any

from botocore.exceptions import ClientError

from contracts.config import Json

_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})


def read_text(s3: Any, bucket: str, key: str) -> str:
    """The object's text, "" when there is none."""
    try:
        body: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in _MISSING:
            return ""
        raise
    return body.decode("utf-8", errors="replace")


def read_json(s3: Any, bucket: str, key: str) -> Json:
    """The JSON object stored there, {} when there is none.

    Raises:
        ValueError: the text is no JSON.
    """
    text = read_text(s3, bucket, key)
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}
