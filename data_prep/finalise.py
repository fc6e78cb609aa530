"""The last step: packs tails into shards, verifies everything against the records, writes the index."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from contracts.failure import CorruptShard
from contracts.shard_index import SPLITS, PartFacts, PieceFacts, Shard, SourceRange, Split, TokenizerFacts, dtype_for
from data_prep.failure_classes import TokenizerUnusable, TooMuchSkipped
from data_prep.fingerprint import SourceObject
from data_prep.part_record import PartRecord
from data_prep.shards import CHUNK_BYTES, Ends, ShardWriter, little_endian
from data_prep.spec import DataSpec
from data_prep.store import Store, disk_errors

UNSHARED = frozenset({"empty", "duplicate"})
"""Reasons that data.max_skipped_share does not look at: nothing of the text is lost."""


@dataclass(frozen=True)
class Packing:
    """Tails that become one shard."""

    name: str
    tails: tuple[Shard, ...]


def packings(split: str, records: Sequence[PartRecord], shard_tokens: int) -> list[Packing]:
    """Neighbouring tails, gathered until they fill a shard."""
    tails = [piece.shard for record in records for piece in record.pieces(split) if not piece.full]
    groups: list[list[Shard]] = [[]]
    for tail in tails:
        if sum(shard.tokens for shard in groups[-1]) >= shard_tokens:
            groups.append([])
        groups[-1].append(tail)
    return [Packing(f"{split}/packed-{i:05d}.tokens", tuple(group)) for i, group in enumerate(groups) if group]


def pack(packing: Packing, store: Store, folder: Path, itemsize: int) -> Shard:
    """Write one shard from tails, in order, and put it into the store. Tails are checked against their checksums on the way."""
    with disk_errors(str(folder)):
        writer = ShardWriter(folder / packing.name.replace("/", "-").removesuffix(".tokens"))
        try:
            for tail in packing.tails:
                writer.mark(_read_ends(store, tail))
                digest = xxhash.xxh3_128()
                with store.open(SourceObject(tail.name, tail.bytes, "")) as file:
                    while chunk := file.read(CHUNK_BYTES):
                        digest.update(chunk)
                        writer.append(chunk, len(chunk) // itemsize)
                if digest.hexdigest() != tail.checksum:
                    raise _damaged(tail.name)
            shard = writer.close(packing.name)
        except BaseException:
            writer.abandon()
            raise
    for path, name in ((writer.ends_path, shard.ends_name), (writer.tokens_path, shard.name)):
        store.put(path, name)
    return shard


def _read_ends(store: Store, shard: Shard) -> Ends:
    content = store.read(shard.ends_name)
    if xxhash.xxh3_128_hexdigest(content) != shard.ends_checksum:
        raise _damaged(shard.ends_name)
    return np.frombuffer(content, "<u8").astype(np.uint64)


def _damaged(name: str) -> CorruptShard:
    return CorruptShard(
        f"{name} is not what its part's record says: damaged or replaced while the job was away; delete .work/ and run again"
    )


def by_reason(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sums of all parts' counts, sorted by reason."""
    sums: dict[str, int] = {}
    for part in counts:
        for reason, count in part.items():
            sums[reason] = sums.get(reason, 0) + count
    return dict(sorted(sums.items()))


def part_facts(sources: Sequence[tuple[SourceRange, ...]], records: Sequence[PartRecord], groups: Iterable[Packing]) -> Iterator[PartFacts]:
    """What parts.json says of each part: its source bytes, and which tokens of which shard it made of them."""
    packed_in = {tail.name: group.name for group in groups for tail in group.tails}
    for source, record in zip(sources, records, strict=True):
        pieces = (piece.shard for split in SPLITS for piece in record.pieces(split))
        yield PartFacts(
            part=record.part,
            made_of=record.made_of,
            source=source,
            pieces=tuple(
                PieceFacts(shard=packed_in.get(s.name, s.name), tokens=s.tokens, documents=s.documents, checksum=s.checksum) for s in pieces
            ),
        )


def full_shards(split: str, records: Iterable[PartRecord]) -> list[Shard]:
    """Shards that were finished inside a part."""
    return [piece.shard for record in records for piece in record.pieces(split) if piece.full]


def gather(split: str, records: Sequence[PartRecord], packed: Iterable[Shard]) -> Split:
    """One split of the index."""
    shards = (*full_shards(split, records), *packed)
    return Split(
        tokens=sum(shard.tokens for shard in shards),
        documents=sum(shard.documents for shard in shards),
        text_bytes=sum(record.text_bytes.get(split, 0) for record in records),
        shards=shards,
    )


def check_stored(store: Store, splits: Iterable[Split]) -> None:
    """Every file of the index is in the store, with its size.

    Raises:
        CorruptShard: one is not.
    """
    found = {key: size for name in SPLITS for key, size in store.sizes(f"{name}/").items()}
    for split in splits:
        for shard in split.shards:
            for name, size in ((shard.name, shard.bytes), (shard.ends_name, shard.ends_bytes)):
                if found.get(name) != size:
                    raise CorruptShard(
                        f"{store.uri.rstrip('/')}/{name} has {found.get(name)} bytes, {size} were written; delete the folder and run again"
                    )


def check_skipped(spec: DataSpec, records: Iterable[PartRecord]) -> None:
    """Check the skipped documents against max_skipped_share; empty ones and duplicates do not count.

    Raises:
        TooMuchSkipped: how many, why, where the first few are.
    """
    records = list(records)
    counts: dict[str, int] = {}
    for record in records:
        for reason, count in record.skipped.items():
            if reason not in UNSHARED:
                counts[reason] = counts.get(reason, 0) + count
    kept = sum(piece.shard.documents for record in records for split in SPLITS for piece in record.pieces(split))
    total = sum(counts.values())
    if total > spec.max_skipped_share * (kept + total):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        examples = [
            place for record in records for reason, places in record.skipped_examples.items() if reason not in UNSHARED for place in places
        ]
        raise TooMuchSkipped(
            f"{total} of {kept + total} documents were skipped ({reasons}), more than data.max_skipped_share={spec.max_skipped_share:g} "
            f"allows; the first: {'; '.join(examples[:3])}"
        )


def check_loss(spec: DataSpec, records: Sequence[PartRecord]) -> None:
    """Hold the documents that do not decode to their text to max_tokenizer_loss_share.

    Raises:
        TokenizerUnusable: how many, where the first few are.
    """
    lost = sum(record.lost for record in records)
    kept = sum(piece.shard.documents for record in records for split in SPLITS for piece in record.pieces(split))
    if lost > spec.max_tokenizer_loss_share * kept:
        places = "; ".join([place for record in records for place in record.lost_examples][:3])
        raise TokenizerUnusable(
            f"{lost} of {kept} documents do not decode to their text with this tokenizer, more than "
            f"data.max_tokenizer_loss_share={spec.max_tokenizer_loss_share:g} allows; the first: {places}; "
            "use a tokenizer with byte fallback"
        )


def unigram_entropy(store: Store, split: Split, facts: TokenizerFacts) -> float | None:
    """Entropy in nats of a split's labels: all its tokens but BOS, which no loss counts. None without tokens."""
    counts = np.zeros(facts.vocab_size, np.int64)
    dtype = little_endian(dtype_for(facts.vocab_size))
    for shard in split.shards:
        with store.open(SourceObject(shard.name, shard.bytes, "")) as file:
            while chunk := file.read(CHUNK_BYTES):
                counts += np.bincount(np.frombuffer(chunk, dtype), minlength=facts.vocab_size)
    if facts.bos_id is not None:
        counts[facts.bos_id] = 0
    total = int(counts.sum())
    if total == 0:
        return None
    shares = counts[counts > 0] / total
    return math.fsum((-shares * np.log(shares)).tolist())


def left_out(records: Sequence[PartRecord]) -> str:
    """What became of the documents when none was left."""
    held_out = sum(piece.shard.documents for record in records for piece in record.validation)
    skipped = ", ".join(f"{count} {reason}" for reason, count in by_reason(record.skipped for record in records).items()) or "none"
    return f"skipped: {skipped}; held out for validation: {held_out}"
