"""Cuts a source into parts: the units of work that any number of processes and instances share. Pure.

The parts depend on the listing and the spec alone, so the shards are byte for byte the same for any number of workers. A part
is some whole small objects, a byte range of a plain JSONL file (the lines that start inside), or a byte range of a parquet file
(the row groups that start inside).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from data_prep.fingerprint import SourceListing, SourceObject
from data_prep.sources import Compression, Kind, format_of, split_compression
from data_prep.spec import DataSpec

# Every constant here decides which bytes land in which shard: changing one needs a new FORMAT_VERSION.
PARTS = 256  # aimed at: 64 cores with four parts each, so that the last one to finish keeps few waiting
MIN_PART_TEXT = 4 << 20  # below this a part's fixed cost (two uploads, one record) shows
MAX_PART_TEXT = 1 << 30  # about ten seconds of one core: what a kill costs at most
TEXT_PER_BYTE: dict[Compression, int] = {"none": 1, "gz": 3, "zst": 3, "xz": 4, "bz2": 4}  # typical of English text and code
TEXT_PER_PARQUET_BYTE = 2  # snappy or zstd pages of text


@dataclass(frozen=True)
class Segment:
    """Bytes ``start`` to ``stop`` of an object; the whole object unless its format can be cut."""

    item: SourceObject
    kind: Kind
    compression: Compression
    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """One unit of work."""

    number: int
    segments: tuple[Segment, ...]

    @property
    def stored_bytes(self) -> int:
        """Bytes to read, as stored."""
        return sum(segment.stop - segment.start for segment in self.segments)

    @property
    def name(self) -> str:
        """``part-00012``."""
        return f"part-{self.number:05d}"


def make_plan(spec: DataSpec, listing: SourceListing) -> tuple[Part, ...]:
    """All parts of a source, in the order of its keys."""
    whole = [whole_object(spec, item) for item in sorted(listing.objects)]
    total = sum(expected_text(segment) for segment in whole)
    target = min(max(total // PARTS, MIN_PART_TEXT), MAX_PART_TEXT)
    parts: list[tuple[Segment, ...]] = []
    group: list[Segment] = []
    weight = 0
    for segment in (piece for item in whole for piece in _cut(item, target)):
        if group and weight + expected_text(segment) > target:
            parts.append(tuple(group))
            group, weight = [], 0
        group.append(segment)
        weight += expected_text(segment)
    if group:
        parts.append(tuple(group))
    return tuple(Part(number, segments) for number, segments in enumerate(parts))


def whole_object(spec: DataSpec, item: SourceObject) -> Segment:
    """One object as a segment, its format taken from the spec or its ending."""
    if spec.format == "auto":
        found = format_of(item.key)
        if found is None:
            raise ValueError(f"{item.key} was listed without a known ending")
        kind, compression = found
    else:
        kind, compression = spec.format, split_compression(item.key)[1]
        compression = "none" if kind in ("parquet", "arrow") else compression
    return Segment(item, kind, compression, 0, item.size)


def expected_text(segment: Segment) -> int:
    """Roughly how many bytes of text a segment holds."""
    factor = TEXT_PER_PARQUET_BYTE if segment.kind == "parquet" else TEXT_PER_BYTE[segment.compression]
    return (segment.stop - segment.start) * factor


def _cut(segment: Segment, target: int) -> Iterable[Segment]:
    if segment.compression != "none" or segment.kind not in ("jsonl", "parquet"):
        return (segment,)
    count = max(1, round(expected_text(segment) / target))
    size = segment.item.size
    edges = [size * i // count for i in range(count + 1)]
    return tuple(Segment(segment.item, segment.kind, segment.compression, start, stop) for start, stop in itertools.pairwise(edges))


def share(parts: Iterable[Part], host: int, hosts: int) -> tuple[Part, ...]:
    """The parts of one of several instances: the heaviest first, each to the instance with the least so far."""
    loads = [0] * hosts
    mine = []
    for part in sorted(parts, key=lambda part: (-part.stored_bytes, part.number)):
        lightest = loads.index(min(loads))
        loads[lightest] += part.stored_bytes
        if lightest == host:
            mine.append(part)
    return tuple(mine)
