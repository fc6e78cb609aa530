"""Real text that every machine with botocore has: the documentation strings of its service models.

The files are byte for byte the same on every run with the same botocore, so the data fingerprint of a local run is stable
and its shards are recognised the next time.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore

PREFIX = "source/botocore/"
PART_SERVICES = 24
"""Services of the default corpus, the largest ones: about 10 MB of text, tokenised in seconds, with enough to learn from."""
DOCUMENTS_PER_FILE = 20_000
MIN_CHARACTERS = 24  # shorter strings are labels, not text
_TAG = re.compile(r"<[^>]+>")
_ESCAPED_TAG = re.compile(r"</?(?:a|b|br|code|i|li|note|ol|p|ul)(?: [^>]*)?/?>")  # some models escape their markup twice
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """One JSONL.gz of the corpus."""

    name: str
    """File name below the prefix."""
    content: bytes
    """Compressed bytes."""
    documents: int
    """Lines."""
    characters: int
    """Of text."""


@dataclass(frozen=True, kw_only=True)
class CorpusSummary:
    """What was uploaded, or was there already."""

    uri: str
    """Where it lies."""
    files: int
    """Objects."""
    documents: int
    """Documents in all of them."""
    characters: int
    """Characters of text."""
    uploaded: int
    """Objects that were not there yet."""

    def __str__(self) -> str:
        known = "" if self.uploaded else ", there already"
        return f"{self.documents:,} documents, {self.characters / 1e6:.1f} M characters in {self.files} files at {self.uri}{known}"


def corpus_files(*, full: bool = False) -> Iterator[CorpusFile]:
    """The corpus in files of about equal size. ``full`` takes every service (31 MB of text), else the largest ones."""
    documents = list(_documents(_models(full)))
    for number, start in enumerate(range(0, len(documents), DOCUMENTS_PER_FILE)):
        part = documents[start : start + DOCUMENTS_PER_FILE]
        lines = "".join(json.dumps({"id": f"{service}/{shape}", "text": text}, ensure_ascii=False) + "\n" for service, shape, text in part)
        yield CorpusFile(
            name=f"botocore-{'all' if full else 'part'}-{number:03d}.jsonl.gz",
            content=gzip.compress(lines.encode(), compresslevel=6, mtime=0),
            documents=len(part),
            characters=sum(len(text) for _, _, text in part),
        )


def _models(full: bool) -> list[Path]:
    """The newest service model of each service, in order of name."""
    root = Path(botocore.__file__).parent / "data"
    newest = {path.parts[-3]: path for path in sorted(root.glob("*/*/service-2.json*"))}
    chosen = sorted(newest.values())
    if not full:
        chosen = sorted(sorted(chosen, key=lambda path: (-path.stat().st_size, path))[:PART_SERVICES])
    return chosen


def _documents(models: list[Path]) -> Iterator[tuple[str, str, str]]:
    """Service, shape and text of every documentation string; the same text only once."""
    seen: set[str] = set()
    for path in models:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for shape, found in _strings(json.loads(raw), ""):
            text = _SPACE.sub(" ", _ESCAPED_TAG.sub(" ", html.unescape(_TAG.sub(" ", found)))).strip()
            if len(text) >= MIN_CHARACTERS and text not in seen:
                seen.add(text)
                yield path.parts[-3], shape, text


def _strings(node: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "documentation" and isinstance(value, str):
                yield name, value
            else:
                yield from _strings(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, name)


def upload(s3: Any, bucket: str, *, full: bool = False) -> CorpusSummary:
    """Put the corpus under ``source/botocore/``; files that are there with the same bytes are left alone, others removed."""
    listed = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=PREFIX)
    there = {item["Key"] for page in listed for item in page.get("Contents", [])}
    files = list(corpus_files(full=full))
    uploaded = 0
    for file in files:
        key, digest = PREFIX + file.name, hashlib.sha256(file.content).hexdigest()
        if key not in there or s3.head_object(Bucket=bucket, Key=key)["Metadata"].get("sha256") != digest:
            s3.put_object(Bucket=bucket, Key=key, Body=file.content, ContentType="application/gzip", Metadata={"sha256": digest})
            uploaded += 1
    for key in there - {PREFIX + file.name for file in files}:
        s3.delete_object(Bucket=bucket, Key=key)
    return CorpusSummary(
        uri=f"s3://{bucket}/{PREFIX}",
        files=len(files),
        documents=sum(file.documents for file in files),
        characters=sum(file.characters for file in files),
        uploaded=uploaded,
    )
