"""The sources of a mixture, as `plan` shows them: what is there, and what each comes to in every leg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from contracts.mixture import MixtureError
from infra.admit.data_sets import DataSet
from infra.cli.screen import counted, say
from infra.run.mixing import SourceShare, leg_mixture, unreached_steps
from infra.run.run_spec import Leg, RunSpec

MANY_EPOCHS = 4
"""Up to four passes over the same text teach nearly as much as new text; later ones soon teach nothing (Muennighoff et al., "Scaling
Data-Constrained Language Models", 2023)."""
MANY_WORDS = f"passes beyond about {MANY_EPOCHS} teach little (Muennighoff et al., 2023): give it less weight, or more text."

Mixture = tuple[SourceShare, ...] | None


def mixtures(spec: RunSpec, found: Sequence[DataSet] | None) -> dict[str, Mixture]:
    """Leg -> what each source comes to; None while sizes are not known, and where a check refuses the mixture."""
    sizes = [None] * len(spec.data.sources) if found is None else [one.training_tokens for one in found]
    return {leg.name: _mixture(spec, leg, sizes) for leg in spec.legs} if spec.data.sources else {}


def _mixture(spec: RunSpec, leg: Leg, sizes: Sequence[int | None]) -> Mixture:
    try:
        return leg_mixture(spec.data, leg.training, spec.compute.instance_count, sizes)
    except MixtureError:
        return None


def show_mixture(spec: RunSpec, found: Sequence[DataSet] | None, console: Console) -> None:
    """A table of the sources for each group of legs that are mixed alike; nothing without mixture."""
    groups: dict[Mixture, list[Leg]] = {}
    for leg, mixture in zip(spec.legs, mixtures(spec, found).values(), strict=False):
        groups.setdefault(mixture, []).append(leg)
    for mixture, legs in groups.items():
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for title in ("source", "shards", "tokens there", "share", "tokens trained", "epochs"):
            table.add_column(title, justify="left" if title in ("source", "shards") else "right", overflow="fold")
        for i, source in enumerate(spec.data.sources):
            one, part = found[i] if found is not None else None, mixture[i] if mixture is not None else None
            table.add_row(
                source.name,
                "?" if one is None else "there" if one.written is not None else "to make",
                "?" if one is None or one.training_tokens is None else counted(one.training_tokens),
                _shares(part) if part is not None else f"{source.epochs:g} epochs" if source.epochs is not None else "?",
                counted(part.tokens) if part is not None else "?",
                "?" if part is None or part.epochs is None else f"{part.epochs:.3g}",
            )
        if len(groups) > 1:
            say(console, f"Mixture of {', '.join(leg.name for leg in legs)}:")
        console.print(table)
        often = [part for part in mixture or () if part.epochs is not None and part.epochs > MANY_EPOCHS]
        for part in often:
            say(console, f"{part.name} is read {part.epochs:.3g} times; {MANY_WORDS}")
        late = unreached_steps(spec.data, legs[0].training, spec.compute.instance_count)
        if late:
            say(console, f"Not reached, after the last step: the curriculum's step{'s' * (len(late) > 1)} {', '.join(map(str, late))}.")


def _shares(part: SourceShare) -> str:
    """``60%``, or ``60%, from step 51 20%``; a change that does not touch this source is left out."""
    words: list[str] = []
    last = ""
    for step, share in part.shares:
        text = f"{share:.3g}" if 0 < share < 0.001 else f"{share:.1%}"
        if text != last:
            words.append(text if not words else f"from step {step:,} {text}")
        last = text
    return ", ".join(words)


def mixture_value(spec: RunSpec, found: Sequence[DataSet] | None) -> dict[str, Any]:
    """The same for --json: sources with their shards, and their parts in each leg."""
    sources = [] if found is None else [one for one in found if one.name]
    there = [
        {"name": one.name, "fingerprint": one.identified.fingerprint, "prepared": one.written is not None, "tokens": one.training_tokens}
        for one in sources
    ]
    parts = {name: [part.as_value() for part in mixture] if mixture else None for name, mixture in mixtures(spec, found).items()}
    return {"sources": there, "legs": parts}
