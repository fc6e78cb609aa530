"""Token shards on disk: the one module that writes them and reads them back (format: contracts/shard_index.py).

Needs numpy and xxhash only, since the training image reads them too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from contracts.failure import CorruptShard
from contracts.files import INDEX_FILE
from contracts.shard_index import Shard, ShardIndex

EDGE_BYTES = 1 << 20  # the first and last MiB are hashed separately, to detect a truncated or swapped shard without reading all of it
CHUNK_BYTES = 1 << 20  # of 8 MiB each, read anew, every one is fresh memory that the kernel clears: five times as slow

Tokens = npt.NDArray[np.unsignedinteger[Any]]
Ends = npt.NDArray[np.uint64]


def little_endian(dtype: str) -> np.dtype[Any]:
    """numpy's name for the index's dtype."""
    return np.dtype(dtype).newbyteorder("<")


class ShardWriter:
    """Writes one shard: tokens streamed to disk and hashed on the way, ends kept (8 bytes a document) until close."""

    def __init__(self, base: Path) -> None:
        base.parent.mkdir(parents=True, exist_ok=True)
        self.tokens_path = base.with_name(base.name + ".tokens")
        self.ends_path = base.with_name(base.name + ".ends")
        self._file: BinaryIO = self.tokens_path.open("wb")
        self._hash = xxhash.xxh3_128()
        self._ends: list[Ends] = []
        self.tokens = 0

    def add(self, tokens: Tokens, ends: Ends) -> None:
        """Append whole documents. ``ends`` are offsets into ``tokens``; the last one is its length."""
        self._ends.append(ends + np.uint64(self.tokens))
        self.append(tokens.data.cast("B"), len(tokens))

    def append(self, content: memoryview | bytes, tokens: int) -> None:
        """Append bytes of ``tokens`` ids whose document ends ``mark`` knows already."""
        self._file.write(content)
        self._hash.update(content)
        self.tokens += tokens

    def mark(self, ends: Ends) -> None:
        """Announce the document ends of tokens about to be appended; offsets count from here."""
        self._ends.append(ends + np.uint64(self.tokens))

    def close(self, name: str) -> Shard:
        """Finish both files; ``name`` is the tokens file's path in the index."""
        self._file.close()
        ends = np.concatenate(self._ends) if self._ends else np.empty(0, np.uint64)
        packed = ends.astype("<u8").tobytes()
        self.ends_path.write_bytes(packed)
        return Shard(
            name=name,
            tokens=self.tokens,
            documents=len(ends),
            bytes=self.tokens_path.stat().st_size,
            checksum=self._hash.hexdigest(),
            edges=edges_of(self.tokens_path),
            ends_checksum=xxhash.xxh3_128_hexdigest(packed),
        )

    def abandon(self) -> None:
        """Close and remove what was written."""
        self._file.close()
        self.tokens_path.unlink(missing_ok=True)


def edges_of(path: Path) -> str:
    """XXH3-128 of the first and last MiB."""
    with path.open("rb") as file:
        first = file.read(EDGE_BYTES)
        file.seek(max(0, os.fstat(file.fileno()).st_size - EDGE_BYTES))
        last = file.read(EDGE_BYTES)
    return xxhash.xxh3_128_hexdigest(first + last)


def checksum_of(path: Path) -> str:
    """XXH3-128 of a whole file, read in chunks."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


CheckLevel = Literal["none", "sizes", "edges", "full"]


def check_shard(folder: Path, shard: Shard, level: CheckLevel) -> None:
    """Verify one shard's files against the index: sizes; then first and last MiB; then every byte.

    Raises:
        CorruptShard: which file, what is wrong with it, what to do.
    """
    if level == "none":
        return
    fix = "delete the data set's folder and prepare it again"
    for name, expected in ((shard.name, shard.bytes), (shard.ends_name, shard.ends_bytes)):
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise CorruptShard(f"shard {name} is in {INDEX_FILE} but cannot be opened ({error.strerror}); {fix}") from None
        if size != expected:
            word = "fewer" if size < expected else "more"
            raise CorruptShard(
                f"shard {name} has {abs(expected - size)} bytes {word} than {INDEX_FILE} says ({size} for {expected}); {fix}"
            )
    if level == "sizes":
        return
    if edges_of(folder / shard.name) != shard.edges:
        raise CorruptShard(
            f"shard {shard.name} has the right size but its first or last MiB is not what {INDEX_FILE} says: swapped or damaged; {fix}"
        )
    if level == "full":
        for name, expected_sum in ((shard.name, shard.checksum), (shard.ends_name, shard.ends_checksum)):
            if (found := checksum_of(folder / name)) != expected_sum:
                raise CorruptShard(f"shard {name} has checksum {found}, {INDEX_FILE} says {expected_sum}: damaged; {fix}")


def open_tokens(folder: Path, index: ShardIndex, shard: Shard) -> Tokens:
    """The shard's ids, memory-mapped."""
    tokens: Tokens = _mapped(folder / shard.name, little_endian(index.dtype), shard.tokens)
    return tokens


def open_ends(folder: Path, shard: Shard) -> Ends:
    """The shard's document ends, memory-mapped."""
    ends: Ends = _mapped(folder / shard.ends_name, np.dtype("<u8"), shard.documents)
    return ends


def _mapped(path: Path, dtype: np.dtype[Any], count: int) -> Any:
    if count == 0:
        return np.empty(0, dtype)  # an empty file cannot be mapped
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(count,)))
