"""Shards of chosen document lengths, whose tokens say where they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.shard_index import FORMAT_VERSION, ShardIndex, Split, Splits, TokenizerFacts, index_bytes
from data_prep.shards import ShardWriter

BOS, EOS = 0, 1


def write_shards(
    folder: Path, shards: list[list[int]], *, vocab_size: int = 60_000, bos: int | None = BOS, eos: int | None = EOS, first_id: int = 2
) -> list[int]:
    """Shards of documents of the given lengths; every text token has another id where the vocabulary allows. The whole stream."""
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    stream: list[int] = []
    made = []
    fresh = first_id
    for number, lengths in enumerate(shards):
        writer = ShardWriter(folder / f"train/s-{number}")
        for length in lengths:
            text = [2 + (fresh + i - 2) % (vocab_size - 2) for i in range(length)]
            fresh += length
            document = [*([bos] if bos is not None else []), *text, *([eos] if eos is not None else [])]
            writer.add(np.array(document, dtype), np.array([len(document)], np.uint64))
            stream += document
        made.append(writer.close(f"train/s-{number}.tokens"))
    split = Split(tokens=sum(s.tokens for s in made), documents=sum(s.documents for s in made), text_bytes=0, shards=tuple(made))
    facts = TokenizerFacts(sha256="0" * 64, vocab_size=vocab_size, bos_id=bos, eos_id=eos, files=())
    index = ShardIndex(
        format_version=FORMAT_VERSION,
        fingerprint="f",
        dtype="uint16" if dtype.itemsize == 2 else "uint32",
        tokenizer=facts,
        splits=Splits(train=split, validation=split),
    )
    (folder / "index.json").write_bytes(index_bytes(index))
    return stream
