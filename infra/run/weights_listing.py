"""What names weights in S3 (training.initial): their listing. Admit records it, and Triage looks again before a job begins from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

ENDING = ".safetensors"


def listing(s3: Any, bucket: str, prefix: str) -> dict[str, tuple[int, str]]:
    """Size and ETag of the files right below a prefix."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    found = ((str(item["Key"]).removeprefix(prefix), item) for page in pages for item in page.get("Contents", []))
    return {name: (int(item["Size"]), str(item["ETag"]).strip('"')) for name, item in found if name and "/" not in name}


def listing_checksum(objects: Mapping[str, tuple[int, str]]) -> str:
    """SHA-256 over name, size and ETag of the files with weights: another one when a file was written anew."""
    lines = "".join(f"{name} {objects[name][0]} {objects[name][1]}\n" for name in sorted(objects) if name.endswith(ENDING))
    return hashlib.sha256(lines.encode()).hexdigest()
