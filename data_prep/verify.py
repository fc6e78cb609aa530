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
from pathlib import Path
from typing import Any

import numpy as np

from contracts.config import parse
from contracts.failure import BadInput, CorruptShard
from contracts.shard_index import SPLITS, Shard, ShardIndex, Split, read_index
from data_prep.fingerprint import SourceListing
from data_prep.prepare import Job, prepare
from data_prep.shards import check_shard, open_ends, open_tokens
from data_prep.source_access import listed, open_source
from data_prep.sources import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from data_prep.spec import DataSpec
from data_prep.store import LocalStore
from data_prep.tokenizer import TokenizerFiles, load_reference

SAMPLES = 3
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
    for name in SPLITS:
        split = index.splits[name]
        for shard in split.shards:
            check_shard(folder, shard, "full")
            _check_borders(folder, index, shard)
        sums = (sum(shard.tokens for shard in split.shards), sum(shard.documents for shard in split.shards))
        if sums != (split.tokens, split.documents):
            raise CorruptShard(f"the {name} shards hold {sums} tokens and documents, index.json says {(split.tokens, split.documents)}")
    return index


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
        for name in (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
            if (folder / name).is_file():
                LocalStore(again).write(name, (folder / name).read_bytes())
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
