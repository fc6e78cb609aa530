"""What a source holds, and what pins a tokenizer. Standard library and boto3 only: Admit runs this in a Lambda."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from contracts.failure import BadInput
from data_prep.failure_classes import AccessDenied
from data_prep.fingerprint import LeftOut, SourceListing, SourceObject
from data_prep.folder import walk
from data_prep.s3_errors import s3_errors
from data_prep.spec import TokenizerSpec

Kind = Literal["jsonl", "parquet", "text", "csv", "tsv", "arrow"]
Compression = Literal["none", "gz", "zst", "xz", "bz2"]

ENDINGS: dict[str, Kind] = {
    ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "text", ".md": "text",
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip
COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst", ".zstd": "zst", ".xz": "xz", ".bz2": "bz2"}
ENDINGS_IN_WORDS = f"{', '.join(ENDINGS)} (the text formats plain or with {', '.join(COMPRESSIONS)})"
NAMED_PER_REASON = 3
EDGE_BYTES = 64 << 10
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

_HUB_DATASET = re.compile(r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+)@(?P<commit>[0-9a-f]{40})(?:/(?P<path>.*))?")
_HUB_MODEL = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)@(?P<commit>[0-9a-f]{40})")


class SourceEmpty(BadInput):
    """Nothing to read under the source."""


@dataclass(frozen=True)
class HubReference:
    """A repository at a commit."""

    kind: Literal["datasets", "models"]
    name: str
    commit: str
    path: str = ""


def list_source(uri: str, include: Iterable[str] = (), s3_client: Any = None, *, any_ending: bool = False) -> SourceListing:
    """The objects of a source, sorted by key, ETags included; keys are relative to the source.

    A hub dataset is pinned by its commit, so its listing stays empty here; the job reads it from the hub.

    Args:
        uri: ``s3://bucket/prefix``, ``hf://datasets/OWNER/NAME@COMMIT`` or a local folder.
        include: globs on the key, ``*`` crosses ``/``; empty takes all with a known ending.
        s3_client: boto3 client, needed for ``s3://``.
        any_ending: the spec names the format, so that endings do not matter.
    """
    if parse_hub(uri) is not None:
        return SourceListing(uri)
    if uri.startswith("s3://"):
        return select(list_s3(uri, s3_client), uri, include, any_ending=any_ending)
    root = local_path(uri)
    if not root.is_dir():
        raise SourceEmpty(f"data.source {uri} is no folder; name the folder that holds the text files")
    found = select(walk(root), uri, include, any_ending=any_ending)
    return replace(found, objects=tuple(replace(item, etag=_readable_etag_of(root / item.key)) for item in found.objects))


def select(objects: Iterable[SourceObject], uri: str, include: Iterable[str], *, any_ending: bool) -> SourceListing:
    """The objects that are text to read, and a count of the others.

    Raises:
        BadInput: none is left, or an included one has an ending that says nothing about its format.
    """
    globs, known, left = tuple(include), [], LeftOutCounts()
    for item in objects:
        if not item.size and (not item.key or item.key.endswith("/")):
            continue  # S3's markers of folders
        if _hidden(item.key):
            left.add("hidden", item.key)
        elif globs and not any(fnmatch.fnmatchcase(item.key, glob) for glob in globs):
            left.add("not_included", item.key)
        elif not item.size:
            left.add("empty_file", item.key)
        elif not any_ending and format_of(item.key) is None:
            left.add("unknown_ending", item.key)
        else:
            known.append(item)
    odd = left.first.get("unknown_ending")
    if globs and odd:
        raise BadInput(f'data.include takes "{odd[0]}" under {uri}, whose ending is none of {ENDINGS_IN_WORDS}; set data.format')
    if not known:
        what = f"matches data.include={list(globs)}" if globs else f"ends in {ENDINGS_IN_WORDS}"
        total = sum(count for reason, count in left.counts.items() if reason not in ("hidden", "empty_file"))
        raise SourceEmpty(f"data.source {uri} holds {total} objects and none {what}; upload text there or change data.source")
    return SourceListing(uri, tuple(sorted(known)), left.facts())


class LeftOutCounts:
    """Counts files by the reason why they are not read, and keeps the names of the first few."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, list[str]] = {}

    def add(self, reason: str, key: str) -> None:
        """Count one."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        names = self.first.setdefault(reason, [])
        if len(names) < NAMED_PER_REASON:
            names.append(key)

    def facts(self) -> tuple[LeftOut, ...]:
        """By reason, sorted."""
        return tuple(LeftOut(reason, count, tuple(self.first[reason])) for reason, count in sorted(self.counts.items()))


def _readable_etag_of(path: Path) -> str:
    try:
        return local_etag(path)
    except OSError as error:
        raise AccessDenied(f"{path} cannot be read ({error.strerror}); grant access, or leave it out with data.include") from None


def format_of(key: str) -> tuple[Kind, Compression] | None:
    """Format and compression by a key's ending, or None for an unknown one."""
    stem, compression = split_compression(key)
    kind = ENDINGS.get(Path(stem).suffix.lower())
    if kind is None or (kind in ("parquet", "arrow") and compression != "none"):
        return None
    return kind, compression


def split_compression(key: str) -> tuple[str, Compression]:
    """The key without its compression's ending, and the compression."""
    suffix = Path(key).suffix.lower()
    compression = COMPRESSIONS.get(suffix, "none")
    return (key[: -len(suffix)], compression) if compression != "none" else (key, "none")


def parse_hub(uri: str) -> HubReference | None:
    """The repository that an ``hf://`` URI pins, or None for another scheme."""
    if match := _HUB_DATASET.fullmatch(uri):
        return HubReference("datasets", match["name"], match["commit"], (match["path"] or "").strip("/"))
    if match := _HUB_MODEL.fullmatch(uri):
        return HubReference("models", match["name"], match["commit"])
    return None


def tokenizer_reference(tokenizer: TokenizerSpec, s3_client: Any = None) -> str:
    """What pins the tokenizer: "" when the job trains it, the hub URI with its commit, S3's ETags, or local files' SHA-256.

    tokenizer_config.json counts, since it names BOS and EOS.
    """
    uri = tokenizer.uri
    if uri is None:
        return ""
    if parse_hub(uri) is not None:
        return uri
    if uri.startswith("s3://"):
        for candidate in s3_tokenizer_candidates(uri):
            bucket, key = split_s3(candidate)
            try:
                reference = f"{candidate}#{etag_of(s3_client, bucket, key)}"
            except FileNotFoundError:
                continue
            try:
                return f"{reference}+{etag_of(s3_client, bucket, beside(key))}"
            except FileNotFoundError:
                return reference
        raise BadInput(f"data.tokenizer.uri {uri} names no tokenizer.json and no folder that holds one; upload it or change the setting")
    path = local_tokenizer(uri)
    config = path.with_name(TOKENIZER_CONFIG_FILE)
    files = (path, config) if config.is_file() else (path,)
    return "sha256:" + "+".join(hashlib.sha256(local_bytes(file)).hexdigest() for file in files)


def s3_tokenizer_candidates(uri: str) -> tuple[str, ...]:
    """Where tokenizer.json may be: the object itself, or inside the folder it names."""
    folder = f"{uri.rstrip('/')}/{TOKENIZER_FILE}"
    return (uri, folder) if uri.endswith(".json") else (folder,)


def beside(key: str) -> str:
    """The key of tokenizer_config.json in the folder of a tokenizer.json."""
    folder, slash, _ = key.rpartition("/")
    return f"{folder}{slash}{TOKENIZER_CONFIG_FILE}"


def local_tokenizer(uri: str) -> Path:
    """The tokenizer.json that a local path or folder names."""
    path = local_path(uri)
    path = path / TOKENIZER_FILE if path.is_dir() else path
    if not path.is_file():
        raise BadInput(f"data.tokenizer.uri {uri} names no tokenizer.json and no folder that holds one")
    return path


def local_bytes(path: Path) -> bytes:
    """A small file's content.

    Raises:
        AccessDenied: this user cannot read it.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise AccessDenied(f"{path} cannot be read ({error.strerror}); grant access, or name another file") from None


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def local_path(uri: str) -> Path:
    """A local URI's path."""
    return Path(uri.removeprefix("file://"))


def local_etag(path: Path) -> str:
    """A local file's stand-in for an ETag: times, size, and a hash of its first and last bytes.

    Content that is replaced by as many bytes, its modification time put back, still shows in the change time, which no
    program can set (inode(7)); the edges show it where the file system's clock is coarse.
    """
    status = path.stat()
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        digest.update(file.read(EDGE_BYTES))
        if status.st_size > EDGE_BYTES:
            file.seek(max(EDGE_BYTES, status.st_size - EDGE_BYTES))
            digest.update(file.read(EDGE_BYTES))
    return f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_size}-{digest.hexdigest()}"


def _hidden(key: str) -> bool:
    return key.endswith("/") or any(part.startswith((".", "_")) for part in key.split("/"))


def list_s3(uri: str, client: Any) -> Iterator[SourceObject]:
    """Every object below an S3 prefix, markers of folders too; keys are relative to the prefix."""
    bucket, prefix = split_s3(uri)
    prefix = prefix if not prefix or prefix.endswith("/") else prefix + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    with s3_errors(f"listing {uri}"):
        for page in pages:
            for item in page.get("Contents", ()):
                yield SourceObject(item["Key"].removeprefix(prefix), item["Size"], item["ETag"].strip('"'))


def etag_of(client: Any, bucket: str, key: str) -> str:
    """S3's ETag of an object. Raises FileNotFoundError."""
    with s3_errors(f"reading s3://{bucket}/{key}"):
        return str(client.head_object(Bucket=bucket, Key=key)["ETag"].strip('"'))
