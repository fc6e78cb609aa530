"""Token shards on disk: the one module that writes them and reads them back.

    index.json                      written last: its presence means that everything below it is complete
    tokenizer.json ...              training has no network
    train/part-00000-000.tokens     little-endian uint16 or uint32, BOS document EOS BOS document EOS ...
    train/part-00000-000.ends       one little-endian uint64 per document: the token offset at which it ends
    validation/...

A shard always ends with a document. The order of tokens is the order of the shards in the index, read as one
stream. Needs numpy and xxhash only, since the training image reads it too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import xxhash

from contracts.config import Bounds, Pattern, SpecError, parse, to_json
from contracts.failure import CorruptShard
from data_prep.fingerprint import SHARD_FORMAT_VERSION

INDEX_FILE = "index.json"
SPLITS: tuple[Literal["train", "validation"], ...] = ("train", "validation")
EDGE_BYTES = 1 << 20  # the first and last MiB are hashed apart: a truncated or swapped shard shows without reading all of it
CHUNK_BYTES = 8 << 20
UINT16_VOCABULARY = 1 << 16

Tokens = npt.NDArray[np.unsignedinteger[Any]]
Ends = npt.NDArray[np.uint64]
XXH3 = Pattern(r"[0-9a-f]{32}", "a 128-bit XXH3 in hex")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One pair of files, as the index describes it."""

    name: str
    """Path of the tokens below the index's folder, ``train/part-00000-000.tokens``."""
    tokens: Annotated[int, Bounds(0)]
    """Token ids in it."""
    documents: Annotated[int, Bounds(0)]
    """Documents in it; the length of the ends file."""
    bytes: Annotated[int, Bounds(0)]
    """Size of the tokens file."""
    checksum: Annotated[str, XXH3]
    """128-bit XXH3 of the tokens file."""
    edges: Annotated[str, XXH3]
    """128-bit XXH3 of its first MiB followed by its last MiB (of a smaller file: of the file, twice)."""
    ends_checksum: Annotated[str, XXH3]
    """128-bit XXH3 of the ends file."""

    @property
    def ends_name(self) -> str:
        """Path of the document ends."""
        return self.name.removesuffix(".tokens") + ".ends"

    @property
    def ends_bytes(self) -> int:
        """Size of the document ends file."""
        return self.documents * 8


@dataclass(frozen=True, kw_only=True)
class Split:
    """The shards of one split, in reading order."""

    tokens: int
    """Sum over the shards."""
    documents: int
    """Sum over the shards."""
    text_bytes: int
    """UTF-8 bytes of the documents' text."""
    unigram_entropy_nats: float | None = None
    """Entropy of the labels (BOS left out: no label to predict): what a model without context reaches. Validation only."""
    shards: tuple[Shard, ...] = ()
    """In reading order."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """What training must know of the tokenizer without loading it."""

    sha256: str
    """Of tokenizer.json."""
    vocab_size: int
    """Largest id + 1."""
    bos_id: int | None
    """Opens every document; null when the tokenizer has none."""
    eos_id: int | None
    """Closes every document; null when the tokenizer has none."""
    files: tuple[str, ...]
    """Tokenizer files beside the index."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Both splits by name."""

    train: Split
    """What is trained on."""
    validation: Split
    """What is held out."""

    def __getitem__(self, name: str) -> Split:
        if name not in SPLITS:
            raise KeyError(f"no split {name!r}; known: {', '.join(SPLITS)}")
        return self.train if name == "train" else self.validation


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """index.json."""

    format_version: int
    """SHARD_FORMAT_VERSION of the writer."""
    fingerprint: str
    """Data fingerprint that names the folder."""
    dtype: Literal["uint16", "uint32"]
    """Type of a token, little-endian."""
    tokenizer: TokenizerFacts
    """The tokenizer that made the ids."""
    splits: Splits
    """The shards."""
    spec: dict[str, Any] = field(default_factory=dict)
    """The DataSpec that made them, compute settings left out."""

    @property
    def shards(self) -> Iterator[Shard]:
        """All shards of both splits."""
        for name in SPLITS:
            yield from self.splits[name].shards


def dtype_for(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The smallest type that holds every id."""
    return "uint16" if vocab_size <= UINT16_VOCABULARY else "uint32"


def little_endian(dtype: str) -> np.dtype[Any]:
    """numpy's name for the index's dtype."""
    return np.dtype(dtype).newbyteorder("<")


def read_index(folder: Path) -> ShardIndex:
    """The index of a finished data set.

    Raises:
        CorruptShard: no index (unfinished or wrong folder), or one that this version cannot read.
    """
    path = Path(folder) / INDEX_FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CorruptShard(
            f"{path} does not exist: the data set is unfinished or the folder is another; run the prepare stage again"
        ) from None
    except ValueError as error:
        raise CorruptShard(f"{path} is no JSON ({error}); delete the folder and run the prepare stage again") from None
    return parse_index(content, str(path))


def parse_index(content: Any, name: str = INDEX_FILE) -> ShardIndex:
    """The index from its JSON value, refused when another format version wrote it."""
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != SHARD_FORMAT_VERSION:
        raise CorruptShard(f"{name} has format version {version}, this code reads {SHARD_FORMAT_VERSION}; prepare the data again")
    try:
        return parse(ShardIndex, content)
    except SpecError as error:
        raise CorruptShard(f"{name} does not read as a shard index: {error}; delete the folder and run the prepare stage again") from None


def index_bytes(index: ShardIndex) -> bytes:
    """The index as it is stored: same index, same bytes."""
    return json.dumps(to_json(index), indent=1, sort_keys=True).encode() + b"\n"


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
    """Hold one shard's files to the index: sizes; then first and last MiB; then every byte.

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
