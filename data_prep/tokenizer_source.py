"""Where the tokenizer comes from: a folder, S3, a hub repository at its commit, or training on the source itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from contracts.failure import BadInput
from data_prep.accept import Skipped
from data_prep.documents import SegmentReader
from data_prep.hub import open_repository
from data_prep.partition import Part, Segment, expected_text
from data_prep.s3_errors import s3_errors
from data_prep.sources import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    beside,
    local_tokenizer,
    parse_hub,
    s3_tokenizer_candidates,
    split_s3,
)
from data_prep.spec import DataSpec, TokenizerTraining
from data_prep.store import Source
from data_prep.tokenizer import TokenizerFiles, train

MAX_SAMPLED_OBJECTS = 256  # opening an object costs a request; that many already show what a source is like


def obtain(spec: DataSpec, source: Source, plan: Sequence[Part], s3_client: Any, say: Callable[[str], None]) -> TokenizerFiles:
    """The tokenizer's files.

    Raises:
        BadInput: there is none at the URI.
        TokenizerUnusable: nothing to train on.
    """
    settings, uri = spec.tokenizer.train, spec.tokenizer.uri
    if settings is not None:
        say(f"training a tokenizer of {settings.vocab_size} entries on {settings.sample_bytes >> 20} MiB of the source")
        return train(_sample(spec, source, plan, settings), settings)
    if uri is None:
        raise BadInput('data.tokenizer needs "uri" or "train"')
    if parse_hub(uri) is not None:
        repository = open_repository(uri)
        return TokenizerFiles(repository.read(TOKENIZER_FILE), _optional(lambda: repository.read(TOKENIZER_CONFIG_FILE)))
    if uri.startswith("s3://"):
        return _from_s3(uri, s3_client)
    path = local_tokenizer(uri)
    return TokenizerFiles(path.read_bytes(), _optional(path.with_name(TOKENIZER_CONFIG_FILE).read_bytes))


def _from_s3(uri: str, client: Any) -> TokenizerFiles:
    def read(where: str) -> bytes:
        bucket, key = split_s3(where)
        with s3_errors(f"reading {where}"):
            content: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            return content

    for candidate in s3_tokenizer_candidates(uri):
        found = _optional(functools.partial(read, candidate))
        if found is not None:
            return TokenizerFiles(found, _optional(functools.partial(read, beside(candidate))))
    raise BadInput(f"data.tokenizer.uri {uri} names no tokenizer.json and no folder that holds one")


def _optional(read: Callable[[], bytes]) -> bytes | None:
    try:
        return read()
    except FileNotFoundError:
        return None


def _sample(spec: DataSpec, source: Source, plan: Sequence[Part], settings: TokenizerTraining) -> Iterator[str]:
    """Text taken evenly over the source: from each segment its share of ``sample_bytes``, from its beginning."""
    segments = [segment for part in plan for segment in part.segments]
    step = max(1, len(segments) // MAX_SAMPLED_OBJECTS)
    chosen: list[Segment] = segments[::step]
    total = sum(expected_text(segment) for segment in chosen)
    for segment in chosen:
        quota = settings.sample_bytes * expected_text(segment) // max(1, total) + 1
        for document in SegmentReader(source, segment, spec, Skipped()):
            yield document.text[:quota]
            quota -= len(document.utf8)
            if quota <= 0:
                break
