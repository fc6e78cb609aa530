"""index.json: what a data set holds, as the processing job writes it and training reads it.

    index.json                      written last: its presence means that everything below it is complete
    tokenizer.json ...              training has no network
    train/part-00000-000.tokens     little-endian uint16 or uint32, BOS document EOS BOS document EOS ...
    train/part-00000-000.ends       one little-endian uint64 per document: the token offset at which it ends
    validation/...

A shard always ends with a document. The order of tokens is the order of the shards in the index, read as one stream.
data_prep/shards.py reads and writes the shards themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from contracts.config import Bounds, Pattern, SpecError, parse, to_json
from contracts.failure import CorruptShard
from contracts.files import INDEX_FILE

FORMAT_VERSION = 1  # a change of the bytes that one input makes needs a new number
SPLITS: tuple[Literal["train", "validation"], ...] = ("train", "validation")
UINT16_VOCABULARY = 1 << 16
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
    """FORMAT_VERSION of the writer."""
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
    if version != FORMAT_VERSION:
        raise CorruptShard(f"{name} has format version {version}, this code reads {FORMAT_VERSION}; prepare the data again")
    try:
        return parse(ShardIndex, content)
    except SpecError as error:
        raise CorruptShard(f"{name} does not read as a shard index: {error}; delete the folder and run the prepare stage again") from None


def index_bytes(index: ShardIndex) -> bytes:
    """The index as it is stored: same index, same bytes."""
    return json.dumps(to_json(index), indent=1, sort_keys=True).encode() + b"\n"
