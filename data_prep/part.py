"""Tokenises one part of the source into shards and tails: the task of a worker process.

A piece that reaches shard_tokens is a finished shard and goes straight to its place. What is left at the end of a part is
a tail; the finalise step packs tails of neighbouring parts into shards, so that many small objects make no more shards
than one large one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import xxhash

from contracts.shard_index import SPLITS
from data_prep.accept import Document, Skipped
from data_prep.documents import SegmentReader
from data_prep.duplicate_files import Slice
from data_prep.duplicates import NO_POSITION, Repeats
from data_prep.encode import Assembler, Encoder, Ids, Offsets
from data_prep.failure_classes import SourceChanged, TokenizerUnusable
from data_prep.fidelity import Fidelity, Unfit
from data_prep.part_record import PIECES_PREFIX, PartRecord, Piece, Sample
from data_prep.partition import Part
from data_prep.shards import Ends, ShardWriter, Tokens
from data_prep.spec import DataSpec
from data_prep.store import Source, Store, disk_errors
from data_prep.tokenizer import LibraryError, library_errors

BATCH_BYTES = 2 << 20  # text encoded at once: large enough to hide the call, small enough to stay in the cache
BATCH_DOCUMENTS = 16_384
SAMPLES_PER_PART = 4  # compared with the reference whatever the rate
SAMPLE_ONE_IN = 10_000
LOW_64 = (1 << 64) - 1
SAMPLE_BYTES = 64 << 10  # longer documents are left to `verify --full`: the reference takes 10 ms for this
CARD_SAMPLES = 2
CARD_SAMPLE_CHARACTERS = 600

SplitName = Literal["train", "validation"]


@dataclass(frozen=True, kw_only=True)
class PartContext:
    """What every part of a job shares inside one worker."""

    spec: DataSpec
    source: Source
    out: Store
    encoder: Encoder
    assembler: Assembler
    fidelity: Fidelity
    """Whether documents survive the encoder."""
    folder: Path
    """Local disk for pieces in work."""
    bounded: Callable[[str, int], AbstractContextManager[None]] = field(default=lambda what, size: nullcontext())
    """Bounds the time of one call into the encoder: what is encoded, and its bytes."""
    progress: Callable[[int, int, int], None] = field(default=lambda stored, documents, tokens: None)
    """Called with the stored bytes, documents and tokens since the last call."""


class PartTask(NamedTuple):
    """A part to tokenise."""

    part: Part
    repeats: tuple[Slice, ...] = ()
    """Where the documents are listed that it leaves out as duplicates."""


def held_out_below(share: float) -> int:
    """A document is held out when the 128-bit XXH3 of its text is below this: the first ``share`` of all values."""
    return int(share * (1 << 64)) << 64


def run_part(task: PartTask, context: PartContext) -> tuple[PartRecord, tuple[Sample, ...]]:
    """Tokenise one part and put its pieces into the store. The record is the caller's to check and write."""
    run = _PartRun(task.part, Repeats(context.out, task.repeats), context)
    try:
        with disk_errors(f"{context.folder} ({task.part.name})"):
            return run.run()
    finally:
        run.abandon()


class _PartRun:
    def __init__(self, part: Part, repeats: Repeats, context: PartContext) -> None:
        self.part, self.repeats, self.context = part, repeats, context
        self.skipped, self.lost = Skipped(), Skipped()
        self.splits = {name: _SplitRun(name, part, context, self.skipped, self.lost) for name in SPLITS}
        self.excerpts: list[tuple[int, dict[str, Any]]] = []
        self.samples: list[Sample] = []
        self._counted = 0
        self._sample_below = (1 << 64) // SAMPLE_ONE_IN

    def run(self) -> tuple[PartRecord, tuple[Sample, ...]]:
        spec, threshold = self.context.spec, held_out_below(self.context.spec.validation_share)
        train, validation, digest_of = self.splits["train"], self.splits["validation"], xxhash.xxh3_128_intdigest
        for number, segment in enumerate(self.part.segments):
            reader = SegmentReader(self.context.source, segment, spec, self.skipped, self._count)
            for split in self.splits.values():
                split.readers.append((len(split.texts), reader))
            size, self._counted = segment.stop - segment.start, 0
            repeated = self.repeats.of(number)
            left_out = next(repeated)
            for document in reader:
                if document.position == left_out:
                    self.skipped.add("duplicate", reader.place(document.position, document.identity))
                    left_out = next(repeated)
                    continue
                digest = digest_of(document.utf8)
                split = validation if digest < threshold else train
                split.texts.append(document.text)
                split.positions.append(document.position)
                if document.identity is not None:
                    split.identities[len(split.texts) - 1] = document.identity
                split.bytes_waiting += len(document.utf8)
                rank = digest & LOW_64  # the split is decided by the high bits
                if rank < self._sample_below or len(self.samples) < SAMPLES_PER_PART:
                    self._sample(document, rank, reader)
                if split.bytes_waiting >= BATCH_BYTES or len(split.texts) >= BATCH_DOCUMENTS:
                    split.encode()
            self.context.source.require_unchanged(segment.item)
            if left_out != NO_POSITION:
                raise SourceChanged(f"{reader.place(left_out)} held a document before, and does not now; start a new run")
            self.context.progress(size - self._counted, 0, 0)  # what a range or parquet read more or less
        for split in self.splits.values():
            split.finish()
        return self._record(), tuple(self._encoded(sample) for sample in self.samples)

    def _count(self, stored: int) -> None:
        self._counted += stored
        self.context.progress(stored, 0, 0)

    def _sample(self, document: Document, rank: int, reader: SegmentReader) -> None:
        """Keep a document for the comparison, and the ones of lowest rank for the data card."""
        size = len(document.utf8)
        if size > SAMPLE_BYTES:
            return
        place = reader.place(document.position, document.identity)
        self.samples.append(Sample(place=place, text=document.text, ids=()))
        excerpt = {"place": place, "bytes": size, "text": document.text[:CARD_SAMPLE_CHARACTERS]}
        self.excerpts = sorted([*self.excerpts, (rank, excerpt)], key=lambda ranked: ranked[0])[:CARD_SAMPLES]

    def _encoded(self, sample: Sample) -> Sample:
        ids, _ = self.context.encoder.encode([sample.text])
        return Sample(place=sample.place, text=sample.text, ids=tuple(ids.tolist()))

    def _record(self) -> PartRecord:
        lengths = Counter[int]()
        for split in self.splits.values():
            lengths += split.lengths
        return PartRecord(
            part=self.part.number,
            train=tuple(self.splits["train"].pieces),
            validation=tuple(self.splits["validation"].pieces),
            stored_bytes=self.part.stored_bytes,
            text_bytes={name: split.text_bytes for name, split in self.splits.items()},
            skipped=dict(sorted(self.skipped.counts.items())),
            skipped_examples=self.skipped.examples,
            replaced=dict(sorted(self.skipped.replaced.items())),
            first_repeats=self.repeats.first,
            lost=self.lost.counts["tokenizer_loss"],
            lost_examples=tuple(self.lost.examples.get("tokenizer_loss", ())),
            lengths={str(k): n for k, n in sorted(lengths.items())},
            excerpts=tuple({**content, "order": digest} for digest, content in self.excerpts),
        )

    def abandon(self) -> None:
        for split in self.splits.values():
            split.abandon()


class _SplitRun:
    """The documents of one split on their way into pieces."""

    def __init__(self, name: SplitName, part: Part, context: PartContext, skipped: Skipped, lost: Skipped) -> None:
        self.name, self.part, self.context, self.skipped, self.lost = name, part, context, skipped, lost
        # What waits lies in lists of strings and numbers, which no garbage collection looks at: an object a document costs a third more.
        self.texts: list[str] = []
        self.positions: list[int] = []
        self.identities: dict[int, str] = {}
        self.readers: list[tuple[int, SegmentReader]] = []
        self.bytes_waiting = 0
        self.text_bytes = 0
        self.pieces: list[Piece] = []
        self.lengths: Counter[int] = Counter()
        self._writer: ShardWriter | None = None

    def encode(self) -> None:
        """Encode the documents that wait, and write them."""
        if not self.texts:
            return
        ids, offsets = self._encoded()
        if not self.texts:  # all were taken out
            self._clear()
            return
        tokens, ends = self.context.assembler.assemble(ids, offsets)
        exponents = np.frexp(np.diff(offsets).astype(np.float64))[1] - 1  # floor(log2) of the length; -1 for none
        self.lengths.update(dict(enumerate(np.bincount(np.maximum(exponents, 0)).tolist())))
        self.context.progress(0, len(self.texts), len(tokens))
        self.text_bytes += self.bytes_waiting
        self._clear()
        for some_tokens, some_ends in self._cut(tokens, ends):
            if self._writer is None:
                self._writer = ShardWriter(self.context.folder / f"{self.part.name}-{self.name}-{len(self.pieces):03d}")
            self._writer.add(some_tokens, some_ends)
            if self._writer.tokens >= self.context.spec.shard_tokens:
                self._close(full=True)

    def _clear(self) -> None:
        self.texts, self.positions, self.identities, self.bytes_waiting = [], [], {}, 0
        self.readers = [(0, reader) for _, reader in self.readers[-1:]]

    def _encoded(self) -> tuple[Ids, Offsets]:
        """Ids of the documents that wait, after those that must not be written were taken out."""
        ids, offsets = self._call(self.texts)
        unfit = self.context.fidelity.unfit(self.texts, ids, offsets)
        dropped = {number for number, what in sorted(unfit.items()) if self._drops(what, self._place(number))}
        if dropped:
            self.texts = [text for number, text in enumerate(self.texts) if number not in dropped]
            self.bytes_waiting = sum(len(text.encode()) for text in self.texts)
            return self._call(self.texts)
        return ids, offsets

    def _place(self, number: int) -> str:
        """Where a document that waits came from."""
        reader = next(reader for first, reader in reversed(self.readers) if first <= number)
        return reader.place(self.positions[number], self.identities.get(number))

    def _drops(self, what: Unfit, place: str) -> bool:
        """Apply data.tokenizer_loss to one document: stop, take it out, or count it. One that holds a separator is never written."""
        policy = self.context.spec.tokenizer_loss
        if policy == "fail":
            why = "does not decode to its text" if what == "tokenizer_loss" else "holds the text of BOS or EOS, and becomes that token"
            raise TokenizerUnusable(f'{place} {why} with this tokenizer; use another, or set data.tokenizer_loss to "count" or "skip"')
        if what == "tokenizer_loss" and policy == "count":
            self.lost.add(what, place)
            return False
        self.skipped.add(what, place)
        return True

    def _call(self, texts: list[str]) -> tuple[Ids, Offsets]:
        """Encode, bounded in time; a document that the tokenizer cannot encode is named.

        Raises:
            TokenizerUnusable: which document, and what the library says.
        """
        encode, bounded = self.context.encoder.encode, self.context.bounded
        try:
            with bounded(f"documents of {self.part.segments[0].item.key}", self.bytes_waiting), library_errors():
                return encode(texts)
        except LibraryError as error:
            for number, text in enumerate(texts):
                try:
                    with bounded(self._place(number), len(text)), library_errors():
                        encode([text])
                except LibraryError as one:
                    raise TokenizerUnusable(
                        f"the tokenizer fails on {self._place(number)} ({str(one)[:200]}); correct it or use another"
                    ) from error
            raise TokenizerUnusable(f"the tokenizer fails on documents of {self.part.name} ({str(error)[:200]}); use another") from error

    def finish(self) -> None:
        """Encode what waits and close the tail."""
        self.encode()
        if self._writer is not None:
            self._close(full=False)

    def abandon(self) -> None:
        """Remove a piece in work."""
        if self._writer is not None:
            self._writer.abandon()

    def _cut(self, tokens: Tokens, ends: Ends) -> Iterator[tuple[Tokens, Ends]]:
        """Runs of whole documents, cut after the document that fills a shard: wherever batches begin, shards end alike."""
        done = first = 0
        while done < len(tokens):
            room = self.context.spec.shard_tokens - (self._writer.tokens if self._writer is not None else 0)
            last = int(np.searchsorted(ends, np.uint64(done + room))) + 1
            stop = int(ends[min(last, len(ends)) - 1])
            yield tokens[done:stop], ends[first:last] - np.uint64(done)
            done, first = stop, last

    def _close(self, *, full: bool) -> None:
        writer = self._writer
        if writer is None:
            return
        number = f"{self.part.name}-{len(self.pieces):03d}.tokens"
        shard = writer.close(f"{self.name}/{number}" if full else f"{PIECES_PREFIX}{self.name}/{number}")
        self._writer = None
        for path, name in ((writer.ends_path, shard.ends_name), (writer.tokens_path, shard.name)):
            self.context.out.put(path, name)
        self.pieces.append(Piece(shard=shard, full=full))
