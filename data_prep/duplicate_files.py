"""What de-duplication keeps in the destination while it works.

.work/duplicates/part-00012-000.entries     one entry for each distinct text of up to RUN_DOCUMENTS documents, by digest
.work/duplicates/part-00012.json            written after the part's entries: what they were made of, how many, checksums
.work/duplicates/buckets.json               the digests' range cut into buckets, each small enough for a worker's memory
.work/duplicates/bucket-00003.repeats       documents of the bucket that repeat an earlier one, by part and place
.work/duplicates/bucket-00003.json          written after it
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from contracts.config import Bounds, SpecError, parse
from data_prep.failure_classes import InstanceLost, SourceChanged
from data_prep.fingerprint import SourceObject
from data_prep.part_record import DUPLICATES_PREFIX
from data_prep.store import Store

ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("position", "<u8"), ("segment", "<u4")])
"""A digest, and where its text is: the segment of the part, and the document's position in it (accept.Document)."""
REPEAT = np.dtype([("segment", "<u4"), ("position", "<u8"), ("of_part", "<u4"), ("of_segment", "<u4"), ("of_position", "<u8")])
"""A document that is left out, and the earlier one that it repeats."""
PREFIX_BITS = 12  # buckets are cut between values of the digest's first bits

Rows = npt.NDArray[Any]
T = TypeVar("T", "PartHashes", "BucketRepeats")


class Slice(NamedTuple):
    """Some rows of a file in the store."""

    name: str
    """Its key."""
    size: int
    """Of the whole file, in bytes."""
    start: int
    """First byte."""
    rows: int
    """How many."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Entries of up to RUN_DOCUMENTS documents of a part: one for each distinct text, then the repeats among them."""

    name: str
    """Key of the file."""
    entries: Annotated[int, Bounds(0)]
    """Distinct texts."""
    repeats: Annotated[int, Bounds(0)]
    """Documents that repeat one of them."""
    checksum: str
    """XXH3-128 of the file."""
    prefixes: str
    """How many entries begin with each value of PREFIX_BITS bits: 2^PREFIX_BITS little-endian uint32, in base64."""

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.entries * ENTRY.itemsize + self.repeats * REPEAT.itemsize


@dataclass(frozen=True, kw_only=True)
class PartHashes:
    """What hashing a part leaves."""

    made_of: str
    """Origin of the part."""
    documents: Annotated[int, Bounds(0)]
    """How many it has."""
    runs: tuple[Run, ...]
    """In the order of the documents."""


@dataclass(frozen=True, kw_only=True)
class BucketRepeats:
    """What comparing a bucket leaves."""

    made_of: str
    """What all entries were made of."""
    name: str
    """Key of the file."""
    repeats: Annotated[int, Bounds(0)]
    """Its rows."""
    checksum: str
    """XXH3-128 of the file."""
    per_part: str
    """Rows of each part, as ``Run.prefixes``."""


def part_key(number: int) -> str:
    """Record of a hashed part."""
    return f"{DUPLICATES_PREFIX}part-{number:05d}.json"


def bucket_key(number: int) -> str:
    """Record of a compared bucket."""
    return f"{DUPLICATES_PREFIX}bucket-{number:05d}.json"


def packed(counts: npt.NDArray[Any]) -> str:
    """Counts as base64, which JSON holds in a third of the space and no time."""
    return base64.b64encode(counts.astype("<u4").tobytes()).decode()


def unpacked(counts: str) -> npt.NDArray[np.int64]:
    """The reverse."""
    return np.frombuffer(base64.b64decode(counts), "<u4").astype(np.int64)


def read_record(kind: type[T], out: Store, key: str, made_of: str) -> T | None:
    """A record that reads and proves its origin."""
    try:
        found = parse(kind, json.loads(out.read(key)))
    except (FileNotFoundError, ValueError, SpecError, RecursionError):
        return None
    return found if found.made_of == made_of else None


def read_rows(out: Store, wanted: Slice, kind: np.dtype[Any]) -> Rows:
    """Rows of a file.

    Raises:
        InstanceLost: it is gone, or shorter than its record says.
    """
    size = wanted.rows * kind.itemsize
    try:
        content = out.get_range(SourceObject(wanted.name, wanted.size, ""), wanted.start, size)
    except (FileNotFoundError, SourceChanged):
        content = b""
    if len(content) != size:
        raise InstanceLost(f"{out.uri.rstrip('/')}/{wanted.name} is gone, or shorter than its record says; run again: it is made anew")
    return np.frombuffer(content, kind)
