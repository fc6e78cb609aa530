"""What a part leaves: its pieces, its record, and the documents that are compared with the reference encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from contracts.config import Bounds
from contracts.shard_index import Shard

WORK_PREFIX = ".work/"
PIECES_PREFIX = WORK_PREFIX + "pieces/"
PARTS_PREFIX = WORK_PREFIX + "parts/"
DUPLICATES_PREFIX = WORK_PREFIX + "duplicates/"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A shard, or a tail that becomes part of one."""

    shard: Shard
    """Its files; a tail's name lies under .work/."""
    full: bool
    """Already a shard."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A document and what it became, for the comparison with the reference."""

    place: str
    """Where it came from."""
    text: str
    """Its text."""
    ids: tuple[int, ...]
    """Without BOS and EOS."""


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """What a finished part leaves in the store; the part counts as done when this is written."""

    part: Annotated[int, Bounds(0)]
    """Its number in the plan."""
    train: tuple[Piece, ...]
    """Pieces in order."""
    validation: tuple[Piece, ...]
    """Pieces in order."""
    stored_bytes: int
    """Bytes read from the source."""
    text_bytes: dict[str, int]
    """UTF-8 bytes of the documents, per split."""
    skipped: dict[str, int]
    """Documents left out, by reason."""
    skipped_examples: dict[str, Any]
    """Where the first few were."""
    replaced: dict[str, int] = field(default_factory=dict)
    """Documents with U+FFFD in the place of what no UTF-8 can hold, by reason."""
    first_repeats: tuple[int, ...] = ()
    """Part, segment and position of the document that the first duplicate repeats."""
    lost: int = 0
    """Documents whose tokens do not decode to their text, with data.tokenizer_loss "count"."""
    lost_examples: tuple[str, ...] = ()
    """Where the first few were."""
    lengths: dict[str, int]
    """Documents by length: key k counts those of 2^k to 2^(k+1) - 1 tokens."""
    excerpts: tuple[dict[str, Any], ...]
    """A few documents for the data card, chosen by hash."""
    made_of: str = ""
    """Its origin, which a later run must arrive at as well to use it."""
    compared: int = 0
    """Documents compared with the reference encoder."""

    def pieces(self, split: str) -> tuple[Piece, ...]:
        """Pieces of one split."""
        return self.train if split == "train" else self.validation
