"""Where the tokenizer comes from: a folder, S3, a hub repository at its commit, or training on the source itself."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
    local_bytes,
    local_tokenizer,
    parse_hub,
    s3_tokenizer_candidates,
    split_s3,
)
from data_prep.spec import DataSpec, TokenizerTraining
from data_prep.store import Source
from data_prep.tokenizer import TokenizerFiles, train

MAX_SAMPLED_OBJECTS = 256  # opening an object costs a request; that many already show what a source is like


@dataclass(frozen=True, kw_only=True)
class Text:
    """A source that a tokenizer may be trained on."""

    spec: DataSpec
    source: Source
    plan: Sequence[Part]

    @property
    def segments(self) -> list[Segment]:
        """Pieces of it that are looked at, taken evenly."""
        every = [segment for part in self.plan for segment in part.segments]
        return every[:: max(1, len(every) // MAX_SAMPLED_OBJECTS)]


def obtain(texts: Sequence[Text], s3_client: Any, say: Callable[[str], None]) -> TokenizerFiles:
    """The tokenizer's files; one that is trained is trained on all ``texts``, whose tokenizer settings are equal.

    Raises:
        BadInput: there is none at the URI.
        TokenizerUnusable: nothing to train on.
    """
    settings, uri = texts[0].spec.tokenizer.train, texts[0].spec.tokenizer.uri
    if settings is not None:
        whose = "the source" if len(texts) == 1 else f"{len(texts)} sources, the same of each"
        say(f"training a tokenizer of {settings.vocab_size} entries on {settings.sample_bytes >> 20} MiB of {whose}")
        return train(_sample(texts, settings), settings)
    if uri is None:
        raise BadInput('data.tokenizer needs "uri" or "train"')
    if parse_hub(uri) is not None:
        repository = open_repository(uri)
        return TokenizerFiles(repository.read(TOKENIZER_FILE), _optional(lambda: repository.read(TOKENIZER_CONFIG_FILE)))
    if uri.startswith("s3://"):
        return _from_s3(uri, s3_client)
    path = local_tokenizer(uri)
    config = path.with_name(TOKENIZER_CONFIG_FILE)
    return TokenizerFiles(local_bytes(path), local_bytes(config) if config.is_file() else None)


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


def _sample(texts: Sequence[Text], settings: TokenizerTraining) -> Iterator[str]:
    """Text taken evenly: from each source its share of ``sample_bytes``, from each of its segments a part of that, from the beginning.

    Sources share alike, as the mixture's weights may change and the tokenizer may not; what a small one lacks, the others give.
    """
    left = settings.sample_bytes
    in_order = sorted(texts, key=lambda text: (_expected(text), json.dumps(text.spec.reading, sort_keys=True)))
    for place, text in enumerate(in_order):
        rest = len(in_order) - place - 1
        share = min(left // (rest + 1), _expected(text)) if rest else left
        left -= share
        yield from _sample_of(text, share)


def _expected(text: Text) -> int:
    return sum(expected_text(segment) for segment in text.segments)


def _sample_of(text: Text, sample_bytes: int) -> Iterator[str]:
    total = _expected(text)
    for segment in text.segments:
        quota = sample_bytes * expected_text(segment) // max(1, total) + 1
        for document in SegmentReader(text.source, segment, text.spec, Skipped()):
            yield document.text[:quota]
            quota -= len(document.utf8)
            if quota <= 0:
                break
