"""data.deduplicate: exact, over all parts and instances: hash every part, compare every bucket, tell each part what it leaves out.

Each instance hashes its own parts; the first one cuts the digests' range into buckets; each instance compares its share of them.
What is left out depends on the source alone, on no number of instances, workers, parts or buckets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from contracts.config import Bounds, SpecError, parse, to_json
from contracts.failure import BadInput
from data_prep.accept import Policies, Skipped
from data_prep.coordination import Together
from data_prep.duplicate_files import (
    ENTRY,
    PREFIX_BITS,
    REPEAT,
    BucketRepeats,
    PartHashes,
    Slice,
    bucket_key,
    packed,
    part_key,
    read_record,
    unpacked,
)
from data_prep.duplicates import BUCKET_ENTRIES, BucketTask, HashTask
from data_prep.origin import Manifest, require_own
from data_prep.part_record import DUPLICATES_PREFIX, PartRecord
from data_prep.partition import Part, share
from data_prep.request import Job
from data_prep.workers import WorkerPool

BUCKETS = DUPLICATES_PREFIX + "buckets.json"


@dataclass(frozen=True, kw_only=True)
class BucketedRun:
    """A run of entries and where each bucket begins in it."""

    part: Annotated[int, Bounds(0)]
    """Its part."""
    name: str
    """Key of its file."""
    entries: Annotated[int, Bounds(0)]
    """Distinct texts."""
    repeats: Annotated[int, Bounds(0)]
    """Documents that repeat one of them; their rows follow the entries."""
    begins: str
    """First entry of each bucket, and the number of all: duplicates.packed."""

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return self.entries * ENTRY.itemsize + self.repeats * REPEAT.itemsize


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """buckets.json."""

    made_of: str
    """Hash of all parts' origins."""
    count: Annotated[int, Bounds(0)]
    """How many buckets."""
    runs: tuple[BucketedRun, ...]
    """In the order of the documents."""


def find_repeats(
    job: Job, plan: Sequence[Part], pool: WorkerPool, origins: Mapping[int, str], manifest: Manifest, together: Together,
    on_wait: Callable[[], None],
) -> dict[int, tuple[Slice, ...]]:  # fmt: skip
    """Where the documents that each of this instance's parts leaves out are listed.

    Raises:
        JobFailure: as for the parts.
    """
    mine = share(plan, job.instances.number, job.instances.count)
    all_of_it = hashlib.sha256(json.dumps(sorted(origins.items())).encode()).hexdigest()[:32]
    for number, hashes in pool.hashes([HashTask(part, origins[part.number]) for part in mine], on_wait):
        _write(job, manifest, part_key(number), hashes)
    buckets = _cut(job, plan, origins, all_of_it, together) if job.instances.leads else _await_cut(job, all_of_it, together)
    ours = range(job.instances.number, buckets.count, job.instances.count)
    for number, found in pool.buckets([_task(buckets, number, len(plan)) for number in ours], on_wait):
        _write(job, manifest, bucket_key(number), found)
    return _slices(buckets, _compared(job, buckets, together), {part.number for part in mine})


def _write(job: Job, manifest: Manifest, key: str, record: PartHashes | BucketRepeats) -> None:
    require_own(job.out, manifest)
    job.out.write(key, json.dumps(to_json(record)).encode())


def _cut(job: Job, plan: Sequence[Part], origins: Mapping[int, str], made_of: str, together: Together) -> Buckets:
    """The first instance: all parts' hashes, and the buckets that they are compared in."""
    numbers = {part_key(part.number): part.number for part in plan}
    found = together.collect(
        DUPLICATES_PREFIX + "part-",
        numbers,
        lambda key: read_record(PartHashes, job.out, key, origins[numbers[key]]),
        "the other instances' hashes",
        range(1, job.instances.count),
    )
    hashed = [(part.number, found[part_key(part.number)]) for part in plan]
    runs = [(part, run) for part, hashes in hashed for run in hashes.runs]
    counts = [unpacked(run.prefixes) for _, run in runs]
    edges = bucket_edges(sum(counts, np.zeros(1 << PREFIX_BITS, np.int64)))
    begins = [np.concatenate([[0], np.cumsum(count)])[edges] for count in counts]
    buckets = Buckets(
        made_of=made_of,
        count=len(edges) - 1,
        runs=tuple(
            BucketedRun(part=part, name=run.name, entries=run.entries, repeats=run.repeats, begins=packed(begin))
            for (part, run), begin in zip(runs, begins, strict=True)
        ),
    )
    documents = sum(hashes.documents for _, hashes in hashed)
    job.say(f"comparing {documents:,} documents with each other (buckets: {buckets.count})")
    job.out.write(BUCKETS, json.dumps(to_json(buckets)).encode())
    return buckets


def bucket_edges(counts: np.ndarray[tuple[int], np.dtype[np.int64]], most: int = BUCKET_ENTRIES) -> list[int]:
    """Values of the prefix at which buckets begin, and 2^PREFIX_BITS: as few buckets as hold ``most`` entries each.

    Raises:
        BadInput: one prefix alone has more.
    """
    largest = int(counts.max())
    if largest > most:
        raise BadInput(
            f"data.deduplicate compares at most about {most << PREFIX_BITS:,} different texts, and one of {1 << PREFIX_BITS} equal shares "
            f"of them holds {largest:,}, more than {most:,}; cut the source into several with data.include, "
            'or set data.deduplicate to "none"'
        )
    edges, held = [0], 0
    for prefix, count in enumerate(counts.tolist()):
        if held + count > most:
            edges.append(prefix)
            held = 0
        held += count
    return [*edges, len(counts)]


def _await_cut(job: Job, made_of: str, together: Together) -> Buckets:
    """The other instances: the first one's buckets."""
    found: list[Buckets] = []

    def ready() -> bool:
        try:
            read = parse(Buckets, json.loads(job.out.read(BUCKETS)))
        except (FileNotFoundError, ValueError, SpecError, RecursionError):
            return False
        found.extend([read] if read.made_of == made_of else [])
        return bool(found)

    together.wait(ready, "the first instance to cut buckets", (0,))
    return found[0]


def _task(buckets: Buckets, number: int, parts: int) -> BucketTask:
    entries = []
    for run in buckets.runs:
        begin, end = unpacked(run.begins)[number : number + 2].tolist()
        if end > begin:
            entries.append((run.part, Slice(run.name, run.size, begin * ENTRY.itemsize, end - begin)))
    return BucketTask(number, buckets.made_of, parts, tuple(entries))


def _compared(job: Job, buckets: Buckets, together: Together) -> list[BucketRepeats]:
    """What every bucket's comparison left. An instance that is lost ends the first one, and that ends the others."""
    keys = [bucket_key(number) for number in range(buckets.count)]
    waited_for = range(1, job.instances.count) if job.instances.leads else (0,)
    found = together.collect(
        DUPLICATES_PREFIX + "bucket-",
        keys,
        lambda key: read_record(BucketRepeats, job.out, key, buckets.made_of),
        "the other instances' buckets",
        waited_for,
    )
    return [found[key] for key in keys]


def _slices(buckets: Buckets, compared: Sequence[BucketRepeats], mine: set[int]) -> dict[int, tuple[Slice, ...]]:
    """For each of these parts: the repeats inside its runs, and those of every bucket."""
    found: dict[int, list[Slice]] = {number: [] for number in mine}
    for run in buckets.runs:
        if run.part in mine and run.repeats:
            found[run.part].append(Slice(run.name, run.size, run.entries * ENTRY.itemsize, run.repeats))
    for record in compared:
        counts = unpacked(record.per_part)
        begins = np.cumsum(counts) - counts
        for number in np.flatnonzero(counts).tolist():
            if number in mine:
                size, start = record.repeats * REPEAT.itemsize, int(begins[number]) * REPEAT.itemsize
                found[number].append(Slice(record.name, size, start, int(counts[number])))
    return {number: tuple(slices) for number, slices in found.items()}


def with_originals(job: Job, plan: Sequence[Part], records: Sequence[PartRecord]) -> list[PartRecord]:
    """The records, the first duplicate of each named together with the document that it repeats."""

    def named(record: PartRecord) -> PartRecord:
        examples = record.skipped_examples.get("duplicate", ())
        if not record.first_repeats or not examples:
            return record
        part, segment, position = record.first_repeats
        source = plan[part].segments[segment]
        place = Policies(f"{job.source.uri.rstrip('/')}/{source.item.key}", source.kind, job.spec, Skipped()).place(position)
        return replace(record, skipped_examples={**record.skipped_examples, "duplicate": [f"{examples[0]} repeats {place}", *examples[1:]]})

    found = [named(record) for record in records]
    count = sum(record.skipped.get("duplicate", 0) for record in found)
    first = next((record.skipped_examples["duplicate"][0] for record in found if record.first_repeats), None)
    if first is not None:
        job.say(f"{count:,} documents are left out, since their texts came before; the first: {first}")
    return found
