"""The parts of this instance and the records of all: what is done already, what was done just now, what others do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from contracts.config import SpecError, parse, to_json
from contracts.shard_index import SPLITS, Shard
from data_prep.coordination import Together
from data_prep.failure_classes import InstanceLost
from data_prep.gate import SampleCheck
from data_prep.origin import (
    Manifest,
    compared_with,
    origin,
    ranges_of,
    require_own,
)
from data_prep.part import PartTask
from data_prep.part_record import PARTS_PREFIX, PIECES_PREFIX, PartRecord
from data_prep.partition import Part
from data_prep.progress import Counts, Progress
from data_prep.request import Job
from data_prep.workers import WorkerPool

Records = dict[int, PartRecord]


def origins_of(plan: Sequence[Part], manifest: Manifest) -> dict[int, str]:
    """Origin of each part, by its number."""
    ranges = [ranges_of(part) for part in plan]
    others = compared_with(manifest.settings, ranges)
    return {part.number: origin(manifest.settings, manifest.tokenizer, own, others) for part, own in zip(plan, ranges, strict=True)}


def kept_records(job: Job, origins: Mapping[int, str]) -> Records:
    """Records of finished parts that prove their origin and whose pieces are there; any other part is not done."""
    records: Records = {}
    names = {_key(number): number for number in origins}
    listed = job.out.sizes(PARTS_PREFIX).keys() & names.keys()
    if not listed:
        return records
    held = _held(job)
    for key in sorted(listed):
        record = _read(job, key, names[key], origins)
        if record is not None and _has_pieces(record, held) and all(job.out.intact(shard) for shard in _shards(record)):
            records[record.part] = record
    if len(records) < len(listed):
        job.say(
            f"{len(listed) - len(records)} records of parts are not used: they do not read, or prove neither this origin nor their pieces"
        )
    return records


def _key(number: int) -> str:
    return f"{PARTS_PREFIX}part-{number:05d}.json"


def _read(job: Job, key: str, number: int, origins: Mapping[int, str]) -> PartRecord | None:
    try:
        record = parse(PartRecord, json.loads(job.out.read(key)))
    except (ValueError, SpecError, RecursionError, FileNotFoundError):
        return None
    return record if record.part == number and record.made_of == origins[number] else None


def _held(job: Job) -> dict[str, int]:
    return {key: size for prefix in (PIECES_PREFIX, *(f"{split}/" for split in SPLITS)) for key, size in job.out.sizes(prefix).items()}


def _shards(record: PartRecord) -> list[Shard]:
    return [piece.shard for split in SPLITS for piece in record.pieces(split)]


def _has_pieces(record: PartRecord, held: Mapping[str, int]) -> bool:
    return all(held.get(s.name) == s.bytes and held.get(s.ends_name) == s.ends_bytes for s in _shards(record))


def own_progress(job: Job, mine: Sequence[Part], records: Records) -> Progress:
    """Progress over this instance's parts; what de-duplication reads first counts as well."""
    resumed = sum((_counts(records[part.number]) for part in mine if part.number in records), Counts())
    passes = 1 if job.spec.deduplicate == "none" else 2
    return Progress(passes * sum(part.stored_bytes for part in mine), resumed=resumed, source=job.name)


def run_parts(
    job: Job, todo: Sequence[PartTask], pool: WorkerPool, samples: SampleCheck, records: Records, manifest: Manifest,
    origins: Mapping[int, str], on_wait: Callable[[], None],
) -> None:  # fmt: skip
    """Run parts that have no record yet; ``records`` grows."""
    for found, sampled in pool.parts(todo, on_wait):
        record = replace(found, compared=samples.check(sampled), made_of=origins[found.part])
        require_own(job.out, manifest)
        job.out.write(_key(record.part), json.dumps(to_json(record)).encode())
        records[record.part] = record


def _counts(record: PartRecord) -> Counts:
    shards = _shards(record)
    return Counts(record.stored_bytes, sum(shard.documents for shard in shards), sum(shard.tokens for shard in shards))


def others_records(job: Job, origins: Mapping[int, str], own: Records, together: Together) -> Records:
    """All records: this instance's, and the others' as they are written."""
    names = {_key(number): number for number in origins if number not in own}
    found = together.collect(
        PARTS_PREFIX, names, lambda key: _read(job, key, names[key], origins), "the other instances' parts", range(1, job.instances.count)
    )
    held = _held(job)
    if not all(_has_pieces(record, held) for record in found.values()):
        raise InstanceLost("pieces of a finished part are gone; run again, and that part is made anew")
    return own | {record.part: record for record in found.values()}
