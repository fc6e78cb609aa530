"""index.json: what a data set holds, as the processing job writes it and training reads it.

    index.json                      written last: its presence means that everything below it is complete
    parts.json                      what each part was made of: source bytes, settings, tokenizer
    tokenizer.json ...              training has no network
    train/part-00000-000.tokens     little-endian uint16 or uint32, BOS document EOS BOS document EOS ...
    train/part-00000-000.ends       one little-endian uint64 per document: the token offset at which it ends
    validation/...

A shard always ends with a document. The order of tokens is the order of the shards in the index, read as one stream.
data_prep/shards.py reads and writes the shards themselves.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from contracts.config import Bounds, Pattern, Problem, SpecError, parse, to_json
from contracts.failure import CorruptShard
from contracts.files import INDEX_FILE, PARTS_FILE

T = TypeVar("T")

FORMAT_VERSION = 2  # a change of the bytes that one input makes needs a new number
SPLITS: tuple[Literal["train", "validation"], ...] = ("train", "validation")
UINT16_VOCABULARY = 1 << 16
ITEM_BYTES = {"uint16": 2, "uint32": 4}
XXH3 = Pattern(r"[0-9a-f]{32}", "a 128-bit XXH3 in hex")
LARGEST = (1 << 63) - 1  # of a count: more is no number of bytes that a file can have
Count = Annotated[int, Bounds(0, LARGEST)]
SHARD_NAME = Pattern(r"(train|validation)/[A-Za-z0-9][A-Za-z0-9._-]*\.tokens", "a tokens file below train/ or validation/")
FILE_NAME = Pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*", "the plain name of a file beside the index")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One pair of files, as the index describes it."""

    name: str
    """Path of the tokens below the index's folder, ``train/part-00000-000.tokens``."""
    tokens: Count
    """Token ids in it."""
    documents: Count
    """Documents in it; the length of the ends file."""
    bytes: Count
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

    tokens: Count
    """Sum over the shards."""
    documents: Count
    """Sum over the shards."""
    text_bytes: Count
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
    vocab_size: Annotated[int, Bounds(1, 1 << 32)]
    """Largest id + 1."""
    bos_id: Annotated[int, Bounds(0)] | None
    """Opens every document; null when the tokenizer has none."""
    eos_id: Annotated[int, Bounds(0)] | None
    """Closes every document; null when the tokenizer has none."""
    files: tuple[str, ...]
    """Tokenizer files beside the index."""
    config_sha256: str = ""
    """Of tokenizer_config.json; empty when there is none."""
    bos_from: str = ""
    """Where BOS was found: ``setting``, ``tokenizer_config.json``, ``post_processor``, or ``guess`` (a special token with a usual name)."""
    eos_from: str = ""
    """Where EOS was found."""

    def check(self) -> Iterator[Problem]:
        """File names are names, and the ids are in the vocabulary."""
        for name in self.files:
            if not re.fullmatch(FILE_NAME.regex, name):
                yield Problem("files", f"{name[:80]!r} is not {FILE_NAME.meaning}")
        for path, token in (("bos_id", self.bos_id), ("eos_id", self.eos_id)):
            if token is not None and token >= self.vocab_size:
                yield Problem(path, f"{token} is not below vocab_size={self.vocab_size}")


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
    parts_sha256: str = ""
    """Of parts.json."""
    skipped: dict[str, Any] = field(default_factory=dict)
    """Documents of the source that are in no shard, by reason."""
    replaced: dict[str, Any] = field(default_factory=dict)
    """Documents with U+FFFD in the place of what no UTF-8 can hold (a "replace" policy), by reason."""
    tokenizer_loss: Count = 0
    """Documents in the shards whose tokens do not decode to their text."""
    left_out: dict[str, Any] = field(default_factory=dict)
    """Files below the source that were not read, by reason."""
    corpus: dict[str, Any] = field(default_factory=dict)
    """How the source was cleaned first, step by step (CorpusCard.counts); empty where it was tokenised as it is."""

    def check(self) -> Iterator[Problem]:
        """The type holds the vocabulary, sizes follow from counts, sums are sums, names are shards' names."""
        if self.dtype == "uint16" and self.tokenizer.vocab_size > UINT16_VOCABULARY:
            yield Problem("dtype", f"uint16 holds no vocabulary of {self.tokenizer.vocab_size}")
        for name in SPLITS:
            split = self.splits[name]
            names: set[str] = set()
            for number, shard in enumerate(split.shards):
                path = f"splits.{name}.shards[{number}]"
                if not re.fullmatch(SHARD_NAME.regex, shard.name) or shard.name in names:
                    yield Problem(f"{path}.name", f"{shard.name[:80]!r} is not {SHARD_NAME.meaning}, or is named twice")
                if shard.bytes != shard.tokens * ITEM_BYTES[self.dtype]:
                    yield Problem(f"{path}.bytes", f"{shard.bytes} are not those of {shard.tokens} tokens of {self.dtype}")
                names.add(shard.name)
            sums = (sum(shard.tokens for shard in split.shards), sum(shard.documents for shard in split.shards))
            if sums != (split.tokens, split.documents):
                yield Problem(
                    f"splits.{name}", f"the shards hold {sums} tokens and documents, the split says {(split.tokens, split.documents)}"
                )

    @property
    def shards(self) -> Iterator[Shard]:
        """All shards of both splits."""
        for name in SPLITS:
            yield from self.splits[name].shards


@dataclass(frozen=True, kw_only=True)
class SourceRange:
    """Bytes ``start`` to ``stop`` of one object of the source."""

    key: str
    """Path below the source."""
    size: Count
    """Of the whole object."""
    etag: str
    """S3's, a repository's content hash, or a local file's times, size and edges."""
    start: Count
    """First byte that the part owns."""
    stop: Count
    """The byte after its last."""
    read_as: str
    """Format and compression, ``jsonl/gz``."""


@dataclass(frozen=True, kw_only=True)
class PieceFacts:
    """What a part put into one shard, after what earlier parts put there."""

    shard: Annotated[str, SHARD_NAME]
    """Name of the shard in the index."""
    tokens: Count
    """Token ids."""
    documents: Count
    """Documents."""
    checksum: Annotated[str, XXH3]
    """128-bit XXH3 of these tokens' bytes."""


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """One part in parts.json."""

    part: Count
    """Its number."""
    made_of: str
    """Its origin: a hash over format version, settings, tokenizer and source bytes, which ``verify`` computes again."""
    source: tuple[SourceRange, ...]
    """The bytes it was made of."""
    pieces: tuple[PieceFacts, ...]
    """What it made, training first."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """parts.json."""

    parts: tuple[PartFacts, ...]
    """In the order of their numbers, which is the order of their documents in the shards."""


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
    except OSError as error:
        raise CorruptShard(f"{path} cannot be read ({error.strerror}); the index must be a file that this user may read") from None
    except (ValueError, RecursionError) as error:
        raise CorruptShard(f"{path} is no JSON ({error}); delete the folder and run the prepare stage again") from None
    return parse_index(content, str(path))


def parse_index(content: Any, name: str = INDEX_FILE) -> ShardIndex:
    """The index from its JSON value.

    Raises:
        CorruptShard: another format version wrote it, or it contradicts itself; nothing else comes out, whatever the value is.
    """
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION or type(version) is not int:
        raise CorruptShard(f"{name} has format version {str(version)[:40]}, this code reads {FORMAT_VERSION}; prepare the data again")
    return _parsed(ShardIndex, content, name)


def read_parts(folder: Path, index: ShardIndex) -> Parts:
    """parts.json of a finished data set.

    Raises:
        CorruptShard: it is missing, not the one that the index names, or does not read.
    """
    path = Path(folder) / PARTS_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptShard(f"{path} cannot be read ({error.strerror}); prepare the data again") from None
    if hashlib.sha256(content).hexdigest() != index.parts_sha256:
        raise CorruptShard(f"{path} is not the one that {INDEX_FILE} names: swapped or damaged; prepare the data again")
    try:
        return _parsed(Parts, json.loads(content), str(path))
    except (ValueError, RecursionError) as error:
        raise CorruptShard(f"{path} is no JSON ({error}); prepare the data again") from None


def _parsed(cls: type[T], content: Any, name: str) -> T:
    try:
        return parse(cls, content)
    except (SpecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        sentence = str(error)[:500]
        raise CorruptShard(f"{name} does not read: {sentence}; delete the folder and run the prepare stage again") from None


def index_bytes(index: ShardIndex) -> bytes:
    """The index as it is stored: same index, same bytes."""
    return json.dumps(to_json(index), indent=1, sort_keys=True).encode() + b"\n"
