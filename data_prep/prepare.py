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
from collections.abc import Sequence
from dataclasses import replace

from contracts.failure import BadInput, CorruptShard, JobFailure
from contracts.files import INDEX_FILE, PARTS_FILE
from contracts.shard_index import FORMAT_VERSION, SPLITS, ShardIndex, Splits, dtype_for, index_bytes, parse_index
from data_prep.begin import begin, join, setup
from data_prep.card import make_card
from data_prep.coordination import Together
from data_prep.deduplicate import find_repeats, with_originals
from data_prep.fidelity import lossless
from data_prep.finalise import (
    by_reason,
    check_loss,
    check_skipped,
    check_stored,
    gather,
    left_out,
    packings,
    part_facts,
    unigram_entropy,
)
from data_prep.gate import SampleCheck
from data_prep.origin import (
    Manifest,
    parts_bytes,
    ranges_of,
    require_own,
)
from data_prep.part import PartTask
from data_prep.part_record import WORK_PREFIX, PartRecord
from data_prep.partition import Part, make_plan, share
from data_prep.patience import Patience
from data_prep.records import kept_records, origins_of, others_records, own_progress, run_parts
from data_prep.request import Job
from data_prep.store import Store
from data_prep.tokenizer import TokenizerFiles, announced
from data_prep.workers import WorkerPool, memory_bound_mib


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
    """The index when the data set is complete.

    Raises:
        CorruptShard: there is one that does not read.
    """
    where = f"{out.uri.rstrip('/')}/{INDEX_FILE}"
    try:
        return parse_index(json.loads(out.read(INDEX_FILE)), where)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise CorruptShard(f"{where} is no JSON ({error}); delete the folder and run again") from None


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
    files, manifest = (begin if job.instances.leads else join)(job, plan, together)
    origins = origins_of(plan, manifest)
    mine = share(plan, job.instances.number, job.instances.count)
    records = kept_records(job, {part.number: origins[part.number] for part in mine})
    if records:
        job.say(f"{len(records)} of {len(mine)} parts are finished already; going on with the others")
    segments = [segment for part in plan for segment in part.segments]
    bound = memory_bound_mib(job.spec, files, {segment.compression for segment in segments}, {segment.kind for segment in segments})
    job.say(f"{len(plan)} parts; a worker holds at most {bound} MiB (data.max_line_bytes and data.max_document_bytes bound it)")
    loss_free = lossless(files)
    if not loss_free:
        job.say(
            "every document is decoded again, since this tokenizer can lose characters: it neither works on bytes nor falls back to them"
        )
    with WorkerPool(setup(job, manifest.tokenizer, manifest.encoder, loss_free=loss_free), job.workers, len(plan)) as pool:
        progress = own_progress(job, mine, records)

        def on_wait() -> None:
            progress.show(pool.counts())
            together.beat()

        repeats = find_repeats(job, plan, pool, origins, manifest, together, on_wait) if job.spec.deduplicate == "exact" else {}
        todo = [PartTask(part, repeats.get(part.number, ())) for part in mine if part.number not in records]
        samples = SampleCheck(files, manifest.encoder, Patience(job.give_up, job.patience_seconds))
        run_parts(
            job,
            todo,
            pool,
            samples,
            records,
            manifest,
            origins,
            on_wait,
        )
        progress.show(pool.counts(), final=True)
        if not job.instances.leads:
            return None
        if len(records) < len(plan):
            records = others_records(job, origins, records, together)
        return _finish(job, plan, with_originals(job, plan, [records[part.number] for part in plan]), pool, manifest, files, together)


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
    if not splits["validation"].tokens and job.spec.validation_share:
        share = f"data.validation_share={job.spec.validation_share:g}"
        job.say(f"no document was held out at {share}, so no validation loss can be measured on {job.listing.uri}; raise it, or add text")
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
        skipped=by_reason(record.skipped for record in records),
        replaced=by_reason(record.replaced for record in records),
        left_out={left.reason: left.files for left in job.listing.left_out},
        corpus={} if job.corpus is None else job.corpus.counts(),
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
