"""What the corpus job is asked to make, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.corpus_spec import CorpusSpec
from data_prep.fingerprint import SourceListing
from data_prep.spec import DataSpec
from data_prep.store import Store


@dataclass(frozen=True, kw_only=True)
class CorpusJob:
    """One corpus."""

    spec: DataSpec
    """Of one source; its ``corpus`` is set."""
    listing: SourceListing
    fingerprint: str
    out: Store
    work: Path
    """Local folder for what is in work; kept between attempts where the destination is local."""
    workers: int
    say: Callable[[str], None] = print
    s3_client: Any = None

    @property
    def corpus(self) -> CorpusSpec:
        """The steps."""
        if self.spec.corpus is None:
            raise ValueError("no corpus is made of this source")
        return self.spec.corpus
