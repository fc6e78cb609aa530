"""The name of every data set that a run reads. Standard library and boto3 only: Admit runs this in a Lambda.

This is the one computation that Admit and the processing job share; the job refuses to start when its answer is not the one Admit gave.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from contracts.config import to_json
from contracts.failure import BadInput, JobFailure
from data_prep.corpus_source import identify_corpus
from data_prep.fingerprint import SourceListing, fingerprint
from data_prep.sources import list_source, tokenizer_reference
from data_prep.spec import DataSpec

NAMED_FILES = 2


@dataclass(frozen=True)
class Identified:
    """A data set's name, and what the name was computed from."""

    fingerprint: str
    listing: SourceListing
    tokenizer_reference: str
    corpus: str = ""
    """Fingerprint of the corpus that is made of the source first; "" where the source is tokenised as it is."""


def identify(spec: DataSpec, s3_client: Any = None) -> Identified:
    """The data set that a run without mixture reads."""
    return identify_each(spec, s3_client)[""]


def identify_each(data: DataSpec, s3_client: Any = None) -> dict[str, Identified]:
    """Fingerprint of the shards that each source makes now, by the source's name. ``data`` holds full URIs (``resolve_uris``).

    A source has the fingerprint that it would have alone, whatever mixture it is in, unless the tokenizer is trained: it is trained
    on all sources, so they all count.

    Raises:
        BadInput: nothing under a source, a missing bucket or tokenizer, a text that two sources hold; of a mixture with every source's.
        AccessDenied: S3 refuses the caller.
    """
    specs = data.source_specs
    listings: dict[str, SourceListing] = {}
    failures: list[JobFailure] = []
    for name, spec in specs.items():
        try:
            with about_source(name):
                listings[name] = list_source(spec.source_uri, spec.include, s3_client, any_ending=spec.format != "auto")
        except JobFailure as failure:
            failures.append(failure)
    if failures:
        first = next((failure for failure in failures if failure.retry == "retry"), failures[0])  # it may pass, and then the others show
        same = [failure.sentence for failure in failures if failure.retry == first.retry]
        raise type(first)("; ".join(same)) from first
    corpora = {name: identify_corpus(spec, listings[name], s3_client) for name, spec in specs.items()}
    reference = tokenizer_reference(data.tokenizer, s3_client)
    if data.tokenizer.train is not None and len(specs) > 1:
        reference = _trained_on(specs, listings, corpora)
    require_distinct(specs, listings)
    return {
        name: Identified(fingerprint(spec, listings[name], reference, corpora[name]), listings[name], reference, corpora[name])
        for name, spec in specs.items()
    }


@contextmanager
def about_source(name: str) -> Iterator[None]:
    """Failures inside begin with the source's name; an empty one says nothing."""
    try:
        yield
    except JobFailure as failure:
        if not name:
            raise
        raise type(failure)(f'source "{name}": {failure.sentence}') from failure


def _trained_on(specs: Mapping[str, DataSpec], listings: Mapping[str, SourceListing], corpora: Mapping[str, str]) -> str:
    """What pins a tokenizer that is trained on several sources: what each holds and how it is read, in any order, under any name."""
    texts = sorted(
        json.dumps(
            [spec.reading, listings[name].uri, [to_json(item) for item in sorted(listings[name].objects)], corpora[name]], sort_keys=True
        )
        for name, spec in specs.items()
    )
    return "trained:" + hashlib.sha256("\n".join(texts).encode()).hexdigest()


def require_distinct(specs: Mapping[str, DataSpec], listings: Mapping[str, SourceListing]) -> None:
    """No text belongs to two sources, where it would count for both.

    Raises:
        BadInput: two sources that read the same field of the same files, or the same repository in the same way.
    """
    if len(specs) == 1:
        return
    owners: dict[tuple[str, str], str] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for name, spec in specs.items():
        root = listings[name].uri.rstrip("/")
        objects = [f"{root}/{item.key}" for item in listings[name].objects] or [json.dumps([root, sorted(spec.include)])]
        for text in objects:
            other = owners.setdefault((text, spec.text_field), name)
            if other != name:
                shared.setdefault((other, name), []).append(text)
    for (one, two), texts in shared.items():
        files = ", ".join(texts[:NAMED_FILES]) + (f" and {len(texts) - NAMED_FILES:,} more" if len(texts) > NAMED_FILES else "")
        what = f"both read {files}" if listings[two].objects else "read the same repository with the same include"
        raise BadInput(f'sources "{one}" and "{two}" {what}: the text would count for both; set include in one of them, or leave it out')


def resolve_uris(spec: DataSpec, bucket: str) -> DataSpec:
    """The spec with own-bucket prefixes spelled out as ``s3://bucket/...``."""
    tokenizer = spec.tokenizer
    if tokenizer.uri is not None:
        tokenizer = replace(tokenizer, uri=resolve_uri(tokenizer.uri, bucket))
    sources = tuple(replace(source, source=resolve_uri(source.source_uri, bucket)) for source in spec.sources)
    own = spec.source if spec.sources else resolve_uri(spec.source_uri, bucket)
    corpus = None if spec.corpus is None else spec.corpus.resolved(lambda value: resolve_uri(value, bucket))
    return replace(spec, source=own, sources=sources, tokenizer=tokenizer, corpus=corpus)


def resolve_uri(value: str, bucket: str) -> str:
    """``source/mytext/`` -> ``s3://bucket/source/mytext/``; everything else is a full URI already."""
    return value if re.match(r"[a-z0-9]+://|/|\./", value) else f"s3://{bucket}/{value}"
