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
from data_prep.corpus_spec import CORPUS_VERSION, DATATROVE
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


def fingerprint(spec: DataSpec, listing: SourceListing, tokenizer_reference: str, corpus: str = "") -> str:
    """32 hex digits (128 bits of SHA-256).

    ``tokenizer_reference`` is the tokenizer object's ETag, ``hf://OWNER/NAME@COMMIT``, or "" when the job trains it
    (its training settings are in the spec, its text in the listing). ``corpus`` is the fingerprint of the corpus that is made of the
    source first, or "".
    """
    content: Json = {
        "format_version": FORMAT_VERSION,
        "spec": fingerprinted(spec),
        "source": _listed(listing),
        "tokenizer": tokenizer_reference,
        **({"corpus": corpus} if corpus else {}),
    }
    return _digest(content)


def corpus_fingerprint(spec: DataSpec, listing: SourceListing, evaluation: SourceListing | None, model_reference: str) -> str:
    """Names the corpus that data.corpus makes of a source: its steps, how the source is read, and every text and model that decides."""
    if spec.corpus is None:
        raise ValueError("no corpus is made of this source")
    content: Json = {
        "version": [CORPUS_VERSION, DATATROVE],
        "steps": spec.corpus.fingerprinted(),
        "reading": to_json(spec.reading),
        "source": _listed(listing),
        "evaluation": None if evaluation is None else _listed(evaluation),
        "model": model_reference,
    }
    return _digest(content)


def _listed(listing: SourceListing) -> Json:
    return {"uri": listing.uri, "objects": [to_json(item) for item in sorted(listing.objects)]}


def _digest(content: Json) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]
