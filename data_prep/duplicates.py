"""Exact duplicates among the documents of one source (data.deduplicate: exact): the tasks of a worker process.

Two documents are equal when the UTF-8 bytes of their texts are, as the reader hands them over: after byte order marks, replaced
characters and every policy that leaves documents out; other fields do not count, and white space and case do. The first in the
source's order stays: by key, then by line or row.

Digests are BLAKE2b of 128 bits (hashlib). XXH3 is faster, but texts of equal XXH3 can be constructed, and whoever writes a page for
the web could have another's document left out. Two of 10^10 texts share a digest by chance with probability 1.5e-19.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.accept import Skipped
from data_prep.documents import SegmentReader
from data_prep.duplicate_files import (
    ENTRY,
    PREFIX_BITS,
    REPEAT,
    BucketRepeats,
    PartHashes,
    Rows,
    Run,
    Slice,
    bucket_key,
    packed,
    part_key,
    read_record,
    read_rows,
)
from data_prep.failure_classes import SourceChanged
from data_prep.fingerprint import SourceObject
from data_prep.part_record import DUPLICATES_PREFIX
from data_prep.partition import Part
from data_prep.spec import DataSpec
from data_prep.store import Source, Store, disk_errors

RUN_DOCUMENTS = 1 << 22
BUCKET_ENTRIES = 1 << 22
SORTING_MIB = 448  # measured: 433 for RUN_DOCUMENTS, 401 for BUCKET_ENTRIES
NO_POSITION = -1


class HashTask(NamedTuple):
    """A part to hash."""

    part: Part
    made_of: str


class BucketTask(NamedTuple):
    """A bucket to compare: its entries in the order of the documents, with the number of their part."""

    number: int
    made_of: str
    parts: int
    entries: tuple[tuple[int, Slice], ...]


# -- one part --------------------------------------------------------------------------------------


def hash_part(
    task: HashTask, spec: DataSpec, source: Source, out: Store, folder: Path, progress: Callable[[int, int, int], None]
) -> PartHashes:
    """Digests of all documents of a part; what an earlier attempt left is used when its checksums hold."""
    part = task.part
    kept = read_record(PartHashes, out, part_key(part.number), task.made_of)
    if kept is not None and all(_holds(out, run.name, run.bytes, run.checksum) for run in kept.runs):
        progress(part.stored_bytes, 0, 0)
        return kept
    runs: list[Run] = []
    found = _Found()
    documents = 0
    with disk_errors(f"{folder} ({part.name})"):
        for number, segment in enumerate(part.segments):
            counted = 0

            def count(stored: int) -> None:
                nonlocal counted
                counted += stored
                progress(stored, 0, 0)

            for document in SegmentReader(source, segment, spec, Skipped(), count):
                found.digests += blake2b(document.utf8, digest_size=16).digest()
                found.positions.append(document.position)
                found.segments.append(number)
                if len(found.positions) >= RUN_DOCUMENTS:
                    documents += len(found.positions)
                    runs.append(_put_run(found, part, len(runs), out, folder))
                    found = _Found()
            source.require_unchanged(segment.item)
            progress(segment.stop - segment.start - counted, 0, 0)
        documents += len(found.positions)
        runs.append(_put_run(found, part, len(runs), out, folder))
    return PartHashes(made_of=task.made_of, documents=documents, runs=tuple(runs))


class _Found:
    """Documents in the order in which they are read."""

    def __init__(self) -> None:
        self.digests, self.positions, self.segments = bytearray(), array("Q"), array("I")


def _put_run(found: _Found, part: Part, number: int, out: Store, folder: Path) -> Run:
    halves = np.frombuffer(found.digests, "<u8").reshape(-1, 2)
    positions, segments = np.frombuffer(found.positions, "<u8"), np.frombuffer(found.segments, "<u4")
    order, first = groups(halves)
    ours, others = order[first == order], order[first != order]
    entries = np.empty(len(ours), ENTRY)
    entries["high"], entries["low"] = halves[ours, 0], halves[ours, 1]
    entries["position"], entries["segment"] = positions[ours], segments[ours]
    again = np.argsort(others)
    others, earlier = others[again], first[first != order][again]
    repeats = np.empty(len(others), REPEAT)
    repeats["segment"], repeats["position"] = segments[others], positions[others]
    repeats["of_part"], repeats["of_segment"], repeats["of_position"] = part.number, segments[earlier], positions[earlier]
    prefixes = np.bincount((entries["high"] >> np.uint64(64 - PREFIX_BITS)).astype(np.int64), minlength=1 << PREFIX_BITS)
    name = f"{DUPLICATES_PREFIX}{part.name}-{number:03d}.entries"
    checksum = _put(out, folder, name, entries, repeats)
    return Run(name=name, entries=len(entries), repeats=len(repeats), checksum=checksum, prefixes=packed(prefixes))


def groups(digests: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row numbers sorted by digest, shape (n, 2), and for each the number of the first row with the same digest."""
    high, low = digests[:, 0], digests[:, 1]
    order = np.lexsort((low, high))  # stable: rows of one digest keep their order
    high, low = high[order], low[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return order, order[np.flatnonzero(begins)[np.cumsum(begins) - 1]] if len(order) else order


def _put(out: Store, folder: Path, name: str, *tables: Rows) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path, digest = folder / name.rpartition("/")[2], xxhash.xxh3_128()
    with path.open("wb") as file:
        for table in tables:
            content = table.view(np.uint8).data
            file.write(content)
            digest.update(content)
    out.put(path, name)
    return digest.hexdigest()


def _holds(out: Store, name: str, size: int, checksum: str) -> bool:
    try:
        return xxhash.xxh3_128_hexdigest(out.get_range(SourceObject(name, size, ""), 0, size)) == checksum
    except (FileNotFoundError, SourceChanged):
        return False


# -- one bucket ------------------------------------------------------------------------------------


def compare_bucket(task: BucketTask, out: Store, folder: Path) -> BucketRepeats:
    """Find the documents of a bucket that repeat an earlier one."""
    kept = read_record(BucketRepeats, out, bucket_key(task.number), task.made_of)
    if kept is not None and _holds(out, kept.name, kept.repeats * REPEAT.itemsize, kept.checksum):
        return kept
    tables = [read_rows(out, rows, ENTRY) for _, rows in task.entries]
    rows = np.concatenate(tables) if tables else np.empty(0, ENTRY)
    parts = np.repeat([part for part, _ in task.entries], [len(table) for table in tables]).astype(np.uint32)
    del tables
    order, first = groups(np.stack([rows["high"], rows["low"]], axis=1))
    others, earlier = order[first != order], first[first != order]
    again = np.lexsort((rows["position"][others], rows["segment"][others], parts[others]))
    others, earlier = others[again], earlier[again]
    repeats = np.empty(len(others), REPEAT)
    repeats["segment"], repeats["position"] = rows["segment"][others], rows["position"][others]
    repeats["of_part"], repeats["of_segment"], repeats["of_position"] = parts[earlier], rows["segment"][earlier], rows["position"][earlier]
    name = bucket_key(task.number).removesuffix(".json") + ".repeats"
    with disk_errors(f"{folder} ({name})"):
        checksum = _put(out, folder, name, repeats)
    per_part = np.bincount(parts[others], minlength=task.parts)
    return BucketRepeats(made_of=task.made_of, name=name, repeats=len(repeats), checksum=checksum, per_part=packed(per_part))


# -- while a part is tokenised ---------------------------------------------------------------------


class Repeats:
    """The documents of a part to leave out, in the order in which they are read."""

    def __init__(self, out: Store, slices: Sequence[Slice]) -> None:
        tables = [read_rows(out, item, REPEAT) for item in slices]
        rows = np.concatenate(tables) if tables else np.empty(0, REPEAT)
        self.rows = rows[np.lexsort((rows["position"], rows["segment"]))] if len(tables) > 1 else rows
        self.first: tuple[int, ...] = (
            tuple(int(self.rows[0][name]) for name in ("of_part", "of_segment", "of_position")) if len(self.rows) else ()
        )
        """Part, segment and position of the document that the first one repeats."""

    def of(self, segment: int) -> Iterator[int]:
        """Positions in one segment, and at last NO_POSITION."""
        low, high = np.searchsorted(self.rows["segment"], [segment, segment + 1])
        yield from self.rows["position"][low:high].tolist()
        yield NO_POSITION
