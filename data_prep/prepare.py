"""From a source to finished shards: plan, tokenizer, parts, finalise. Safe to kill and start again at any moment.

What is kept in the destination while the job works, and what makes it restartable on an empty disk:

    .work/tokenizer/...           fetched or trained once
    .work/manifest.json           settings, source, tokenizer and encoder that all instances use
    .work/pieces/...              tails of parts
    .work/parts/part-00012.json   written after the part's files: the part is done
    .work/aside-1/...             what an earlier run left that was made of something else
    train/, validation/           finished shards
    tokenizer.json ..., parts.json, card.html
    index.json                    last; then .work/ is removed
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contracts.config import SpecError, parse, to_json
from contracts.failure import BadInput, JobFailure
from contracts.files import INDEX_FILE, PARTS_FILE
from contracts.shard_index import FORMAT_VERSION, SPLITS, ShardIndex, Splits, TokenizerFacts, dtype_for, index_bytes, parse_index
from data_prep.card import make_card
from data_prep.coordination import SILENCE_SECONDS, Instances, Together
from data_prep.encode import EncoderName
from data_prep.failure_classes import InstanceLost, SourceChanged
from data_prep.fidelity import lossless
from data_prep.finalise import (
    check_loss,
    check_skipped,
    check_stored,
    gather,
    left_out,
    packings,
    part_facts,
    skipped_counts,
    unigram_entropy,
)
from data_prep.fingerprint import SourceListing
from data_prep.gate import SampleCheck, Verdict, decide
from data_prep.origin import (
    MANIFEST,
    TOKENIZER_PREFIX,
    Manifest,
    difference,
    kept_tokenizer,
    manifest_for,
    origin,
    parts_bytes,
    ranges_of,
    read_manifest,
    require_own,
    same_run,
    set_aside,
)
from data_prep.part import PARTS_PREFIX, PIECES_PREFIX, WORK_PREFIX, PartRecord
from data_prep.partition import Part, expected_text, make_plan, share
from data_prep.progress import Counts, Progress
from data_prep.sources import tokenizer_reference
from data_prep.spec import DataSpec
from data_prep.store import Source, Store
from data_prep.tokenizer import TokenizerFiles, announced, facts
from data_prep.tokenizer_source import obtain
from data_prep.workers import Setup, WorkerPool, memory_bound_mib, start_server

Records = dict[int, PartRecord]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One data set to make, and where."""

    spec: DataSpec
    listing: SourceListing
    fingerprint: str
    source: Source
    out: Store
    gates: Store
    """Where the encoders' comparison is kept, for all data sets."""
    scratch: Path
    """Local disk for pieces in work."""
    workers: int
    instances: Instances = field(default_factory=Instances)
    say: Callable[[str], None] = print
    s3_client: Any = None
    silence_seconds: float = SILENCE_SECONDS
    tokenizer_reference: str | None = None
    """What pinned the tokenizer when the fingerprint was computed; None does not ask."""


def prepare(job: Job) -> ShardIndex | None:
    """Make the data set, or finish one that was begun. Finished ones are left alone.

    Returns:
        The index; None on an instance that does not write it.

    Raises:
        JobFailure: the class says what failed and whether trying again can help.
    """
    finished = _finished(job)
    if finished is not None:
        return finished
    try:
        index = _prepare(job)
    except (FileNotFoundError, JobFailure):
        # Another run with the same fingerprint may have finished meanwhile and cleared .work/ under this one.
        finished = _finished(job)
        if finished is None:
            raise
        return finished
    if index is not None:
        job.out.delete(WORK_PREFIX)
    return index


def read_finished(out: Store) -> ShardIndex | None:
    """The index when the data set is complete."""
    try:
        return parse_index(json.loads(out.read(INDEX_FILE)), f"{out.uri}/{INDEX_FILE}")
    except FileNotFoundError:
        return None


def _finished(job: Job) -> ShardIndex | None:
    finished = read_finished(job.out)
    if finished is None:
        return None
    if finished.fingerprint != job.fingerprint:
        raise BadInput(f"{job.out.uri} holds the data set {finished.fingerprint}, this is {job.fingerprint}; choose another folder")
    check_stored(job.out, [finished.splits[name] for name in SPLITS])
    job.say(f"{job.out.uri} is complete already; nothing to do")
    if job.instances.leads:
        job.out.delete(WORK_PREFIX)
    return finished


def _prepare(job: Job) -> ShardIndex | None:
    together = Together(job.instances, job.out, job.say, job.silence_seconds)
    for left in job.listing.left_out:
        names = ", ".join(left.first) + (" ..." if left.files > len(left.first) else "")
        job.say(f"not read: {left.files:,} files below the source ({left.reason.replace('_', ' ')}: {names})")
    plan = make_plan(job.spec, job.listing)
    files, manifest = (_begin if job.instances.leads else _join)(job, plan, together)
    origins = _origins(plan, manifest)
    records = _kept_records(job, origins)
    if records:
        job.say(f"{len(records)} of {len(plan)} parts are finished already; going on with the others")
    bound = memory_bound_mib(job.spec, files, {segment.compression for part in plan for segment in part.segments})
    job.say(f"{len(plan)} parts; a worker holds at most {bound} MiB (data.max_line_bytes and data.max_document_bytes bound it)")
    loss_free = lossless(files)
    if not loss_free:
        job.say(
            "every document is decoded again, since this tokenizer can lose characters: it neither works on bytes nor falls back to them"
        )
    with WorkerPool(_setup(job, manifest.tokenizer, manifest.encoder, loss_free=loss_free), job.workers, len(plan)) as pool:
        _run_parts(job, plan, pool, SampleCheck(files, manifest.encoder), records, manifest, together)
        if not job.instances.leads:
            return None
        if len(records) < len(plan):
            records = _others_records(job, origins, together)
        return _finish(job, plan, [records[part.number] for part in plan], pool, manifest, files, together)


# -- before the parts ------------------------------------------------------------------------------


def _begin(job: Job, plan: Sequence[Part], together: Together) -> tuple[TokenizerFiles, Manifest]:
    """The first instance: the tokenizer, and a manifest in a destination that holds nothing of another run."""
    found = read_manifest(job.out)
    kept = None
    if found is not None and same_run(found, _manifest(job, plan, found.tokenizer)):
        kept = kept_tokenizer(job.out, found.tokenizer)
    files = kept or _obtained(job, plan)
    known = facts(files, job.spec.tokenizer)
    start_server(_local_tokenizer(job, files))
    why = difference(found, _manifest(job, plan, known))
    if why is not None:
        set_aside(job.out, why, job.say)
    for name, content in files.named() if kept is None else ():
        job.out.write(TOKENIZER_PREFIX + name, content)
    verdict = _verdict(job, plan, files, known, together)
    manifest = _manifest(job, plan, known, verdict)
    job.out.write(MANIFEST, json.dumps(to_json(manifest), indent=1).encode())
    job.say(f"encoder: {manifest.encoder} ({manifest.encoder_reason})")
    job.say(announced(files, known))
    return files, manifest


def _join(job: Job, plan: Sequence[Part], together: Together) -> tuple[TokenizerFiles, Manifest]:
    """Every other instance: the first one's manifest, when it describes the run that this instance was asked for."""

    def ready() -> bool:
        found = read_manifest(job.out)
        own = found is not None and same_run(found, _manifest(job, plan, found.tokenizer))
        return own or job.out.exists(INDEX_FILE)

    together.wait(ready, "the first instance's manifest", (0,))
    manifest = read_manifest(job.out)
    files = kept_tokenizer(job.out, manifest.tokenizer) if manifest is not None else None
    if manifest is None or files is None:
        raise InstanceLost("the first instance's manifest and tokenizer do not belong together (it began again); finished parts are kept")
    if facts(files, job.spec.tokenizer) != manifest.tokenizer:
        raise BadInput(
            f"this instance reads the tokenizer otherwise than {job.out.uri}/{MANIFEST} says: the instances run different images"
        )
    start_server(_local_tokenizer(job, files))
    job.say(f"encoder: {manifest.encoder} ({manifest.encoder_reason})")
    return files, manifest


def _manifest(job: Job, plan: Sequence[Part], known: TokenizerFacts, verdict: Verdict | None = None) -> Manifest:
    encoder, why = (verdict.encoder, verdict.reason) if verdict is not None else ("huggingface", "")
    return manifest_for(job.spec, job.listing, job.fingerprint, plan, known, encoder, why)


def _obtained(job: Job, plan: Sequence[Part]) -> TokenizerFiles:
    """The tokenizer, fetched or trained; what was fetched is what the fingerprint names."""
    files = obtain(job.spec, job.source, plan, job.s3_client, job.say)
    if job.tokenizer_reference is not None and tokenizer_reference(job.spec.tokenizer, job.s3_client) != job.tokenizer_reference:
        raise SourceChanged(f"the tokenizer {job.spec.tokenizer.uri} was changed since this run was admitted; start a new run")
    return files


def _local_tokenizer(job: Job, files: TokenizerFiles) -> Path:
    """The files where this instance's workers read them."""
    folder = _tokenizer_folder(job)
    folder.mkdir(exist_ok=True)
    for name, content in files.named():
        (folder / name).write_bytes(content)
    return folder


def _tokenizer_folder(job: Job) -> Path:
    return job.scratch / "tokenizer"


def _verdict(job: Job, plan: Sequence[Part], files: TokenizerFiles, known: TokenizerFacts, together: Together) -> Verdict:
    def run(chunks: Iterable[Any]) -> Iterator[Any]:
        job.say("comparing the fast encoder with Hugging Face tokenizers on every code point (once per tokenizer)")
        with WorkerPool(_setup(job, known, "huggingface"), job.workers, job.workers) as pool:
            yield from pool.gate(chunks, together.beat)

    text_bytes = sum(expected_text(segment) for part in plan for segment in part.segments)
    return decide(files, job.spec.encoder == "huggingface", text_bytes, job.gates, run)


def _setup(job: Job, known: TokenizerFacts, encoder: EncoderName, *, loss_free: bool = False) -> Setup:
    return Setup(
        spec=job.spec, source_uri=job.listing.uri, out_uri=job.out.uri, tokenizer=str(_tokenizer_folder(job)), facts=known,
        encoder=encoder, scratch=str(job.scratch), lossless=loss_free,
    )  # fmt: skip


# -- the parts -------------------------------------------------------------------------------------


def _origins(plan: Sequence[Part], manifest: Manifest) -> dict[int, str]:
    return {part.number: origin(manifest.settings, manifest.tokenizer, ranges_of(part)) for part in plan}


def _kept_records(job: Job, origins: Mapping[int, str]) -> Records:
    """Records of finished parts that prove their origin and whose pieces are there; any other part is not done."""
    records: Records = {}
    names = {f"{PARTS_PREFIX}part-{number:05d}.json": number for number in origins}
    listed = job.out.sizes(PARTS_PREFIX)
    if not listed:
        return records
    held = {key: size for prefix in (PIECES_PREFIX, *(f"{split}/" for split in SPLITS)) for key, size in job.out.sizes(prefix).items()}
    for key in sorted(listed):
        try:
            record = parse(PartRecord, json.loads(job.out.read(key)))
        except (ValueError, SpecError, RecursionError, FileNotFoundError):
            continue
        number = names.get(key)
        if number is not None and record.part == number and record.made_of == origins[number] and _has_pieces(record, held):
            records[number] = record
    if len(records) < len(listed):
        job.say(
            f"{len(listed) - len(records)} records of parts are not used: they do not read, or prove neither this origin nor their pieces"
        )
    return records


def _has_pieces(record: PartRecord, held: Mapping[str, int]) -> bool:
    shards = [piece.shard for split in SPLITS for piece in record.pieces(split)]
    return all(held.get(s.name) == s.bytes and held.get(s.ends_name) == s.ends_bytes for s in shards)


def _run_parts(
    job: Job, plan: Sequence[Part], pool: WorkerPool, samples: SampleCheck, records: Records, manifest: Manifest, together: Together
) -> None:
    """Run this instance's parts that have no record yet; ``records`` grows."""
    mine = share(plan, job.instances.number, job.instances.count)
    todo = [part for part in mine if part.number not in records]
    resumed = sum((_counts(records[part.number]) for part in mine if part.number in records), Counts())
    progress = Progress(sum(part.stored_bytes for part in mine), resumed=resumed)
    origins = _origins(todo, manifest)

    def on_wait() -> None:
        progress.show(pool.counts())
        together.beat()

    for found, sampled in pool.parts(todo, on_wait):
        record = replace(found, compared=samples.check(sampled), made_of=origins[found.part])
        require_own(job.out, manifest)
        job.out.write(f"{PARTS_PREFIX}part-{record.part:05d}.json", json.dumps(to_json(record)).encode())
        records[record.part] = record
    progress.show(pool.counts(), final=True)


def _counts(record: PartRecord) -> Counts:
    shards = [piece.shard for split in SPLITS for piece in record.pieces(split)]
    return Counts(record.stored_bytes, sum(shard.documents for shard in shards), sum(shard.tokens for shard in shards))


def _others_records(job: Job, origins: Mapping[int, str], together: Together) -> Records:
    """Wait until every instance's parts have their records, and read them."""
    expected = {f"{PARTS_PREFIX}part-{number:05d}.json" for number in origins}
    together.wait(lambda: expected <= job.out.sizes(PARTS_PREFIX).keys(), "the other instances' parts", range(1, job.instances.count))
    records = _kept_records(job, origins)
    if len(records) < len(origins):
        raise InstanceLost("a part's record does not read or is of another run; run again, and that part is made anew")
    return records


# -- after the parts -------------------------------------------------------------------------------


def _finish(
    job: Job, plan: Sequence[Part], records: Sequence[PartRecord], pool: WorkerPool, manifest: Manifest, files: TokenizerFiles,
    together: Together,
) -> ShardIndex:  # fmt: skip
    check_skipped(job.spec, records)
    check_loss(job.spec, records)
    groups = {split: packings(split, records, job.spec.shard_tokens) for split in SPLITS}
    packed = dict(pool.packings([packing for split in SPLITS for packing in groups[split]], together.beat))
    splits = {split: gather(split, records, [packed[packing.name] for packing in groups[split]]) for split in SPLITS}
    if splits["train"].tokens == 0:
        raise BadInput(f"{job.listing.uri} holds no text to train on: {left_out(records)}")
    check_stored(job.out, splits.values())
    entropy = unigram_entropy(job.out, splits["validation"], manifest.tokenizer)
    parts = parts_bytes(part_facts([ranges_of(part) for part in plan], records, [group for split in SPLITS for group in groups[split]]))
    index = ShardIndex(
        format_version=FORMAT_VERSION,
        fingerprint=job.fingerprint,
        dtype=dtype_for(manifest.tokenizer.vocab_size),
        tokenizer=manifest.tokenizer,
        splits=Splits(train=splits["train"], validation=replace(splits["validation"], unigram_entropy_nats=entropy)),
        spec=manifest.settings,
        tokenizer_loss=sum(record.lost for record in records),
        skipped=skipped_counts(records),
        left_out={left.reason: left.files for left in job.listing.left_out},
        parts_sha256=hashlib.sha256(parts).hexdigest(),
    )
    card = make_card(
        index,
        job.listing,
        records,
        encoder=manifest.encoder,
        reason=manifest.encoder_reason,
        separators=announced(files, manifest.tokenizer),
    )
    require_own(job.out, manifest)
    for name, content in (*files.named(), *card.files(), (PARTS_FILE, parts), (INDEX_FILE, index_bytes(index))):
        job.out.write(name, content)
    return index
