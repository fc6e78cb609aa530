"""A mixture: several named sources, how much of each is trained on, and from which step on that changes. Standard library only.

People write it as ``data.sources`` (data_prep/spec.py); Admit and `pretrain plan` show what it comes to, and the loader reads it
from run.json. Shards are prepared once per source and hold nothing of the mixture.

    stages([MixedSource(name="web", weight=3), MixedSource(name="code", weight=1)], [800, 90], steps=100, samples_per_step=8)
    -> (Stage(from_step=1, first=0, samples=800, shares=(3/4, 1/4)),)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from contracts.config import Bounds, Json, Pattern, Problem, parse
from contracts.files import tokens_channel
from contracts.metric_line import LAST_STEP

SOURCE_NAME = Pattern(r"[a-z0-9]([a-z0-9_-]{0,22}[a-z0-9])?", "a source's name: 1 to 24 lower-case letters, digits, _ and -")
MAX_SOURCES = 16
"""A training job has at most 20 channels (CreateTrainingJob); two more bring run.json and a checkpoint."""
Weight = Annotated[float, Bounds(0, 1e9)]


class MixtureError(ValueError):
    """The mixture cannot be made of these sources in so many steps; one sentence."""


@dataclass(frozen=True, kw_only=True)
class CurriculumStep:
    """A change of one source's weight."""

    from_step: Annotated[int, Bounds(2, LAST_STEP)]
    """First step with the new weight; step 1 is a run's first."""
    weight: Weight
    """Weight from that step on."""


@dataclass(frozen=True, kw_only=True)
class MixedSource:
    """One source's name and its part in the mixture."""

    name: Annotated[str, SOURCE_NAME]
    """Names the source in metrics and report; two sources have two names."""
    weight: Weight | None = None
    """Its share of the tokens, relative to the sum of all weights; at every sample of the run, through all changes of a curriculum, it is
    less than one sample from it. A run that is continued may have other weights: they count from its checkpoint on. Give exactly one of
    ``weight`` and ``epochs``."""
    epochs: Annotated[float, Bounds(0, 1e6)] | None = None
    """How many passes over it the whole run makes; the sources with weights share the rest. Where every source has ``epochs``, they
    are relative: the shares follow from the sizes, and the run's steps decide how many passes it comes to."""
    curriculum: tuple[CurriculumStep, ...] = ()
    """Other weights from later steps on, each until the next: [{"from_step": 8000, "weight": 0.5}]. Where a weight becomes 0, the part of
    a sample that is still owed may come as one sample later."""

    def check(self) -> Iterator[Problem]:
        """Exactly one measure; steps of the curriculum rise."""
        if (self.weight is None) == (self.epochs is None):
            yield Problem("", 'give exactly one of "weight" and "epochs"')
        if self.epochs == 0:
            yield Problem("epochs", "0 passes read nothing; leave the source out")
        if self.curriculum and self.epochs is not None:
            yield Problem("curriculum", "it changes weights, and this source has epochs; give it a weight, or leave the curriculum out")
        for number, (one, two) in enumerate(zip(self.curriculum, self.curriculum[1:], strict=False), 1):
            if two.from_step <= one.from_step:
                message = f"{two.from_step} does not come after {one.from_step}, the entry before; order the entries by step"
                yield Problem(f"curriculum[{number}].from_step", message)
        if self.weight == 0 and not any(change.weight for change in self.curriculum):
            yield Problem("weight", "it is 0 in every step, so the source would be prepared and never read; leave it out")

    def weight_at(self, step: int) -> Fraction:
        """Weight in a step, as the decimal number that was written; 0 for a source with epochs."""
        weight = self.weight or 0.0
        for change in self.curriculum:
            weight = change.weight if change.from_step <= step else weight
        return _exact(weight)


@dataclass(frozen=True, kw_only=True)
class SourceTokens:
    """One source's finished shards, as run.json names them."""

    name: str
    """The source's name; empty for the one of a run without mixture."""
    fingerprint: str
    """Its data fingerprint."""
    uri: str
    """Its folder in S3."""

    @property
    def channel(self) -> str:
        """The training job's channel that holds them: a folder below /opt/ml/input/data."""
        return tokens_channel(self.name)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A range of steps with the same weights. Tuples are in the order of the sources."""

    from_step: int
    """Its first step; 1 in the first stage."""
    first: int
    """Its first sample among all of the run, from 0."""
    samples: int
    """0 of a stage that begins after the run's last step: the run may be continued into it."""
    shares: tuple[Fraction, ...]
    """What was asked for; the sum is 1."""


@dataclass(frozen=True, kw_only=True)
class LegSamples:
    """How much a leg reads, over all ranks: all that its mixture depends on beside the sources."""

    leg: str
    steps: Annotated[int, Bounds(0, LAST_STEP)]
    samples_per_step: Annotated[int, Bounds(1)]
    sequence_length: Annotated[int, Bounds(1)]


def mixture_problems(sources: Sequence[MixedSource]) -> Iterator[Problem]:
    """What is wrong with a mixture whatever the sources hold; paths are below the list of sources."""
    if len(sources) > MAX_SOURCES:
        yield Problem("", f"{len(sources)} sources are more than the {MAX_SOURCES} that a training job has channels for; join some of them")
    names = [source.name for source in sources]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("", f'the name "{name}" is used {names.count(name)} times; each source needs its own')
    weighted = [source for source in sources if source.epochs is None]
    for step in first_steps(sources) if weighted else ():
        if not any(source.weight_at(step) for source in weighted):
            yield Problem("", f"every weight is 0 from step {step} on; give at least one source a weight there")


def first_steps(sources: Sequence[MixedSource]) -> list[int]:
    """Steps at which a stage begins: 1, and every step of a curriculum."""
    return sorted({1, *(change.from_step for source in sources for change in source.curriculum)})


def samples_of(tokens: int, sequence_length: int) -> int:
    """Samples of one pass over so many tokens: each is a sequence and its labels, one token on; the last may be short."""
    return -(-(tokens - 1) // sequence_length) if tokens else 0


def require_sequences(sources: Sequence[MixedSource], tokens: Sequence[int | None], sequence_length: int) -> None:
    """Every source fills a sequence with its training tokens (None: not known yet): of a shorter one each sample would be the same.

    Raises:
        MixtureError: one does not.
    """
    for source, count in zip(sources, tokens, strict=True):
        if count is not None and count <= sequence_length:
            fix = "add text to it, leave it out of data.sources, or lower training.sequence_length"
            raise MixtureError(f"source {source.name} holds {count:,} training tokens, not one sequence of {sequence_length:,}; {fix}")


def stages(sources: Sequence[MixedSource], available: Sequence[int | None], *, steps: int, samples_per_step: int) -> tuple[Stage, ...]:
    """What is asked of every source, stage by stage. The order of the sources changes nothing.

    Args:
        sources: at least one, without ``mixture_problems``.
        available: samples of one pass over each source, at least one; None where that is not known yet, which a source with epochs needs.
        steps: the run's last step.
        samples_per_step: samples of one step over all ranks.

    Raises:
        MixtureError: the sources' epochs are more than the run's steps, or leave a rest that nothing fills.
    """
    total = steps * samples_per_step
    fixed = _epoch_shares(sources, available, total)
    begins = first_steps(sources)
    found = []
    for step, following in zip(begins, [*begins[1:], LAST_STEP + 1], strict=True):
        samples = max(0, min(following - 1, steps) - step + 1) * samples_per_step
        shares = _shares(sources, fixed, step)
        found.append(Stage(from_step=step, first=(step - 1) * samples_per_step, samples=samples, shares=shares))
    return tuple(found)


def samples_by_source(sources: Sequence[MixedSource], made: Sequence[Stage]) -> tuple[int, ...]:
    """Samples of each source in the whole run: its shares of all stages, rounded up or down to the run's number of samples."""
    quotas = [sum((stage.shares[i] * stage.samples for stage in made), Fraction(0)) for i in range(len(sources))]
    counts = [quota.numerator // quota.denominator for quota in quotas]
    remainders = [quota - count for quota, count in zip(quotas, counts, strict=True)]
    order = sorted(range(len(sources)), key=lambda i: (-remainders[i], sources[i].name))
    for i in order[: int(sum(remainders))]:
        counts[i] += 1
    return tuple(counts)


def leg_stages(sources: Sequence[MixedSource], tokens: Sequence[int | None], leg: LegSamples) -> tuple[Stage, ...] | None:
    """``stages`` of a leg, from the sources' training tokens (None: not prepared yet); None while a size that epochs need is not known.

    Raises:
        MixtureError: the sources cannot be mixed so.
    """
    if any(source.epochs is not None and count is None for source, count in zip(sources, tokens, strict=True)):
        return None
    require_sequences(sources, tokens, leg.sequence_length)
    sizes = [None if count is None else samples_of(count, leg.sequence_length) for count in tokens]
    return stages(sources, sizes, steps=leg.steps, samples_per_step=leg.samples_per_step)


def refusals(sources: Sequence[MixedSource], tokens: Sequence[int | None], legs: Sequence[LegSamples]) -> Iterator[str]:
    """Why legs cannot be trained on the mixture, one sentence for all that share it."""
    told: dict[str, list[str]] = {}
    for leg in legs:
        try:
            leg_stages(sources, tokens, leg)
        except MixtureError as error:
            told.setdefault(str(error), []).append(leg.leg)
    for sentence, names in told.items():
        yield sentence if len(names) == len(legs) else f"leg {', '.join(names)}: {sentence}"


def _epoch_shares(sources: Sequence[MixedSource], available: Sequence[int | None], total: int) -> list[Fraction]:
    """Share of each source that its epochs fix; 0 for those with a weight."""
    wanted = [_passes(source, size) for source, size in zip(sources, available, strict=True)]
    if any(source.epochs is None for source in sources):
        if sum(wanted) > total:
            parts = ", ".join(f"{s.name} {float(n):,.0f}" for s, n in zip(sources, wanted, strict=True) if s.epochs is not None)
            raise MixtureError(
                f"the epochs asked for are {float(sum(wanted)):,.0f} samples ({parts}), and the run has {total:,}; "
                "ask for fewer epochs, or train more steps"
            )
        return [share / max(1, total) for share in wanted]
    return [share / sum(wanted) for share in wanted]


def _passes(source: MixedSource, size: int | None) -> Fraction:
    if source.epochs is None:
        return Fraction(0)
    if size is None:
        raise ValueError(f"the size of {source.name} is needed for its epochs")
    return _exact(source.epochs) * size


def _shares(sources: Sequence[MixedSource], fixed: Sequence[Fraction], step: int) -> tuple[Fraction, ...]:
    rest = 1 - sum(fixed)
    weights = [source.weight_at(step) for source in sources]
    whole = sum(weights)
    if rest and not whole:
        raise MixtureError(f"every weight is 0 from step {step} on, and epochs fill {float(1 - rest):.1%} of the run; give one a weight")
    return tuple(share + (rest * weight / whole if whole else 0) for share, weight in zip(fixed, weights, strict=True))


def _exact(number: float) -> Fraction:
    return Fraction(str(number))


# -- run.json --------------------------------------------------------------------------------------
#
# "data": {"sources": [{"name": "web", "weight": 3.0, "epochs": null, "curriculum": [], "source": "s3://...", ...}, ...], ...}
# "tokens": {"fingerprint": of all together, "uri": of the first,
#            "sources": [{"name": "web", "fingerprint": "...", "uri": "s3://bucket/tokens/.../"}, ...],
#            "legs": [{"leg": "main", "steps": 1000, "samples_per_step": 16, "sequence_length": 8192}]}
# A run without mixture has neither list of sources.


def read_mixture(run: Json) -> tuple[MixedSource, ...]:
    """The mixture of a run, from run.json; empty when the run has one source (``data.source``)."""
    known = ("name", "weight", "epochs", "curriculum")
    sources = (run.get("data") or {}).get("sources") or ()
    return tuple(
        parse(MixedSource, {key: source[key] for key in known if key in source}, f"data.sources[{i}]") for i, source in enumerate(sources)
    )


def read_tokens(run: Json) -> tuple[SourceTokens, ...]:
    """The finished shards of every source, in the order of ``read_mixture``; of a run without mixture one, whose name is empty."""
    tokens = run.get("tokens") or {}
    found = tokens.get("sources") or [{"name": "", "fingerprint": tokens.get("fingerprint", ""), "uri": tokens.get("uri", "")}]
    return tuple(parse(SourceTokens, source, f"tokens.sources[{i}]") for i, source in enumerate(found))


def read_legs(run: Json) -> tuple[LegSamples, ...]:
    """How much each leg of a run with a mixture reads; empty without one."""
    legs = (run.get("tokens") or {}).get("legs") or ()
    return tuple(parse(LegSamples, leg, f"tokens.legs[{i}]") for i, leg in enumerate(legs))


def mixture_fingerprint(tokens: Sequence[SourceTokens]) -> str:
    """One name for the shards of all sources: 32 hex digits, whatever their order; a lone unnamed source's own."""
    if len(tokens) == 1 and not tokens[0].name:
        return tokens[0].fingerprint
    content = sorted([source.name, source.fingerprint] for source in tokens)
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()[:32]


def mixture_identity(sources: Sequence[MixedSource], steps: int) -> Json:
    """What of a mixture a checkpoint fixes; {} for weights, which may change: new ones count from the checkpoint on, and every source
    goes on where it stood (training/loader_state.py). Epochs beside weights are a promise about the whole run, its steps included.
    """
    epochs = {source.name: source.epochs for source in sources if source.epochs is not None}
    return {"epochs": epochs, "steps": steps} if 0 < len(epochs) < len(sources) else {}
