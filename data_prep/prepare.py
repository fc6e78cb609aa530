"""From a source to finished shards: plan, tokenizer, parts, finalise. Safe to kill and start again at any moment.

What is kept in the destination while the job works, and what makes it restartable on an empty disk:

    tokenizer.json ...            fetched or trained once
    .work/manifest.json           the plan's hash, tokenizer and encoder that all instances use
    .work/pieces/...              tails of parts
    .work/parts/part-00012.json   written after the part's files: the part is done
    train/, validation/           finished shards
    index.json                    last; then .work/ is removed
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contracts.config import SpecError, parse, to_json
from contracts.failure import BadInput, JobFailure
from contracts.files import INDEX_FILE
from contracts.shard_index import FORMAT_VERSION, SPLITS, ShardIndex, Splits, TokenizerFacts, dtype_for, index_bytes, parse_index
from data_prep.card import make_card
from data_prep.coordination import SILENCE_SECONDS, Instances, Together
from data_prep.encode import EncoderName
from data_prep.failure_classes import InstanceLost
from data_prep.finalise import check_skipped, check_stored, gather, left_out, packings, unigram_entropy
from data_prep.fingerprint import SourceListing
from data_prep.gate import SampleCheck, Verdict, decide
from data_prep.part import WORK_PREFIX, PartRecord
from data_prep.partition import Part, expected_text, make_plan, share
from data_prep.progress import Counts, Progress
from data_prep.sources import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from data_prep.spec import DataSpec, fingerprinted
from data_prep.store import Source, Store
from data_prep.tokenizer import TokenizerFiles, facts
from data_prep.tokenizer_source import obtain
from data_prep.workers import Setup, WorkerPool, memory_bound_mib, start_server

MANIFEST = WORK_PREFIX + "manifest.json"
PARTS_PREFIX = WORK_PREFIX + "parts/"

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


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What all instances agree on before the first part."""

    fingerprint: str
    plan: str
    parts: int
    tokenizer: TokenizerFacts
    encoder: EncoderName
    encoder_reason: str


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
    job.say(f"{job.out.uri} is complete already; nothing to do")
    if job.instances.leads:
        job.out.delete(WORK_PREFIX)
    return finished


def _prepare(job: Job) -> ShardIndex | None:
    together = Together(job.instances, job.out, job.say, job.silence_seconds)
    plan = make_plan(job.spec, job.listing)
    records = _kept_records(job.out, plan)
    if records:
        job.say(f"{len(records)} of {len(plan)} parts are finished already; going on with the others")
    if not job.instances.leads:
        together.wait(lambda: job.out.exists(MANIFEST) or job.out.exists(INDEX_FILE), "the first instance's manifest", (0,))
    files = _tokenizer(job, plan)
    start_server(_local_tokenizer(job, files))
    manifest = _agree(job, plan, files, together)
    bound = memory_bound_mib(job.spec, files)
    job.say(f"{len(plan)} parts; a worker holds at most {bound} MiB (data.max_line_bytes and data.max_document_bytes bound it)")
    with WorkerPool(_setup(job, manifest.tokenizer, manifest.encoder), job.workers, len(plan)) as pool:
        _run_parts(job, plan, pool, SampleCheck(files, manifest.encoder), records, together)
        if not job.instances.leads:
            return None
        if len(records) < len(plan):
            records = _others_records(job, plan, together)
        return _finish(job, [records[part.number] for part in plan], pool, manifest, together)


# -- before the parts ------------------------------------------------------------------------------


def _tokenizer(job: Job, plan: Sequence[Part]) -> TokenizerFiles:
    """The tokenizer's files, kept in the destination so that a restart and the other instances use the same ones."""
    try:
        tokenizer = job.out.read(TOKENIZER_FILE)
    except FileNotFoundError:
        files = obtain(job.spec, job.source, plan, job.s3_client, job.say)
        for name, content in sorted(files.named(), reverse=True):  # tokenizer.json, by which the pair is recognised, last
            job.out.write(name, content)
        return files
    try:
        return TokenizerFiles(tokenizer, job.out.read(TOKENIZER_CONFIG_FILE))
    except FileNotFoundError:
        return TokenizerFiles(tokenizer)


def _local_tokenizer(job: Job, files: TokenizerFiles) -> Path:
    """The files where this instance's workers read them."""
    folder = _tokenizer_folder(job)
    folder.mkdir(exist_ok=True)
    for name, content in files.named():
        (folder / name).write_bytes(content)
    return folder


def _tokenizer_folder(job: Job) -> Path:
    return job.scratch / "tokenizer"


def _agree(job: Job, plan: Sequence[Part], files: TokenizerFiles, together: Together) -> Manifest:
    """The manifest: written by the first instance, checked by the others."""
    known = facts(files, job.spec.tokenizer)
    if job.instances.leads:
        verdict = _verdict(job, plan, files, known, together)
        manifest = Manifest(
            fingerprint=job.fingerprint, plan=_plan_hash(plan), parts=len(plan), tokenizer=known,
            encoder=verdict.encoder, encoder_reason=verdict.reason,
        )  # fmt: skip
        job.out.write(MANIFEST, json.dumps(to_json(manifest), indent=1).encode())
    else:
        manifest = parse(Manifest, json.loads(job.out.read(MANIFEST)))
        if (manifest.fingerprint, manifest.plan, manifest.tokenizer) != (job.fingerprint, _plan_hash(plan), known):
            raise BadInput(f"this instance's plan is not that of {job.out.uri}{MANIFEST}: the instances run different images or sources")
    job.say(f"encoder: {manifest.encoder} ({manifest.encoder_reason})")
    return manifest


def _verdict(job: Job, plan: Sequence[Part], files: TokenizerFiles, known: TokenizerFacts, together: Together) -> Verdict:
    def run(chunks: Iterable[Any]) -> Iterator[Any]:
        job.say("comparing the fast encoder with Hugging Face tokenizers on every code point (once per tokenizer)")
        with WorkerPool(_setup(job, known, "huggingface"), job.workers, job.workers) as pool:
            yield from pool.gate(chunks, together.beat)

    text_bytes = sum(expected_text(segment) for part in plan for segment in part.segments)
    return decide(files, job.spec.encoder == "huggingface", text_bytes, job.gates, run)


def _plan_hash(plan: Sequence[Part]) -> str:
    content = [[(s.item.key, s.item.size, s.item.etag, s.kind, s.compression, s.start, s.stop) for s in part.segments] for part in plan]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _setup(job: Job, known: TokenizerFacts, encoder: EncoderName) -> Setup:
    return Setup(
        spec=job.spec, source_uri=job.listing.uri, out_uri=job.out.uri, tokenizer=str(_tokenizer_folder(job)), facts=known,
        encoder=encoder, scratch=str(job.scratch),
    )  # fmt: skip


# -- the parts -------------------------------------------------------------------------------------


def _kept_records(out: Store, plan: Sequence[Part]) -> Records:
    """Records of finished parts; a record that does not read is a part not done."""
    records: Records = {}
    names = {f"{PARTS_PREFIX}{part.name}.json": part.number for part in plan}
    for key in out.sizes(PARTS_PREFIX):
        if key in names:
            try:
                records[names[key]] = parse(PartRecord, json.loads(out.read(key)))
            except (ValueError, SpecError):
                continue
    return records


def _run_parts(job: Job, plan: Sequence[Part], pool: WorkerPool, samples: SampleCheck, records: Records, together: Together) -> None:
    """Run this instance's parts that have no record yet; ``records`` grows."""
    mine = share(plan, job.instances.number, job.instances.count)
    todo = [part for part in mine if part.number not in records]
    resumed = sum((_counts(records[part.number]) for part in mine if part.number in records), Counts())
    progress = Progress(sum(part.stored_bytes for part in mine), resumed=resumed)

    def on_wait() -> None:
        progress.show(pool.counts())
        together.beat()

    for found, sampled in pool.parts(todo, on_wait):
        record = replace(found, compared=samples.check(sampled))
        job.out.write(f"{PARTS_PREFIX}part-{record.part:05d}.json", json.dumps(to_json(record)).encode())
        records[record.part] = record
    progress.show(pool.counts(), final=True)


def _counts(record: PartRecord) -> Counts:
    shards = [piece.shard for split in SPLITS for piece in record.pieces(split)]
    return Counts(record.stored_bytes, sum(shard.documents for shard in shards), sum(shard.tokens for shard in shards))


def _others_records(job: Job, plan: Sequence[Part], together: Together) -> Records:
    """Wait until every instance's parts have their records, and read them."""
    expected = {f"{PARTS_PREFIX}{part.name}.json" for part in plan}
    together.wait(lambda: expected <= job.out.sizes(PARTS_PREFIX).keys(), "the other instances' parts", range(1, job.instances.count))
    records = _kept_records(job.out, plan)
    if len(records) < len(plan):
        raise InstanceLost("a part's record does not read; run again, and that part is made anew")
    return records


# -- after the parts -------------------------------------------------------------------------------


def _finish(job: Job, records: Sequence[PartRecord], pool: WorkerPool, manifest: Manifest, together: Together) -> ShardIndex:
    check_skipped(job.spec, records)
    groups = {split: packings(split, records, job.spec.shard_tokens) for split in SPLITS}
    packed = dict(pool.packings([packing for split in SPLITS for packing in groups[split]], together.beat))
    splits = {split: gather(split, records, [packed[packing.name] for packing in groups[split]]) for split in SPLITS}
    if splits["train"].tokens == 0:
        raise BadInput(f"{job.listing.uri} holds no text to train on: {left_out(records)}")
    check_stored(job.out, splits.values())
    entropy = unigram_entropy(job.out, splits["validation"], manifest.tokenizer)
    index = ShardIndex(
        format_version=FORMAT_VERSION,
        fingerprint=job.fingerprint,
        dtype=dtype_for(manifest.tokenizer.vocab_size),
        tokenizer=manifest.tokenizer,
        splits=Splits(train=splits["train"], validation=replace(splits["validation"], unigram_entropy_nats=entropy)),
        spec=fingerprinted(job.spec),
    )
    card = make_card(index, job.listing, records, manifest.encoder, manifest.encoder_reason)
    for name, content in card.files():
        job.out.write(name, content)
    job.out.write(INDEX_FILE, index_bytes(index))
    return index
