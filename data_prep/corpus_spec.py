"""CorpusSpec: what is taken out of a source's text before it is tokenised. Part of DataSpec, carried out by the stage Prepare corpus.

Every step is off until it is asked for. They are datatrove's own blocks, in this order: language, repetition, quality, contamination,
near-duplicates; each sees what the ones before it left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from contracts.config import Bounds, Json, Pattern, Problem, one_or_more, to_json
from data_prep.places import MODEL_SOURCE, PROCESSING_TYPE, SOURCE

LABEL = Pattern(r"[A-Za-z_-]{2,32}", 'a label of the model, such as "en" (lid.176) or "eng_Latn" (GlotLID)')
COMPUTE_SETTINGS = frozenset({"instance_type", "volume_size_gb", "max_runtime_seconds", "workers"})
DATATROVE = "0.10.1"  # part of the fingerprint: another version may judge a document otherwise. A test compares it with the lock.
CORPUS_VERSION = 1  # of how the steps are put together

WordLanguage = Literal[
    "bul", "ces", "dan", "deu", "ell", "eng", "fin", "fra", "hrv", "hun", "ita", "lit", "nld", "nob", "pol", "por", "ron", "rus",
    "slk", "slv", "spa", "swe", "tur", "ukr",
]  # fmt: skip
"""ISO 639-3 codes whose words datatrove splits with spaCy's rules alone: nothing is downloaded and no further package needed."""


STEPS = (
    "language_filter", "gopher_repetition", "gopher_quality", "c4_quality", "fineweb_quality", "decontamination", "near_duplicates",
)  # fmt: skip
"""Settings of the steps, in the order in which they are carried out."""


@dataclass(frozen=True, kw_only=True)
class LanguageFilter:
    """Keep documents of some languages (datatrove's LanguageFilter)."""

    model: Annotated[str, MODEL_SOURCE]
    """A fastText language model, such as lid.176.bin or GlotLID's model_v3.bin: an s3:// URI, a local path, or a key in the own bucket."""
    keep: Annotated[tuple[Annotated[str, LABEL], ...], Bounds(1, 64)]
    """Labels of the model: ``["en"]``."""
    min_score: Annotated[float, Bounds(0.0, 1.0)] = 0.65
    """A document stays when one of these labels scores more."""


@dataclass(frozen=True, kw_only=True)
class GopherQuality:
    """Gopher's rules for length, symbols, bullets, ellipses and stop words (arXiv 2112.11446; datatrove's GopherQualityFilter)."""

    min_words: Annotated[int, Bounds(1, 1_000_000)] = 50
    """Shortest document, in words."""
    max_words: Annotated[int, Bounds(1, 100_000_000)] = 100_000
    """Longest document, in words."""
    min_stop_words: Annotated[int, Bounds(0, 8)] = 2
    """How many of the, be, to, of, and, that, have, with a document must hold; 0 for text that is not English."""


@dataclass(frozen=True, kw_only=True)
class C4Quality:
    """C4's rules (arXiv 1910.10683; datatrove's C4QualityFilter). Drops lines as well as documents, so it changes texts."""

    terminal_punctuation: bool = True
    """Drop lines that end without a terminal mark; FineWeb leaves this off, since it takes out a third of all text."""
    min_sentences: Annotated[int, Bounds(0, 1000)] = 5
    """Fewest sentences of a document."""
    curly_brackets: bool = True
    """Drop documents that hold a ``{``; turn it off for code."""


@dataclass(frozen=True, kw_only=True)
class Decontamination:
    """Drop documents that share an n-gram with an evaluation set (datatrove's NGramsDecontFilter)."""

    source: Annotated[str, SOURCE]
    """Where the evaluation sets' text is, in any form that data.source may have; each file is one set."""
    text_field: Annotated[str, one_or_more(256)] = "text"
    """Field or column that holds it."""
    n_grams: Annotated[int, Bounds(4, 64)] = 12
    """Words in a row that must agree, after lower case and without punctuation."""


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Keep one document of each cluster of near-duplicates (datatrove's MinHash)."""

    n_grams: Annotated[int, Bounds(1, 32)] = 5
    """Words of a shingle."""
    buckets: Annotated[int, Bounds(1, 64)] = 14
    """Bands of the signature; two documents with one band in common are duplicates."""
    hashes_per_bucket: Annotated[int, Bounds(1, 64)] = 8
    """Hashes of a band. With 14 bands of 8, half of the pairs with similarity (1/14)^(1/8) = 0.72 are found, 92 % of those with 0.8."""
    seed: Annotated[int, Bounds(0, 2**31 - 1)] = 1
    """Of the hash functions."""


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """Steps between the source and the tokenizer, each off until it is given."""

    language: WordLanguage = "eng"
    """Whose rules split words and sentences (ISO 639-3)."""
    language_filter: LanguageFilter | None = None
    """Keep documents of some languages."""
    gopher_repetition: bool = False
    """Drop documents that repeat themselves, by Gopher's thresholds (arXiv 2112.11446, table A1)."""
    gopher_quality: GopherQuality | None = None
    """Gopher's quality rules; ``{}`` takes the published thresholds."""
    c4_quality: C4Quality | None = None
    """C4's rules for lines and documents."""
    fineweb_quality: bool = False
    """FineWeb's own rules (arXiv 2406.17557): lines without punctuation, short lines, repeated lines, lists."""
    decontamination: Decontamination | None = None
    """Drop documents that share text with evaluation sets."""
    near_duplicates: NearDuplicates | None = None
    """Drop near-duplicates; ``{}`` takes FineWeb's thresholds. Within one source."""
    # -- compute settings: not part of the fingerprint -----------------------------------------------
    instance_type: Annotated[str, PROCESSING_TYPE] = "ml.c7i.8xlarge"
    """SageMaker processing instance type; the stage takes one instance."""
    volume_size_gb: Annotated[int, Bounds(1, 16_384)] = 500
    """Its disk in GB. Holds the corpus twice, compressed, and about 1 KB a document for near-duplicates."""
    max_runtime_seconds: Annotated[int, Bounds(60, 432_000)] = 86_400
    """The job is stopped after this; the next attempt goes on with what is not done. A core cleans about 0.1 MB of text a second with every
    step on."""
    workers: Annotated[int, Bounds(0, 512)] = 0
    """Processes; 0 takes one per core."""

    def check(self) -> Iterator[Problem]:
        """Something is to be done."""
        if not self.steps:
            yield Problem("", "asks for no step; give one of them, or null for no corpus preparation")
        quality = self.gopher_quality
        if quality is not None and quality.min_words > quality.max_words:
            yield Problem("gopher_quality.min_words", f"{quality.min_words} is more than max_words={quality.max_words}")

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that are on, in their order."""
        return tuple(name for name in STEPS if getattr(self, name) not in (None, False))

    @property
    def uris(self) -> dict[str, str]:
        """What is read beside the source, by its dotted path."""
        model = {} if self.language_filter is None else {"language_filter.model": self.language_filter.model}
        return model | ({} if self.decontamination is None else {"decontamination.source": self.decontamination.source})

    def resolved(self, resolve: Callable[[str], str]) -> CorpusSpec:
        """The same with full URIs."""
        chosen, sets = self.language_filter, self.decontamination
        return replace(
            self,
            language_filter=None if chosen is None else replace(chosen, model=resolve(chosen.model)),
            decontamination=None if sets is None else replace(sets, source=resolve(sets.source)),
        )

    def fingerprinted(self) -> Json:
        """What decides the corpus, as JSON."""
        return {key: value for key, value in to_json(self).items() if key not in COMPUTE_SETTINGS}
