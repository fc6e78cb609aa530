"""datatrove's blocks as this job needs them: where documents come from, and what datatrove takes from the network otherwise.

Everything that judges a document is datatrove's own; the classes here only bring it documents, a model file and an index.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.io import get_datafolder
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontIndexer
from datatrove.pipeline.filters import LanguageFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.lid import FastTextLID
from datatrove.utils.word_tokenizers import load_word_tokenizer

from contracts.failure import BadInput
from data_prep.accept import Skipped
from data_prep.documents import SegmentReader
from data_prep.partition import Part
from data_prep.source_access import open_source
from data_prep.spec import DataSpec

Documents = Iterator[Document]
SKIPPED = "skipped_"
"""Prefix of the reader's counts of records that a reading policy left out."""
REPLACED = "replaced_"
"""The same of documents that a policy has put U+FFFD into."""


class SourceReader(PipelineStep):
    """Documents of one part of a source, read by data_prep's own readers and policies; the part's number is the task's rank."""

    name = "source"
    type = "READER"

    def __init__(self, spec: DataSpec, uri: str, plan: tuple[Part, ...], *, name_sets: bool = False) -> None:
        super().__init__()
        self.spec, self.uri, self.plan, self.name_sets = spec, uri, plan, name_sets
        self.last = ""
        """Where the document is that the pipeline works on."""

    def run(self, data: Documents | None = None, rank: int = 0, world_size: int = 1) -> Documents:
        """The part's documents."""
        skipped, source = Skipped(), open_source(self.uri)
        for segment in self.plan[rank].segments:
            reader = SegmentReader(source, segment, self.spec, skipped)
            for document in reader:
                self.last = reader.place(document.position, document.identity)
                identity = document.identity if document.identity is not None else f"{segment.item.key}#{document.position}"
                self.stat_update("total")
                yield Document(text=document.text, id=identity, metadata={"set": segment.item.key} if self.name_sets else {})
            source.require_unchanged(segment.item)
        for prefix, counts in ((SKIPPED, skipped.counts), (REPLACED, skipped.replaced)):
            for reason, count in counts.items():
                self.stat_update(f"{prefix}{reason}", value=count)


class RankReader(JsonlReader):
    """The file that the task of this rank wrote, if it wrote one: MinHash knows documents by rank and position."""

    def run(self, data: Documents | None = None, rank: int = 0, world_size: int = 1) -> Documents:
        """The file's documents."""
        name = f"{rank:05d}.jsonl.zst"
        if self.data_folder.isfile(name):
            yield from self.read_files_shard([name])


class EvaluationIndex(PipelineStep):
    """The n-grams of evaluation sets, from documents. datatrove's indexer itself runs only with lighteval, whose tasks are downloads."""

    name = "evaluation sets"
    type = "DECONT"

    def __init__(self, output_folder: str, config: NGramsDecontConfig, language: str) -> None:
        super().__init__()
        self.output_folder, self.config = get_datafolder(output_folder), config
        self.tokenizer = load_word_tokenizer(language)
        self.hash_func = create_hash_func(config.hash_config)

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> None:
        """Write the index in the form that NGramsDecontFilter reads: one file of hashes per evaluation set."""
        sets: dict[str, set[int]] = {}
        for document in data:
            found = NGramsDecontIndexer.compute_hashes(self, document.text)
            sets.setdefault(document.metadata["set"], set()).update(found)
            self.stat_update("total")
            if not found:
                self.stat_update("too_short")
        for name, hashes in sets.items():
            self.stat_update("ngrams", value=len(hashes))
            with self.output_folder.open(f"{name.replace('/', '__')}.index.hashes", mode="wb") as file:
                file.write(np.array(sorted(hashes), dtype=self.config.hash_config.np_descr).tobytes())


class LocalModel(FastTextLID):
    """A fastText model from a local file, where datatrove's own classes download theirs."""

    def __init__(self, path: Path, languages: list[str]) -> None:
        super().__init__(languages)
        self.path = path
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The loaded model, once per process."""
        if self._model is None:
            from fasttext.FastText import _FastText

            try:
                self._model = _FastText(str(self.path))
            except (ValueError, MemoryError) as error:
                raise BadInput(
                    f"data.corpus.language_filter.model is no fastText model ({str(error)[-100:]}); name a .bin or .ftz file"
                ) from None
        return self._model


def language_filter(model: Path, languages: list[str], min_score: float) -> Any:
    """datatrove's LanguageFilter with a model from a file; its backend ft176 takes labels as the model has them."""
    step = LanguageFilter(languages=languages, language_threshold=min_score, backend="ft176")
    step.model = LocalModel(model, languages)
    return step
