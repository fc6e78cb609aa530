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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.card import Card, make_card
from data_prep.encode import EncoderName
from data_prep.failure import BadInput, InstanceLost
from data_prep.finalise import check_skipped, check_stored, gather, packings, unigram_entropy, with_entropy
from data_prep.fingerprint import SHARD_FORMAT_VERSION, SourceListing
from data_prep.gate import SampleCheck, Verdict, decide
from data_prep.part import WORK_PREFIX, PartRecord
from data_prep.plan import Part, expected_text, make_plan, share
from data_prep.progress import Counts, Progress
from data_prep.shards import INDEX_FILE, SPLITS, ShardIndex, Splits, TokenizerFacts, dtype_for, index_bytes, parse_index
from data_prep.spec import DataSpec, fingerprinted
from data_prep.store import Store
from data_prep.strict import SpecError, parse, to_json
from data_prep.tokenizer import TokenizerFiles, facts
from data_prep.tokenizer_source import obtain
from data_prep.workers import Setup, WorkerPool

MANIFEST = WORK_PREFIX + "manifest.json"
PARTS_PREFIX = WORK_PREFIX + "parts/"
HOSTS_PREFIX = WORK_PREFIX + "hosts/"
POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 10.0
SILENCE_SECONDS = 300.0  # instances start minutes apart; after this without a sign, one is taken for lost


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Which of the job's instances this is."""

    number: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """The first one makes the tokenizer and writes the index."""
        return self.number == 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One data set to make, and where."""

    spec: DataSpec
    listing: SourceListing
    fingerprint: str
    source: Store
    out: Store
    gates: Store
    scratch: Path
    workers: int
    instances: Instances = Instances()
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


@dataclass
class _State:
    """Bookkeeping of one run of the job."""

    records: dict[int, PartRecord] = field(default_factory=dict)
    beat: int = 0
    beaten: float = float("-inf")


def prepare(job: Job) -> ShardIndex | None:
    """Make the data set, or finish one that was begun. Finished ones are left alone.

    Returns:
        The index; None on an instance that does not write it.
    """
    finished = read_finished(job.out)
    if finished is not None:
        if finished.fingerprint != job.fingerprint:
            raise BadInput(
                f"{job.out.uri} holds the finished data set {finished.fingerprint}, this one is {job.fingerprint}; choose another folder"
            )
        job.say(f"{job.out.uri} is complete already; nothing to do")
        if job.instances.leads:
            job.out.delete(WORK_PREFIX)
        return finished
    plan = make_plan(job.spec, job.listing)
    state = _State(records=_kept_records(job.out, plan))
    if state.records:
        job.say(f"{len(state.records)} of {len(plan)} parts are finished already; going on with the others")
    files = _tokenizer(job, plan)
    manifest = _agree(job, plan, files, state)
    with _pool(job, files, manifest) as pool:
        _run_parts(job, plan, pool, files, manifest, state)
        if not job.instances.leads:
            return None
        _await_others(job, plan, state)
        return _finish(job, plan, pool, manifest, state)


def read_finished(out: Store) -> ShardIndex | None:
    """The index when the data set is complete."""
    try:
        return parse_index(json.loads(out.read(INDEX_FILE)), f"{out.uri}/{INDEX_FILE}")
    except FileNotFoundError:
        return None


# -- before the parts ------------------------------------------------------------------------------


def _tokenizer(job: Job, plan: Sequence[Part]) -> TokenizerFiles:
    """The tokenizer's files, kept in the destination so that a restart and the other instances use the same ones."""
    if not job.instances.leads:
        _await(job, lambda: job.out.exists(MANIFEST), "the first instance's manifest", _Watch(job, (0,)))
    kept = _kept_tokenizer(job.out)
    if kept is not None:
        return kept
    files = obtain(job.spec, job.source, plan, job.s3_client, job.say)
    for name, content in sorted(files.named(), reverse=True):  # tokenizer.json, by which it is recognised, last
        job.out.write(name, content)
    return files


def _kept_tokenizer(out: Store) -> TokenizerFiles | None:
    try:
        tokenizer = out.read("tokenizer.json")
    except FileNotFoundError:
        return None
    try:
        return TokenizerFiles(tokenizer, out.read("tokenizer_config.json"))
    except FileNotFoundError:
        return TokenizerFiles(tokenizer)


def _agree(job: Job, plan: Sequence[Part], files: TokenizerFiles, state: _State) -> Manifest:
    """The manifest: written by the first instance, checked by the others."""
    known = facts(files, job.spec.tokenizer)
    if job.instances.leads:
        verdict = _verdict(job, plan, files, known, state)
        manifest = Manifest(
            fingerprint=job.fingerprint, plan=_plan_hash(plan), parts=len(plan), tokenizer=known,
            encoder=verdict.encoder, encoder_reason=verdict.reason,
        )  # fmt: skip
        job.out.write(MANIFEST, json.dumps(to_json(manifest), indent=1).encode())
    else:
        manifest = parse(Manifest, json.loads(job.out.read(MANIFEST)))
        if (manifest.fingerprint, manifest.plan, manifest.tokenizer) != (job.fingerprint, _plan_hash(plan), known):
            raise BadInput(
                f"this instance's plan is not the one in {job.out.uri}{MANIFEST}: the instances run different images or see different sources"
            )
    job.say(f"encoder: {manifest.encoder} ({manifest.encoder_reason})")
    return manifest


def _verdict(job: Job, plan: Sequence[Part], files: TokenizerFiles, known: TokenizerFacts, state: _State) -> Verdict:
    def run(chunks: Any) -> Any:
        job.say("comparing the fast encoder with Hugging Face tokenizers on every code point (once per tokenizer)")
        with WorkerPool(_setup(job, files, known, "huggingface"), job.workers) as pool:
            yield from pool.gate(chunks, lambda: _beat(job, state))

    text_bytes = sum(expected_text(segment) for part in plan for segment in part.segments)
    return decide(files, job.spec.encoder == "huggingface", text_bytes, job.gates, run)


def _plan_hash(plan: Sequence[Part]) -> str:
    content = [[(s.item.key, s.item.size, s.item.etag, s.kind, s.compression, s.start, s.stop) for s in part.segments] for part in plan]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _setup(job: Job, files: TokenizerFiles, known: TokenizerFacts, encoder: EncoderName) -> Setup:
    return Setup(
        spec=job.spec, source_uri=job.listing.uri, out_uri=job.out.uri, files=files, facts=known, encoder=encoder, scratch=str(job.scratch)
    )


def _pool(job: Job, files: TokenizerFiles, manifest: Manifest) -> WorkerPool:
    return WorkerPool(_setup(job, files, manifest.tokenizer, manifest.encoder), job.workers)


# -- the parts -------------------------------------------------------------------------------------


def _kept_records(out: Store, plan: Sequence[Part]) -> dict[int, PartRecord]:
    """Records of finished parts; a record that does not read is a part not done."""
    records: dict[int, PartRecord] = {}
    names = {f"{PARTS_PREFIX}{part.name}.json": part.number for part in plan}
    for key in out.sizes(PARTS_PREFIX):
        if key in names:
            try:
                records[names[key]] = parse(PartRecord, json.loads(out.read(key)))
            except (ValueError, SpecError):
                continue
    return records


def _run_parts(job: Job, plan: Sequence[Part], pool: WorkerPool, files: TokenizerFiles, manifest: Manifest, state: _State) -> None:
    mine = share(plan, job.instances.number, job.instances.count)
    todo = [part for part in mine if part.number not in state.records]
    progress = Progress(sum(part.stored_bytes for part in mine), resumed=_counts(state, mine))
    samples = SampleCheck(files, manifest.encoder)

    def on_wait() -> None:
        progress.show(pool.counts())
        _beat(job, state)

    for record, sampled in pool.parts(todo, on_wait):
        record = replace(record, compared=samples.check(sampled))
        job.out.write(f"{PARTS_PREFIX}part-{record.part:05d}.json", json.dumps(to_json(record)).encode())
        state.records[record.part] = record
    progress.show(pool.counts(), final=True)


def _counts(state: _State, mine: Sequence[Part]) -> Counts:
    total = Counts()
    for part in mine:
        if (record := state.records.get(part.number)) is not None:
            shards = [piece.shard for split in SPLITS for piece in record.pieces(split)]
            total += Counts(record.stored_bytes, sum(s.documents for s in shards), sum(s.tokens for s in shards))
    return total


# -- several instances -----------------------------------------------------------------------------


def _beat(job: Job, state: _State) -> None:
    """Tell the other instances that this one lives."""
    now = time.monotonic()
    if job.instances.count > 1 and now - state.beaten >= HEARTBEAT_SECONDS:
        state.beat, state.beaten = state.beat + 1, now
        job.out.write(f"{HOSTS_PREFIX}{job.instances.number}.json", json.dumps({"beat": state.beat, "time": time.time()}).encode())


class _Watch:
    """Notices when an instance's heartbeat stands still; compares contents, so that clocks need not agree."""

    def __init__(self, job: Job, numbers: Sequence[int]) -> None:
        self._job = job
        self._seen = {number: (b"", time.monotonic()) for number in numbers}

    def check(self) -> None:
        for number, (content, since) in self._seen.items():
            try:
                now = self._job.out.read(f"{HOSTS_PREFIX}{number}.json")
            except FileNotFoundError:
                now = b""
            if now != content:
                self._seen[number] = (now, time.monotonic())
            elif time.monotonic() - since > self._job.silence_seconds:
                name = f"instance {number + 1} of {self._job.instances.count}"
                raise InstanceLost(f"{name} gave no sign for {self._job.silence_seconds:.0f} s; finished parts are kept")


def _await(job: Job, ready: Callable[[], bool], what: str, watch: _Watch) -> None:
    said = False
    state = _State()
    while not ready():
        if not said:
            job.say(f"waiting for {what}")
            said = True
        watch.check()
        _beat(job, state)
        time.sleep(POLL_SECONDS)


def _await_others(job: Job, plan: Sequence[Part], state: _State) -> None:
    """Wait until every instance's parts have their records, and read them."""
    if len(state.records) == len(plan):
        return
    expected = {f"{PARTS_PREFIX}{part.name}.json" for part in plan}
    watch = _Watch(job, range(1, job.instances.count))
    _await(job, lambda: expected <= job.out.sizes(PARTS_PREFIX).keys(), "the other instances' parts", watch)
    state.records = _kept_records(job.out, plan)
    if len(state.records) < len(plan):
        raise InstanceLost("a part's record does not read; run again, and that part is made anew")


# -- after the parts -------------------------------------------------------------------------------


def _finish(job: Job, plan: Sequence[Part], pool: WorkerPool, manifest: Manifest, state: _State) -> ShardIndex:
    records = [state.records[part.number] for part in plan]
    check_skipped(job.spec, records)
    groups = {split: packings(split, records, job.spec.shard_tokens) for split in SPLITS}
    packed = dict(pool.packings([packing for split in SPLITS for packing in groups[split]], lambda: _beat(job, state)))
    splits = {split: gather(split, records, [packed[packing.name] for packing in groups[split]]) for split in SPLITS}
    if splits["train"].tokens == 0:
        raise BadInput(f"{job.listing.uri} holds no text to train on: {_left_out(records)}")
    check_stored(job.out, splits.values())
    entropy = unigram_entropy(job.out, splits["validation"], manifest.tokenizer)
    index = ShardIndex(
        format_version=SHARD_FORMAT_VERSION,
        fingerprint=job.fingerprint,
        dtype=dtype_for(manifest.tokenizer.vocab_size),
        tokenizer=manifest.tokenizer,
        splits=Splits(train=splits["train"], validation=with_entropy(splits["validation"], entropy)),
        spec=fingerprinted(job.spec),
    )
    card: Card = make_card(index, job.listing, records, manifest.encoder, manifest.encoder_reason)
    for name, content in card.files():
        job.out.write(name, content)
    job.out.write(INDEX_FILE, index_bytes(index))
    job.out.delete(WORK_PREFIX)
    return index


def _left_out(records: Sequence[PartRecord]) -> str:
    counts: dict[str, int] = {}
    for record in records:
        for reason, count in record.skipped.items():
            counts[reason] = counts.get(reason, 0) + count
    held_out = sum(piece.shard.documents for record in records for piece in record.validation)
    return f"skipped {json.dumps(counts)}, held out for validation {held_out}"
