"""DataSpec: what text becomes which token shards. Owned by data_prep; part of every run's input.

Everything above the line ``compute settings`` is part of a source's data fingerprint, weights, epochs and curriculum aside: a change
results in other shards. The compute settings only choose the instances that make them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from contracts.config import Bounds, Json, Problem, one_or_more, to_json
from contracts.mixture import MixedSource, mixture_problems
from data_prep.corpus_spec import CorpusSpec
from data_prep.places import PROCESSING_TYPE, SOURCE, TOKENIZER_SOURCE

FINGERPRINT_EXCLUDES = frozenset(
    {"sources", "corpus", "instance_type", "instance_count", "volume_size_gb", "max_runtime_seconds", "workers_per_instance"}
)

BadText = Literal["fail", "skip", "replace"]


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """Train a byte-level BPE with Llama-3's pre-tokenisation pattern on the source itself."""

    vocab_size: Annotated[int, Bounds(300, 262_144)] = 4096
    """Entries of the vocabulary, special tokens included (256 bytes and the specials are always in it)."""
    sample_bytes: Annotated[int, Bounds(1 << 16, 1 << 34)] = 32 << 20
    """How much text is read for it, in UTF-8 bytes, taken evenly over the source's objects."""


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """Exactly one of ``uri`` and ``train``."""

    uri: Annotated[str, TOKENIZER_SOURCE] | None = None
    """A Hugging Face ``tokenizer.json``: ``hf://OWNER/NAME@COMMIT``, an s3:// URI, a local path, or a key in the own bucket."""
    train: TokenizerTraining | None = None
    """Train one on the source instead."""
    bos_token: str | None = None
    """Token that opens a document; null finds it (``<|begin_of_text|>``, ``<s>``, tokenizer_config.json)."""
    eos_token: str | None = None
    """Token that closes a document; null finds it (``<|end_of_text|>``, ``</s>``, tokenizer_config.json)."""

    def check(self) -> Iterator[Problem]:
        """Exactly one way to get a tokenizer."""
        if (self.uri is None) == (self.train is None):
            yield Problem("", 'give exactly one of "uri" and "train"')


@dataclass(frozen=True, kw_only=True)
class SourceFields:
    """What belongs to one source: where its text is, and how it is read."""

    source: Annotated[str, SOURCE] | None = None
    """Where the text is: ``s3://bucket/prefix/``, ``hf://datasets/OWNER/NAME@COMMIT``, a local folder, or a prefix in the
    own bucket (``source/mytext/``)."""
    include: tuple[str, ...] = ()
    """Globs on the path below the source; empty takes every object with a known ending."""
    format: Literal["auto", "jsonl", "parquet", "text", "csv", "tsv", "arrow"] = "auto"
    """``auto`` goes by the ending: .jsonl .json .ndjson (one object per line), .csv .tsv (with a header), .txt .md (one document each), all
    plain or with .gz .zst .zstd .xz .bz2; .parquet; .arrow .feather .ipc. Other files are left out and counted."""
    text_field: Annotated[str, one_or_more(256)] = "text"
    """Field or column that holds the text; ``meta.body`` is the field ``body`` inside ``meta``, unless a field has that very name."""
    id_field: str | None = None
    """Field or column that names a document in messages; null uses object and position."""
    invalid_utf8: BadText = "fail"
    """Bytes that are no UTF-8: stop, skip the document, or put U+FFFD in their place and count it. A file in UTF-16 is skipped or stops."""
    lone_surrogates: BadText = "replace"
    """JSON escapes such as \\ud800 that no UTF-8 can hold: stop, skip the document, or put U+FFFD in their place and count it."""
    empty_documents: Literal["fail", "skip"] = "skip"
    """Documents without text."""
    max_document_bytes: Annotated[int, Bounds(1, 1 << 30)] = 16 << 20
    """Longest document in UTF-8 bytes; bounds the memory of a worker."""
    long_documents: Literal["fail", "skip"] = "fail"
    """Documents longer than that."""
    max_line_bytes: Annotated[int, Bounds(2, 1 << 30)] = 64 << 20
    """Longest JSONL line, or all lines of a CSV row, in bytes; a longer one counts as a corrupt record. Bounds the memory of a worker."""
    corrupt_records: Literal["fail", "skip"] = "fail"
    """Lines that are no JSON object, rows without the text field, overlong lines: stop, or skip and count. A damaged CSV row costs its
    first line; the lines after it are read as rows again."""
    max_skipped_share: Annotated[float, Bounds(0.0, 1.0)] = 0.001
    """With a ``skip`` policy: the job fails when more than this share of the documents was skipped; empty ones and duplicates do not
    count."""
    deduplicate: Literal["none", "exact"] = "none"
    """``exact`` keeps the first of all documents whose texts are equal byte for byte (128-bit BLAKE2b), by key and then by line or row, and
    counts the others. It reads the source twice. The sources of a mixture are not compared with each other."""

    @property
    def reading(self) -> Json:
        """These settings, by name."""
        return {name: getattr(self, name) for name in SOURCE_FIELDS}

    @property
    def source_uri(self) -> str:
        """``source``, where the spec is one source's."""
        if self.source is None:
            raise ValueError("a mixture has no source of its own; take each of source_specs")
        return self.source


@dataclass(frozen=True, kw_only=True)
class SourceSpec(SourceFields, MixedSource):
    """One source of a mixture: its name, its part in the mixture, and how it is read. What it leaves out is taken from ``data``."""

    corpus: bool = True
    """Whether ``data.corpus`` is carried out on it; false leaves this source as it is."""

    def check(self) -> Iterator[Problem]:
        """A source is somewhere; weight or epochs."""
        if self.source is None:
            yield Problem("source", "is required")
        yield from super().check()


@dataclass(frozen=True, kw_only=True)
class DataSpec(SourceFields):
    """One text source or a mixture of several, one tokenizer, every policy explicit."""

    sources: tuple[SourceSpec, ...] = ()
    """Several sources in the place of ``source``, 16 at most: each has a name, a weight or epochs, and any of the settings above,
    which otherwise are as given here. Shards are made once per source; another weight makes none anew."""
    corpus: CorpusSpec | None = None
    """Steps between source and tokenizer, by datatrove in a job of its own: near-duplicates, language, quality, contamination; null
    tokenises the source as it is. Each source of a mixture goes through them by itself."""
    tokenizer: TokenizerSpec
    """How text becomes token ids."""
    validation_share: Annotated[float, Bounds(0.0, 0.5)] = 0.005
    """Share of documents held out, chosen by a 128-bit hash of the text, so that it does not depend on file order."""
    shard_tokens: Annotated[int, Bounds(1024, 1 << 31)] = 64_000_000
    """Tokens after which a shard is closed: 64 M are 128 MB (uint16) or 256 MB (uint32), the size S3 and FastFile read well."""
    tokenizer_loss: Literal["count", "skip", "fail"] = "count"
    """Documents whose tokens do not decode to their text, after the tokenizer's own normalisation (an unknown character under BPE
    without byte fallback): keep and count, skip and count, or stop. One whose text becomes BOS or EOS is skipped and counted, or stops."""
    max_tokenizer_loss_share: Annotated[float, Bounds(0.0, 1.0)] = 0.001
    """With ``count``: the job fails when more than this share of the documents does not decode to its text."""
    encoder: Literal["auto", "huggingface"] = "auto"
    """``auto`` uses fastokens where it proves equal to Hugging Face tokenizers; ``huggingface`` forces the reference."""
    # -- compute settings: not part of the fingerprint -----------------------------------------------
    instance_type: Annotated[str, PROCESSING_TYPE] = "ml.c7i.8xlarge"
    """SageMaker processing instance type (p5 is none)."""
    instance_count: Annotated[int, Bounds(1, 100)] = 1
    """Processing instances; each takes its share of the parts."""
    volume_size_gb: Annotated[int, Bounds(1, 16_384)] = 100
    """Disk of each instance in GB; holds the parts in work, not the source."""
    max_runtime_seconds: Annotated[int, Bounds(60, 432_000)] = 86_400
    """The job is stopped after this (5 days is SageMaker's limit for processing)."""
    workers_per_instance: Annotated[int, Bounds(0, 512)] = 0
    """Processes per instance; 0 takes one per core."""

    def check(self) -> Iterator[Problem]:
        """Text comes from one source or from a mixture."""
        if (self.source is None) == (not self.sources):
            yield Problem("", 'give exactly one of "source" and "sources"')
        for problem in mixture_problems(self.sources):
            yield Problem(f"sources{problem.path}", problem.message)

    @property
    def uris(self) -> dict[str, str]:
        """Every place that is read: of each source, and of a tokenizer that is not trained, by its dotted path in the input."""
        found = {f"data.sources[{i}].source": source.source_uri for i, source in enumerate(self.sources)}
        found |= {} if self.source is None else {"data.source": self.source}
        found |= {} if self.corpus is None else {f"data.corpus.{path}": uri for path, uri in self.corpus.uris.items()}
        return found | ({} if self.tokenizer.uri is None else {"data.tokenizer.uri": self.tokenizer.uri})

    @property
    def source_specs(self) -> dict[str, DataSpec]:
        """A spec of its own for each source, by name, in order; the one of a run without mixture has an empty name."""
        if not self.sources:
            return {"": self}
        return {
            source.name: replace(self, sources=(), corpus=self.corpus if source.corpus else None, **source.reading)
            for source in self.sources
        }


SOURCE_FIELDS = tuple(field.name for field in fields(SourceFields))
"""Settings that a source of a mixture may have of its own."""


def with_source_defaults(data: Json) -> Json:
    """``data`` as written, each source of a mixture completed with what ``data`` itself says."""
    sources = data.get("sources")
    if not isinstance(sources, list):
        return data
    common = {name: data[name] for name in SOURCE_FIELDS if name in data and name != "source"}
    return data | {"sources": [common | source if isinstance(source, dict) else source for source in sources]}


def fingerprinted(spec: DataSpec) -> Json:
    """The part of one source's spec that decides what the shards hold, as JSON. What came later is in it only when it is used."""
    facts = {key: value for key, value in to_json(spec).items() if key not in FINGERPRINT_EXCLUDES}
    return {key: value for key, value in facts.items() if (key, value) != ("deduplicate", "none")}
