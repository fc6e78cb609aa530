"""Whether legs can begin where ``training.initial`` says: shape, tokenizer and checkpoint against the run's settings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from contracts.config import Problem, to_json
from contracts.llama_config import config_problems, tokenizer_problem, weight_problems
from contracts.mixture import MixedSource
from infra.admit.continued import INPUT_PATHS
from infra.admit.start import Start
from infra.run.run_record import shown
from infra.run.run_spec import SINGLE_LEG, Leg, RunSpec
from training.initial import optimizer_differences, other_leg
from training.leg_identity import differences, leg_identity


@dataclass(frozen=True, kw_only=True)
class Against:
    """What starts are compared with, beside the legs' settings."""

    hosts: int
    run_id: str | None
    """None where it is not known yet."""
    fingerprint: str | None
    """Of the run's tokens; None where it is not known."""
    sources: tuple[MixedSource, ...]
    """Of the run's mixture."""
    tokenizer: bytes | None
    """The run's tokenizer.json; None where it is not known before preparation."""


def start_problems(spec: RunSpec, starts: Mapping[str, Start], against: Against) -> Iterator[Problem]:
    """Every reason why a leg cannot begin where it should, with the setting that would fit."""
    for leg in spec.legs:
        start = starts.get(leg.name)
        if start is not None:
            path = "training" if leg.name == SINGLE_LEG else f"legs.{leg.name}.training"
            yield from (Problem(f"{path}.{problem.path}", problem.message) for problem in _problems(leg, start, against))


def _problems(leg: Leg, start: Start, against: Against) -> Iterator[Problem]:
    """Paths are below ``training``."""
    named = other_leg(start.source)
    if named is not None and (named.run, named.leg) == (against.run_id, leg.name):
        yield Problem("initial", f"{start.source} is this very leg, which goes on from its own checkpoints anyway; choose another run_id")
    elif start.refused is not None:
        yield Problem("initial", start.refused)
    elif start.weights is not None:
        model = to_json(leg.training.model)
        yield from list(config_problems(start.weights.config, model)) or weight_problems(start.weights, model)
        if against.tokenizer is not None and start.tokenizer is not None:
            problem = tokenizer_problem(start.tokenizer, against.tokenizer)
            yield from [] if problem is None else [problem]
    elif start.manifest is not None:
        yield from _checkpoint_problems(leg, start, start.manifest.leg, against)


def _checkpoint_problems(leg: Leg, start: Start, saved: dict[str, object], against: Against) -> Iterator[Problem]:
    """A cool-down keeps model, data order and optimiser of the training that it ends."""
    data, training = (value if isinstance(value := saved.get(key), dict) else {} for key in ("data", "training"))
    known = against.fingerprint or str(data.get("fingerprint"))
    wanted = leg_identity(leg.training, known, against.hosts, against.sources, initial=start.record)
    for path, old, new in differences({**saved, "initial": start.record}, wanted):
        if path == "data.fingerprint":
            fix = "take that run's data settings, or begin from its export: a checkpoint keeps the order of its data"
            yield Problem(
                "initial", f"{start.source} was trained on tokens {old}, and this source, tokenizer and settings make {new}; {fix}"
            )
            continue
        what = "tokens per step " if path == "data.tokens_per_step" else ""
        where = INPUT_PATHS.get(path, path).removeprefix("training.")
        yield Problem(
            where, f"{start.source} was trained with {what}{shown(old)}, and this input has {shown(new)}; go back to {shown(old)}"
        )
    yield from optimizer_differences(training.get("optimizer"), to_json(leg.training.optimizer))
