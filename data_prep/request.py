"""What one instance of the job is asked to make, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.corpus_card import CorpusCard
from data_prep.coordination import SILENCE_SECONDS, Instances
from data_prep.fingerprint import SourceListing
from data_prep.patience import PATIENCE_SECONDS
from data_prep.spec import DataSpec
from data_prep.store import Source, Store
from data_prep.tokenizer import TokenizerFiles


@dataclass(frozen=True, kw_only=True)
class Job:
    """One data set to make, and where."""

    spec: DataSpec
    listing: SourceListing
    fingerprint: str
    source: Source
    out: Store
    gates: Store
    """Where the encoders' comparison is kept, for all data sets."""
    scratch: Path
    """Local disk for pieces in work."""
    workers: int
    instances: Instances = field(default_factory=Instances)
    say: Callable[[str], None] = print
    s3_client: Any = None
    silence_seconds: float = SILENCE_SECONDS
    give_up: Callable[[str], Any] = print
    """Gets the last sentence of this process when a tokenizer holds it up for ever."""
    patience_seconds: float = PATIENCE_SECONDS
    """What one call into a tokenizer may take beside the time for its text."""
    tokenizer_reference: str | None = None
    """What pinned the tokenizer when the fingerprint was computed; None does not ask."""
    name: str = ""
    """The source's name in a mixture, for progress."""
    corpus: CorpusCard | None = None
    """How the source was cleaned, where ``source`` is a finished corpus."""
    shared_tokenizer: Callable[[], TokenizerFiles] | None = None
    """What trains a tokenizer on all sources of a mixture, or finds the one that was; None obtains this source's own."""
