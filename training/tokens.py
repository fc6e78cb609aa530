"""The job's token shards, one folder for each source, and the mixture that is made of them. No torch.

    /opt/ml/input/data/tokens/                     a run with one source
    /opt/ml/input/data/tokens-web/, tokens-code/   a mixture: one channel for each source

Whatever of the job needs shards or tokenizer files gets their place here. All sources have one tokenizer and one token type.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.config import SpecError
from contracts.mixture import MixtureError, SourceTokens, read_mixture, read_tokens, require_sequences, samples_of, stages
from contracts.shard_index import ShardIndex, TokenizerFacts, read_index
from training.failure_classes import BadInput, TokensMismatch
from training.leg_job import LegJob
from training.mixture_order import Mixture, Stage


@dataclass(frozen=True, kw_only=True)
class TokenSource:
    """One source's shards on this host."""

    name: str
    """In the mixture; empty in a run with one source."""
    fingerprint: str
    """What run.json says that the shards are."""
    folder: Path
    """The folder of index.json."""
    index: ShardIndex

    @property
    def channel(self) -> str:
        """As a sentence names it."""
        return f"{self.folder.name} channel"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Everything that a leg trains on."""

    sources: tuple[TokenSource, ...]
    """By name, so that the order in which they were written changes nothing. At least one."""

    @property
    def is_mixture(self) -> bool:
        """Whether the sources have names and shares; a mixture may have one source."""
        return bool(self.sources[0].name)

    @property
    def folder(self) -> Path:
        """A folder with the tokenizer's files, which every source has."""
        return self.sources[0].folder

    @property
    def tokenizer(self) -> TokenizerFacts:
        """Of every source."""
        return self.sources[0].index.tokenizer

    @property
    def train_tokens(self) -> int:
        """One pass over the training split of every source."""
        return sum(source.index.splits["train"].tokens for source in self.sources)

    def validated(self, sequence_length: int) -> tuple[TokenSource, ...]:
        """Sources whose held-out split fills a sample."""
        return tuple(source for source in self.sources if source.index.splits["validation"].tokens > sequence_length)

    @property
    def unigram_entropy(self) -> float | None:
        """Of the held-out tokens in nats; with several sources the mean, as the validation loss is."""
        known = [source.index.splits["validation"].unigram_entropy_nats for source in self.sources]
        return statistics.fmean(value for value in known if value is not None) if any(value is not None for value in known) else None


def job_tokens(job: LegJob) -> Tokens:
    """The sources that run.json names, with the index of each.

    Raises:
        BadInput: run.json does not say which sources there are.
        CorruptShard: an index is missing or does not read.
        TokensMismatch: the sources have different tokenizers or token types.
    """
    try:
        named = sorted(read_tokens(job.run), key=lambda source: source.name)
    except SpecError as error:
        raise BadInput(f"run.json cannot be used by this image: {error}") from error
    tokens = Tokens(sources=tuple(_source(job, source) for source in named))
    _refuse_differences(tokens)
    return tokens


def _source(job: LegJob, source: SourceTokens) -> TokenSource:
    folder = job.channels / source.channel
    return TokenSource(name=source.name, fingerprint=source.fingerprint, folder=folder, index=read_index(folder))


def _refuse_differences(tokens: Tokens) -> None:
    """A model has one embedding: an id must mean one token in all sources."""

    def facts(index: ShardIndex) -> dict[str, Any]:
        tokenizer = index.tokenizer
        return {
            "tokenizer": tokenizer.sha256[:12],
            "vocabulary size": tokenizer.vocab_size,
            "BOS id": tokenizer.bos_id,
            "EOS id": tokenizer.eos_id,
            "token type": index.dtype,
        }

    first = tokens.sources[0]
    for other in tokens.sources[1:]:
        for what, value in facts(other.index).items():
            if value != facts(first.index)[what]:
                raise TokensMismatch(
                    f"the {what} of source {first.name} is {facts(first.index)[what]} and that of source {other.name} is {value}: "
                    "prepare all sources of a mixture with one tokenizer"
                )


def job_mixture(job: LegJob, tokens: Tokens) -> Mixture | None:
    """The mixture of the leg's training samples; None in a run with one source.

    Raises:
        BadInput: the sources do not come to a mixture over this leg's steps.
    """
    try:
        mixed = sorted(read_mixture(job.run), key=lambda source: source.name)
    except SpecError as error:
        raise BadInput(f"run.json cannot be used by this image: {error}") from error
    if not mixed:
        return None
    names = [source.name for source in tokens.sources]
    if [source.name for source in mixed] != names:
        raise BadInput(f"run.json mixes {', '.join(s.name for s in mixed)} and names the tokens of {', '.join(names)}; start the run again")
    length = job.spec.sequence_length
    sizes = [source.index.splits["train"].tokens for source in tokens.sources]
    available = [samples_of(size, length) for size in sizes]
    try:
        require_sequences(mixed, sizes, length)
        found = stages(mixed, available, steps=job.steps, samples_per_step=job.tokens_per_step // length)
    except MixtureError as error:
        raise BadInput(f"data.sources does not come to a mixture: {error}") from None
    folders = {source.name: str(source.folder) for source in tokens.sources}
    whole = []
    for stage in found:
        scale = math.lcm(*(share.denominator for share in stage.shares))
        whole.append(Stage(first=stage.first, weights=tuple(int(share * scale) for share in stage.shares)))
    return Mixture(folders=folders, stages=tuple(whole))
