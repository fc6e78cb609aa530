"""The data fingerprint: identifies the shards that result from a spec, a source and a tokenizer. Pure.

Known before any job runs (Admit computes it), so that finished shards are recognised and never made
twice. Everything that changes a byte of the shards is in it; nothing else is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from contracts.config import Json, to_json
from contracts.shard_index import FORMAT_VERSION
from data_prep.spec import DataSpec, fingerprinted


@dataclass(frozen=True, order=True)
class SourceObject:
    """One object of the source. ``etag`` is S3's, a repository's blob hash, or a local file's mtime and size."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class LeftOut:
    """Files of the source that are not read."""

    reason: str
    """``hidden`` (a name that begins with "." or "_"), ``unknown_ending``, ``empty_file`` or ``not_included`` (data.include)."""
    files: int
    """How many."""
    first: tuple[str, ...]
    """Names of the first few."""


@dataclass(frozen=True)
class SourceListing:
    """What a source held when it was listed: its objects, or the repository and commit that pin them."""

    uri: str
    objects: tuple[SourceObject, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes of all objects as stored (compressed)."""
        return sum(item.size for item in self.objects)


def fingerprint(spec: DataSpec, listing: SourceListing, tokenizer_reference: str) -> str:
    """32 hex digits (128 bits of SHA-256).

    ``tokenizer_reference`` is the tokenizer object's ETag, ``hf://OWNER/NAME@COMMIT``, or "" when the job trains it
    (its training settings are in the spec, its text in the listing).
    """
    content: Json = {
        "format_version": FORMAT_VERSION,
        "spec": fingerprinted(spec),
        "source": {"uri": listing.uri, "objects": [to_json(item) for item in sorted(listing.objects)]},
        "tokenizer": tokenizer_reference,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]
