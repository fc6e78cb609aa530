"""corpus.json: what a prepared corpus is and how it came about. Written last, so its presence means that the corpus is complete."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from contracts.config import Json, parse, to_json

CORPUS_CARD = "corpus.json"
"""The card, beside the folder of documents."""
DOCUMENTS_PREFIX = "documents/"
"""The corpus itself: .jsonl.zst files with one object per line, ``text`` and ``id``."""
CARD_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """One step of the corpus preparation."""

    name: str
    """Its setting in data.corpus."""
    read: int
    """Documents that came to it."""
    kept: int
    """Documents that it left."""
    dropped: dict[str, int] = field(default_factory=dict)
    """What it took out, by reason."""


@dataclass(frozen=True, kw_only=True)
class CorpusCard:
    """A finished corpus."""

    version: int = CARD_VERSION
    fingerprint: str
    source: Json
    """``uri``, ``objects`` and ``stored_bytes`` of the source, and ``left_out``: its files that were not read, by reason."""
    datatrove: str
    """Version of datatrove that made it."""
    read: int
    """Documents read from the source."""
    documents: int
    """Documents of the corpus."""
    characters: int
    """Of their text."""
    skipped: dict[str, int]
    """Records of the source that its reading policies left out, by reason."""
    replaced: dict[str, int] = field(default_factory=dict)
    """Documents that they have put U+FFFD into, by reason."""
    steps: tuple[StepCounts, ...]
    """In the order in which they were carried out."""
    evaluation: Json | None = None
    """``documents`` of the evaluation sets, ``too_short`` of them hold no n-gram and can be found in nothing, ``ngrams`` looked for."""
    files: dict[str, int]
    """Bytes of each file of the corpus, by its name below documents/."""
    settings: Json
    """data.corpus and the settings by which the source was read."""

    def counts(self) -> Json:
        """The part that people read: for data cards and reports."""
        names = ("fingerprint", "datatrove", "read", "documents", "characters", "skipped", "replaced", "evaluation")
        return {name: getattr(self, name) for name in names} | {"steps": [to_json(step) for step in self.steps]}


def card_bytes(card: CorpusCard) -> bytes:
    """The file's content."""
    return json.dumps(to_json(card), indent=1).encode()


def parse_card(content: bytes) -> CorpusCard:
    """Read it back. Raises ValueError or SpecError for what is none."""
    return parse(CorpusCard, json.loads(content), CORPUS_CARD)
