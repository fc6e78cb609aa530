"""data.corpus as datatrove pipelines: which block carries out which setting, with which parameters.

evaluation   (one task)         evaluation sets -> n-grams
clean        (a task per part)  source -> filters -> clean/00012.jsonl.zst, and MinHash signatures
pairs        (a task per band)  signatures -> pairs of documents with a band in common
clusters     (one task)         pairs -> which documents to leave out
documents    (a task per part)  clean/ without those -> documents/00012.jsonl.zst
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig

from corpus.steps import EvaluationIndex, RankReader, SourceReader, language_filter
from data_prep.corpus_spec import CorpusSpec, NearDuplicates

Step = Any
"""A block of datatrove, which declares no types."""
CLEAN, DOCUMENTS, SIGNATURES, PAIRS, REMOVE, EVALUATION, MODEL = (
    *("clean", "documents", "signatures", "pairs", "remove", "evaluation", "model.bin"),
)
"""Folders and files of the work folder."""
SHA1 = HashConfig(hash_fc="sha1")  # datatrove's other choice, xxhash, is called with text, which xxhash 4 refuses
BUFFERED_RECORDS = 1000  # of a signature file, 68 KB: datatrove's own 5 read 340 bytes at a time


def filters(spec: CorpusSpec, work: Path) -> dict[str, Step]:
    """The blocks that judge single documents, by their setting, in order."""
    found: dict[str, Step] = {}
    language = spec.language
    if spec.language_filter is not None:
        chosen = spec.language_filter
        found["language_filter"] = language_filter(work / MODEL, list(chosen.keep), chosen.min_score)
    if spec.gopher_repetition:
        found["gopher_repetition"] = GopherRepetitionFilter(language=language)
    if (gopher := spec.gopher_quality) is not None:
        found["gopher_quality"] = GopherQualityFilter(
            min_doc_words=gopher.min_words, max_doc_words=gopher.max_words, min_stop_words=gopher.min_stop_words, language=language
        )
    if (c4 := spec.c4_quality) is not None:
        found["c4_quality"] = C4QualityFilter(
            filter_no_terminal_punct=c4.terminal_punctuation, min_num_sentences=c4.min_sentences or -1,
            filter_curly_bracket=c4.curly_brackets, language=language,
        )  # fmt: skip
    if spec.fineweb_quality:
        found["fineweb_quality"] = FineWebQualityFilter(language=language)
    if spec.decontamination is not None:
        config = NGramsDecontConfig(n_grams=spec.decontamination.n_grams, hash_config=SHA1)
        found["decontamination"] = NGramsDecontFilter(str(work / EVALUATION), config, language=language)
    return found


def evaluation(spec: CorpusSpec, source: SourceReader, work: Path) -> list[Step]:
    """Evaluation sets to their n-grams."""
    if spec.decontamination is None:
        raise ValueError("no evaluation sets are given")
    config = NGramsDecontConfig(n_grams=spec.decontamination.n_grams, hash_config=SHA1)
    return [source, EvaluationIndex(str(work / EVALUATION), config, spec.language)]


def clean(spec: CorpusSpec, source: SourceReader, work: Path) -> list[Step]:
    """One pass over the source: filters, the documents they leave, and those documents' signatures."""
    steps = [source, *filters(spec, work).values(), _writer(work / CLEAN)]
    if spec.near_duplicates is not None:
        steps.append(MinhashDedupSignature(str(work / SIGNATURES), _minhash(spec.near_duplicates), language=spec.language))
    return steps


def pairs(spec: NearDuplicates, work: Path) -> list[Step]:
    """Documents that share a band."""
    folders = str(work / SIGNATURES), str(work / PAIRS)
    return [MinhashDedupBuckets(*folders, config=_minhash(spec), lines_to_buffer=BUFFERED_RECORDS)]


def clusters(spec: NearDuplicates, work: Path) -> list[Step]:
    """All documents of a cluster but one."""
    folders = str(work / PAIRS), str(work / REMOVE)
    return [MinhashDedupCluster(*folders, config=_minhash(spec), lines_to_buffer=BUFFERED_RECORDS)]


def documents(work: Path) -> list[Step]:
    """The cleaned documents without near-duplicates."""
    return [RankReader(str(work / CLEAN), add_file_path=False), MinhashDedupFilter(str(work / REMOVE)), _writer(work / DOCUMENTS)]


def _writer(folder: Path) -> Step:
    return JsonlWriter(str(folder), compression="zstd")


def _minhash(spec: NearDuplicates) -> MinhashConfig:
    return MinhashConfig(
        n_grams=spec.n_grams, num_buckets=spec.buckets, hashes_per_bucket=spec.hashes_per_bucket, seed=spec.seed, hash_config=SHA1
    )
