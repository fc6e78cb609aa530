"""The data sets that a run reads, one for each source: their names, and whether their tokens are there."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from contracts.config import Json
from contracts.failure import JobFailure
from contracts.mixture import SourceTokens
from data_prep.identify import Identified, identify_each
from data_prep.spec import DataSpec
from infra.edge.transient import transient_cause
from infra.run.expected import COUNT, fitting
from infra.run.layout import corpus_card_key, index_key, tokens_prefix, uri
from infra.run.stored import Unreadable, read_json

_READ_OF_INDEX: Json = {"splits": {"train": {"tokens": COUNT}}}


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One source's data set."""

    name: str
    """The source's name; empty for the one of a run without mixture."""
    identified: Identified
    """Its fingerprint, and what that was computed from."""
    written: datetime.datetime | None
    """When its tokens were completed; None when they are not."""
    cleaned: bool = True
    """Whether the text that its tokens are made of is there: the source's own, or a finished corpus (data.corpus)."""
    training_tokens: int | None = None
    """How many they are; None when that is not known, or not asked for: it decides epochs and shares of a mixture."""

    def tokens(self, bucket: str) -> SourceTokens:
        """Its place, as run.json names it."""
        fingerprint = self.identified.fingerprint
        return SourceTokens(name=self.name, fingerprint=fingerprint, uri=uri(bucket, tokens_prefix(fingerprint)))

    def admitted(self) -> Json:
        """What the source held, for run.json."""
        listing = self.identified.listing
        return {"uri": listing.uri, "objects": len(listing.objects), "bytes": listing.total_bytes}


def complete(found: tuple[DataSet, ...] | None) -> bool:
    """Whether the tokens of every source exist."""
    return bool(found) and all(one.written is not None for one in found or ())


def data_sets(data: DataSpec, bucket: str, s3: Any) -> tuple[DataSet, ...] | str:
    """The run's data sets in the order of its sources, or why there are none."""
    try:
        found = identify_each(data, s3)
    except JobFailure as failure:
        if transient_cause(failure):
            raise
        return failure.sentence
    return tuple(_data_set(name, identified, bucket, s3, count=bool(name)) for name, identified in found.items())


def _data_set(name: str, identified: Identified, bucket: str, s3: Any, *, count: bool) -> DataSet:
    key = index_key(identified.fingerprint)
    written = _written(s3, bucket, key)
    tokens = _training_tokens(s3, bucket, key) if count and written is not None else None
    cleaned = not identified.corpus or written is not None or _written(s3, bucket, corpus_card_key(identified.corpus)) is not None
    return DataSet(name=name, identified=identified, written=written, cleaned=cleaned, training_tokens=tokens)


def _written(s3: Any, bucket: str, key: str) -> datetime.datetime | None:
    try:
        written: datetime.datetime = s3.head_object(Bucket=bucket, Key=key)["LastModified"]
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
            return None
        raise
    return written


def _training_tokens(s3: Any, bucket: str, key: str) -> int | None:
    """From the index; a damaged one is the training job's to tell, which checks all of it."""
    try:
        index = fitting(read_json(s3, bucket, key), _READ_OF_INDEX, []) or {}
    except Unreadable:
        return None
    tokens = ((index.get("splits") or {}).get("train") or {}).get("tokens")
    return int(tokens) if tokens is not None else None
