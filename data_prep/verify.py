"""Verifies a finished data set against its index, and with ``--full`` against its source.

python -m data_prep.job verify DIR                   every file, checksum, count and document border; decoded samples
python -m data_prep.job verify DIR --full SOURCE     encodes SOURCE again with Hugging Face tokenizers and compares all ids
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from contracts.config import parse
from contracts.failure import BadInput, CorruptShard
from contracts.files import INDEX_FILE, PARTS_FILE
from contracts.shard_index import SPLITS, Parts, Shard, ShardIndex, Split, read_index, read_parts
from data_prep.duplicates import groups
from data_prep.fidelity import lossless
from data_prep.fingerprint import SourceListing
from data_prep.local_store import LocalStore
from data_prep.origin import compared_with, origin
from data_prep.prepare import prepare
from data_prep.request import Job
from data_prep.shards import check_shard, open_ends, open_tokens
from data_prep.source_access import listed, open_source
from data_prep.sources import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from data_prep.spec import DataSpec
from data_prep.tokenizer import TokenizerFiles, load_reference

SAMPLES = 3
AGAIN = "delete the data set's folder and prepare it again"
SAMPLE_CHARACTERS = 200


def verify(folder: Path) -> ShardIndex:
    """Check every file of a data set.

    Raises:
        CorruptShard: the first thing that is not as the index says.
    """
    index = read_index(folder)
    tokenizer = folder / TOKENIZER_FILE
    if not tokenizer.is_file() or hashlib.sha256(tokenizer.read_bytes()).hexdigest() != index.tokenizer.sha256:
        raise CorruptShard(f"{tokenizer} is missing or not the one that made the shards; prepare the data again")
    config = folder / TOKENIZER_CONFIG_FILE
    if (hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else "") != index.tokenizer.config_sha256:
        raise CorruptShard(f"{config} is not the one that made the shards; prepare the data again")
    for shard in index.shards:
        check_shard(folder, shard, "full")
        _check_borders(folder, index, shard)
    _check_origins(folder, index, read_parts(folder, index))
    return index


def _check_origins(folder: Path, index: ShardIndex, parts: Parts) -> None:
    """Every token belongs to a part, and every part was made of the index's settings and tokenizer and of bytes of its own."""
    seen: dict[str, int] = {}
    documents: dict[str, int] = {}
    opened = {shard.name: open_tokens(folder, index, shard) for shard in index.shards}
    versions: dict[str, tuple[int, str]] = {}
    others = compared_with(index.spec, [part.source for part in parts.parts])
    for number, part in enumerate(parts.parts):
        name = f"part {part.part} of {folder / PARTS_FILE}"
        if part.part != number or part.made_of != origin(index.spec, index.tokenizer, part.source, others):
            raise CorruptShard(f"{name} was made with other settings, another tokenizer or another source than {INDEX_FILE} says; {AGAIN}")
        for item in part.source:
            if versions.setdefault(item.key, (item.size, item.etag)) != (item.size, item.etag):
                raise CorruptShard(f"{name} was made of another {item.key} than an earlier part: the source changed in between; {AGAIN}")
        for piece in part.pieces:
            start = seen.get(piece.shard, 0)
            tokens = opened[piece.shard][start : start + piece.tokens] if piece.shard in opened else ()
            if len(tokens) != piece.tokens or xxhash.xxh3_128_hexdigest(np.ascontiguousarray(tokens).data) != piece.checksum:
                raise CorruptShard(f"shard {piece.shard} does not hold what {name} made; {AGAIN}")
            seen[piece.shard] = start + piece.tokens
            documents[piece.shard] = documents.get(piece.shard, 0) + piece.documents
    for shard in index.shards:
        if (seen.get(shard.name), documents.get(shard.name)) != (shard.tokens, shard.documents):
            raise CorruptShard(f"shard {shard.name} holds tokens that no part of {PARTS_FILE} made; {AGAIN}")
    _check_order(parts)


def _check_order(parts: Parts) -> None:
    """Together the parts own every byte of their objects once."""
    at: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for item in (item for part in parts.parts for item in part.source):
        if item.start != at.get(item.key, 0):
            raise CorruptShard(f"bytes {at.get(item.key, 0)} to {item.start} of {item.key} belong to no part of {PARTS_FILE}; {AGAIN}")
        at[item.key], sizes[item.key] = item.stop, item.size
    missing = next((key for key, size in sizes.items() if at[key] != size), None)
    if missing is not None:
        raise CorruptShard(f"bytes {at[missing]} to {sizes[missing]} of {missing} belong to no part of {PARTS_FILE}; {AGAIN}")


def _check_borders(folder: Path, index: ShardIndex, shard: Shard) -> None:
    """Ends rise to the shard's length; BOS and EOS stand at the borders and nowhere else; every id is in the vocabulary."""
    tokens, ends = open_tokens(folder, index, shard), open_ends(folder, shard)
    facts = index.tokenizer
    if len(ends) == 0 or int(ends[-1]) != len(tokens) or not (np.diff(ends.astype(np.int64)) > 0).all():
        raise CorruptShard(f"the document ends of shard {shard.name} do not rise to its {len(tokens)} tokens; prepare the data again")
    if int(tokens.max()) >= facts.vocab_size:
        raise CorruptShard(
            f"shard {shard.name} holds id {int(tokens.max())}, the vocabulary has {facts.vocab_size}; prepare the data again"
        )
    starts = np.concatenate([[0], ends[:-1].astype(np.int64)])
    for word, token, places in (("BOS", facts.bos_id, starts), ("EOS", facts.eos_id, ends.astype(np.int64) - 1)):
        if token is not None and not np.array_equal(np.flatnonzero(tokens == token), places):
            raise CorruptShard(f"{word} is not exactly at the document borders of shard {shard.name}; prepare the data again")


def samples(folder: Path, index: ShardIndex) -> list[tuple[str, str]]:
    """A few decoded documents: from the beginning, the middle and the end of the training shards."""
    tokenizer = load_reference(TokenizerFiles((folder / TOKENIZER_FILE).read_bytes()))
    shards = [shard for shard in index.splits["train"].shards if shard.documents]
    found = []
    for number in range(min(SAMPLES, sum(shard.documents for shard in shards))):
        shard = shards[number * (len(shards) - 1) // max(1, SAMPLES - 1)]
        which = number * (shard.documents - 1) // max(1, SAMPLES - 1)
        ids = document(folder, index, shard, which)
        found.append((f"{shard.name}, document {which}", tokenizer.decode(ids, skip_special_tokens=False)))
    return found


def document(folder: Path, index: ShardIndex, shard: Shard, number: int) -> list[int]:
    """Ids of one document of a shard, BOS and EOS left off."""
    ends = open_ends(folder, shard)
    start = int(ends[number - 1]) if number else 0
    facts = index.tokenizer
    ids: list[int] = open_tokens(folder, index, shard)[start : int(ends[number])].tolist()
    return ids[int(facts.bos_id is not None) : len(ids) - int(facts.eos_id is not None)]


def verify_full(folder: Path, source: str, workers: int) -> int:
    """Encode the source again with the reference and compare every id; the number of documents compared.

    Raises:
        CorruptShard: the first document that differs, with both ids.
        BadInput: the source is not the one the shards were made of.
    """
    index = verify(folder)
    content: dict[str, Any] = {**index.spec, "source": source, "encoder": "huggingface"}
    content["tokenizer"] = {**content["tokenizer"], "uri": str(folder / TOKENIZER_FILE), "train": None}
    spec = parse(DataSpec, content)
    listing: SourceListing = listed(spec)
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch:
        again = Path(scratch) / "again"
        made = prepare(
            Job(
                spec=spec,
                listing=listing,
                fingerprint="",
                source=open_source(source),
                out=LocalStore(again),
                gates=LocalStore(scratch),
                scratch=Path(scratch),
                workers=workers,
            )
        )
        if made is None:
            raise BadInput("the first instance writes the index")
        for name in SPLITS:
            _compare(folder, index, again, made, name)
    if spec.deduplicate == "exact":
        check_distinct(folder, index)
    return sum(index.splits[name].documents for name in SPLITS)


def _compare(folder: Path, index: ShardIndex, again: Path, made: ShardIndex, name: str) -> None:
    ours: Split = index.splits[name]
    theirs: Split = made.splits[name]
    if (ours.documents, [shard.name for shard in ours.shards]) != (theirs.documents, [shard.name for shard in theirs.shards]):
        raise BadInput(
            f"the source makes {theirs.documents} {name} documents, the shards hold {ours.documents}: it is not what they were made of"
        )
    for one, other in zip(ours.shards, theirs.shards, strict=True):
        if (one.checksum, one.ends_checksum) == (other.checksum, other.ends_checksum):
            continue
        for number in range(one.documents):
            found, expected = document(folder, index, one, number), document(again, made, other, number)
            if found != expected:
                at = next((i for i, (x, y) in enumerate(zip(found, expected, strict=False)) if x != y), min(len(found), len(expected)))
                raise CorruptShard(
                    f"document {number} of shard {one.name} differs from Hugging Face tokenizers at token {at}: "
                    f"ids {found[at : at + 8]} for {expected[at : at + 8]}; prepare the data again"
                )


def check_distinct(folder: Path, index: ShardIndex) -> None:
    """No two documents have the same ids, where that means the same text. Memory: about 80 bytes per document.

    Raises:
        CorruptShard: the first that do.
    """
    files = TokenizerFiles((folder / TOKENIZER_FILE).read_bytes())
    if not lossless(files) or load_reference(files).normalizer is not None:
        return  # texts that differ may have the same ids; that the source makes these very documents is proven above
    digests = bytearray()
    for shard in index.shards:
        tokens, start = open_tokens(folder, index, shard), 0
        for end in open_ends(folder, shard).tolist():
            digests += blake2b(tokens[start:end].tobytes(), digest_size=16).digest()
            start = end
    order, first = groups(np.frombuffer(digests, "<u8").reshape(-1, 2))
    repeated = np.flatnonzero(order != first)
    if len(repeated):
        other, one = (_numbered(index, int(row[repeated[0]])) for row in (order, first))
        raise CorruptShard(f"{other} repeats {one} ({len(repeated)} repeats in all), and data.deduplicate was exact; {AGAIN}")


def _numbered(index: ShardIndex, number: int) -> str:
    for shard in index.shards:
        if number < shard.documents:
            return f"document {number} of shard {shard.name}"
        number -= shard.documents
    raise IndexError(number)


def main(arguments: Sequence[str]) -> int:
    """The command line; 0 when everything holds."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.job verify", description="Check a finished data set.")
    parser.add_argument("folder", type=Path, help="folder of index.json")
    parser.add_argument("--full", metavar="SOURCE", help="encode this source again with Hugging Face tokenizers and compare all ids")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes for --full (default: %(default)s)")
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()
    index = verify(folder)
    for place, text in samples(folder, index):
        print(f"-- {place}\n{text[:SAMPLE_CHARACTERS]}")
    counts = {name: {"tokens": index.splits[name].tokens, "documents": index.splits[name].documents} for name in SPLITS}
    print(f"every checksum, count and document border holds: {json.dumps(counts)}")
    if options.full is not None:
        source = options.full if "://" in options.full else str(Path(options.full).absolute())
        print(f"all {verify_full(folder, source, options.workers):,} documents equal Hugging Face tokenizers")
    return 0
