"""Which folders an evaluation, a job without a network, needs copies of. Standard library and boto3 only: Admit runs this in a Lambda.

Admit lists them in run.json under ``evaluation_data``; the preparation job makes them (data_prep/make_copies.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contracts.config import Json, parse, to_json
from contracts.failure import BadInput
from data_prep.fingerprint import SourceObject
from data_prep.sources import list_s3, parse_hub

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One folder to copy."""

    folder: str
    """Where its files go, below evaluation/<fingerprint>/; ends in "/"."""
    source: str
    """``s3://bucket/prefix/`` or ``hf://datasets/OWNER/NAME@COMMIT``."""


@dataclass(frozen=True, kw_only=True)
class Copies:
    """All copies of a run."""

    fingerprint: str
    """Of their sources and places."""
    uri: str
    """``s3://bucket/evaluation/<fingerprint>/``."""
    copies: tuple[Copy, ...]


def fingerprint(copies: Sequence[Copy], s3_client: Any) -> str:
    """32 hex digits (128 bits of SHA-256) over places, sources and their content: ETags in S3, the commit on the hub.

    Raises:
        BadInput: there is nothing below an S3 prefix, or no such bucket.
        AccessDenied: S3 refuses the caller.
    """
    content: list[Json] = []
    for copy in copies:
        objects = [] if parse_hub(copy.source) is not None else objects_of(copy, s3_client)
        content.append({**to_json(copy), "objects": [to_json(item) for item in objects]})
    text = json.dumps([FORMAT_VERSION, content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def objects_of(copy: Copy, s3_client: Any) -> list[SourceObject]:
    """The files below an S3 prefix, hidden ones too: tasks include YAML files whose names begin with "_".

    Raises:
        BadInput: there is none.
    """
    found = sorted(item for item in list_s3(copy.source, s3_client) if not item.key.endswith("/"))
    if not found:
        raise BadInput(f"{copy.source} holds no object; upload the files there or change evaluation")
    return found


def are_whole(index: bytes | None, objects: int) -> bool:
    """Whether the copies are complete: their index is there, and so are as many files as it counts.

    Args:
        index: content of index.json; None where there is none.
        objects: objects in their folder, the index among them.
    """
    try:
        return index is not None and objects > int(json.loads(index)["files"])
    except (ValueError, KeyError, TypeError):
        return False


def read_copies(run: Json) -> Copies | None:
    """What run.json asks for; None without an evaluation that needs data."""
    found = run.get("evaluation_data")
    return None if found is None else parse(Copies, found, "evaluation_data")
