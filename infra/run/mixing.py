"""What a mixture comes to in one leg: tokens, shares and epochs of each source, as far as they are known before training. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.config import Json
from contracts.mixture import LegSamples, first_steps, leg_stages, samples_by_source, samples_of
from data_prep.spec import DataSpec
from training.spec import TrainingSpec, tokens_per_step, total_steps


@dataclass(frozen=True, kw_only=True)
class SourceShare:
    """One source in one leg."""

    name: str
    shares: tuple[tuple[int, float], ...]
    """First step and share of the tokens from it on."""
    tokens: int
    """Tokens of it that the leg is trained on, over the whole run."""
    epochs: float | None
    """Passes that this makes; None while the source's size is not known."""

    def as_value(self) -> Json:
        """For --json."""
        shares = [{"from_step": step, "share": round(share, 6)} for step, share in self.shares]
        return {
            "name": self.name,
            "shares": shares,
            "tokens": self.tokens,
            "epochs": None if self.epochs is None else round(self.epochs, 4),
        }


def leg_samples(name: str, training: TrainingSpec, hosts: int) -> LegSamples:
    """How much a leg reads."""
    length = training.sequence_length
    per_step = tokens_per_step(training, hosts) // length
    return LegSamples(leg=name, steps=total_steps(training, hosts), samples_per_step=per_step, sequence_length=length)


def leg_mixture(
    data: DataSpec, training: TrainingSpec, hosts: int, training_tokens: Sequence[int | None]
) -> tuple[SourceShare, ...] | None:
    """Each source's part, in the order of ``data.sources``; None without mixture, and while the sizes that epochs depend on are not known.

    Args:
        data: the run's sources.
        training: the leg's settings.
        hosts: instances of the training job.
        training_tokens: of each source's data set; None where that is not prepared yet.

    Raises:
        MixtureError: the sources cannot be mixed so in the leg's steps.
    """
    sources, length = data.sources, training.sequence_length
    made = leg_stages(sources, training_tokens, leg_samples("", training, hosts)) if sources else None
    if made is None:
        return None
    counts = samples_by_source(sources, made)
    found = []
    for i, source in enumerate(sources):
        samples, size = counts[i], samples_of(training_tokens[i] or 0, length)
        shares = tuple((stage.from_step, float(stage.shares[i])) for stage in made if stage.samples or stage.from_step == 1)
        epochs = samples / size if size else None
        found.append(SourceShare(name=source.name, shares=shares, tokens=samples * length, epochs=epochs))
    return tuple(found)


def unreached_steps(data: DataSpec, training: TrainingSpec, hosts: int) -> list[int]:
    """Steps of a curriculum that lie after the leg's last one."""
    last = total_steps(training, hosts)
    return [step for step in first_steps(data.sources) if step > max(1, last)]
