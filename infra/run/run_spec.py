"""RunSpec: the input of one execution, merged with a recipe and validated. Pure Python.

{}                                                          the default recipe
{"recipe": "llama3_8b", "training": {"steps": 2000}}        one value changed
{"ablation": "reference"}                                   the reference sample's four legs, compared
{"legs": [{"name": "lr3", "training": {"optimizer": {"lr": 3e-4}}}, {"name": "lr6", ...}]}
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from contracts.config import Bounds, Json, Pattern, Problem, SpecError, deeper_than, parse, suggestion, to_json
from data_prep.spec import DataSpec, with_source_defaults
from infra.run.compute import BudgetSpec, ComputeSpec
from infra.run.recipes import RECIPES, REFERENCE_ABLATION, Recipe
from infra.run.run_id import RUN_ID_REGEX
from infra.sagemaker.instance_types import accelerators_of
from training.evaluation.spec import EvaluationSpec
from training.fit_memory import fitted
from training.spec import TrainingSpec, cluster_problems

# A job name is <run>-<leg>-<attempt> in 63 characters of [a-zA-Z0-9-] (SageMaker); job_requests shortens what is longer.
RUN_ID = Pattern(RUN_ID_REGEX, "a run id: 1 to 80 letters, digits and single hyphens inside")
SCHEDULED_TIME = Pattern(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?Z", 'a time in UTC such as "2026-01-31T06:00:00Z"')
LEG_NAME = Pattern(r"[a-z0-9]([a-z0-9_-]{0,22}[a-z0-9])?", "a leg name: 1 to 24 lower-case letters, digits, _ and -")
SOURCE = re.compile(r"data\.sources\[\d+\]\.")
MAX_DEPTH = 32  # a run's input has 5 levels; reading recurses, and Python allows about 1,000 calls
MAX_LEGS = 16  # each leg's request is about 4 KB of the 256 KiB that a state may hold, and each is paid for
SINGLE_LEG = "main"
MAX_STARTED_BY = 200  # letters; an IAM path, role and session name have 64 each


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One training job's settings among several compared ones."""

    name: Annotated[str, LEG_NAME]
    """Folder name of the leg."""
    training: TrainingSpec
    """Its full training settings."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which schedule started the execution; EventBridge Scheduler fills it in."""

    name: Annotated[str, RUN_ID]
    """The schedule's name."""
    time: Annotated[str, SCHEDULED_TIME]
    """The scheduled time, ISO 8601 in UTC; EventBridge Scheduler writes it in the place of <aws.scheduler.scheduled-time>."""
    concurrency: Literal["skip", "allow"] = "skip"
    """What a firing does while the previous one still runs: end at once, or run beside it."""
    resume: Literal["new", "latest"] = "new"
    """``new``: a run of its own, named after schedule and minute. ``latest``: the run named after the schedule goes on for
    ``training.steps`` more steps; what an earlier firing left unfinished is finished first."""

    def check(self) -> Iterator[Problem]:
        """One run cannot be executed twice at the same time."""
        if self.resume == "latest" and self.concurrency == "allow":
            yield Problem("concurrency", 'resume=latest continues one run, which cannot run beside itself; use concurrency="skip"')


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One execution, fully resolved, without open defaults."""

    run_id: Annotated[str, RUN_ID] | None = None
    """Name of the run and its S3 folder; null takes the schedule's name and minute, else the execution's name."""
    recipe: str
    """The named starting point that filled what the input left open."""
    data: DataSpec
    """Text and tokenizer."""
    legs: Annotated[tuple[Leg, ...], Bounds(1, MAX_LEGS)]
    """The training jobs, one after the other."""
    compute: ComputeSpec
    """Instances."""
    budget: BudgetSpec
    """Money."""
    evaluation: EvaluationSpec | None = None
    """What each trained leg's export is measured on; null evaluates nothing."""
    schedule: Schedule | None = None
    """Set by a schedule."""

    def check(self) -> Iterator[Problem]:
        """Leg names are folders: no two alike. What is evaluated is exported."""
        for leg in self.legs if self.evaluation is not None else ():
            if not leg.training.export.enabled:
                yield Problem("evaluation", f"leg {leg.name} has training.export.enabled=false, and its export is what is evaluated")
        names = [leg.name for leg in self.legs]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Problem("legs", f'the name "{name}" is used {names.count(name)} times; each leg needs its own folder')


@dataclass(frozen=True, kw_only=True)
class _RawLeg:
    name: Annotated[str, LEG_NAME]
    training: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunInput:
    """An execution's input as written by a person, schedule or program; everything is optional."""

    run_id: Annotated[str, RUN_ID] | None = None
    """Name of the run and its S3 folder; null takes the schedule's name and minute, else the execution's name."""
    recipe: str | None = None
    """The named starting point; null takes the deployment's default."""
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Changes to the recipe's data settings."""
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Changes to the recipe's training settings, for every leg."""
    compute: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Changes to the recipe's compute settings."""
    budget: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Changes to the recipe's budget."""
    evaluation: EvaluationSpec | None = None
    """What each trained leg's export is measured on; null evaluates nothing. {} takes the validation split alone."""
    started_by: Annotated[str, Bounds(1, MAX_STARTED_BY)] | None = None
    """Who started the execution, for `pretrain list`; `pretrain start` fills it in."""
    ablation: Literal["none", "reference"] = "none"
    """``reference`` runs the reference sample's four legs: baseline, compile, float8, float8_allgather."""
    legs: Annotated[tuple[_RawLeg, ...], Bounds(0, MAX_LEGS)] = ()
    """Named legs, each with its changes to ``training``; none makes one leg called "main"."""
    schedule: Schedule | None = None
    """Set by a schedule."""

    def check(self) -> Iterator[Problem]:
        """Legs come from one place."""
        if self.legs and self.ablation != "none":
            yield Problem("legs", f'"ablation": "{self.ablation}" brings its own legs; give one of the two')


EXCLUSIVE: dict[str, tuple[frozenset[str], ...]] = {
    "data": (frozenset({"source", "sources"}),),
    "training": (frozenset({"steps", "tokens"}),),
    "data.tokenizer": (frozenset({"uri", "train"}),),
}
"""Settings of which exactly one is given: an input that gives one takes the place of the recipe's other."""


def overlay(base: Json, changes: Mapping[str, Any], path: str) -> Json:
    """``changes`` laid over ``base``, object by object; ``path`` is where both lie in the input."""
    result = dict(base)
    for group in EXCLUSIVE.get(path, ()):
        if any(changes.get(name) is not None for name in group):
            result = {key: value for key, value in result.items() if key not in group}
    for key, value in changes.items():
        old = result.get(key)
        result[key] = overlay(dict(old), value, f"{path}.{key}") if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def resolve(value: object, *, default_recipe: str, recipes: Mapping[str, Recipe] = RECIPES) -> RunSpec:
    """The RunSpec that an execution's input means.

    Raises:
        SpecError: every problem of the input, each with its dotted path.
    """
    if deeper_than(value, MAX_DEPTH):
        raise SpecError([Problem("", f"the input is nested too deeply: objects and lists lie at most {MAX_DEPTH} levels in each other")])
    problems: list[Problem] = []
    given = _collect(problems, lambda: parse(RunInput, value))
    if given is None:
        given = _readable_part(value)
    name = default_recipe if given.recipe is None else given.recipe
    if name not in recipes:
        problems.append(Problem("recipe", f'there is no recipe "{name}"{suggestion(name, recipes)}'))
        raise SpecError(problems)
    recipe: Json = to_json(recipes[name])
    section = {key: overlay(recipe[key], getattr(given, key), key) for key in ("data", "training", "compute", "budget")}
    data = _data(section["data"], given.data, problems)
    compute = _collect(problems, lambda: parse(ComputeSpec, section["compute"], "compute"))
    budget = _collect(problems, lambda: parse(BudgetSpec, section["budget"], "budget"))
    legs = _legs(given, section["training"], problems)
    if compute is not None:
        legs = [_fitted(leg, compute, problems) for leg in legs]
        problems.extend(_cluster_problems(legs, compute))
    if given.schedule is not None and given.schedule.resume == "latest":
        problems.extend(_continued_problems(legs, data))
    if problems or data is None or compute is None or budget is None:
        raise SpecError(dict.fromkeys(problems))
    content = {"run_id": given.run_id, "recipe": name, "schedule": given.schedule, "evaluation": given.evaluation}
    return parse(RunSpec, {**content, "data": data, "legs": legs, "compute": compute, "budget": budget})


def _readable_part(value: object) -> RunInput:
    """What can still be checked of an input with problems at its top level: its recipe and its sections."""
    if not isinstance(value, Mapping):
        return RunInput()
    recipe = value.get("recipe")
    sections: dict[str, Json] = {k: dict(value[k]) for k in ("data", "training", "compute", "budget") if isinstance(value.get(k), Mapping)}
    return RunInput(recipe=recipe if isinstance(recipe, str) else None, **sections)  # type: ignore[arg-type]


def _collect(problems: list[Problem], read: Any) -> Any:
    try:
        return read()
    except SpecError as error:
        problems.extend(error.problems)
        return None


def _data(section: Json, given: Mapping[str, Any], problems: list[Problem]) -> DataSpec | None:
    """The data settings; the recipe's globs are for the recipe's own source, so a mixture does not take them over."""
    if given.get("sources") and "include" not in given:
        section = section | {"include": []}
    found: list[Problem] = []
    data: DataSpec | None = _collect(found, lambda: parse(DataSpec, with_source_defaults(section), "data"))
    common = {(problem.path, problem.message) for problem in found}
    # What a source takes over from data is told once, there.
    problems.extend(p for p in found if (own := SOURCE.sub("data.", p.path)) == p.path or (own, p.message) not in common)
    return data


def _legs(given: RunInput, training: Json, problems: list[Problem]) -> list[Leg]:
    raw: list[tuple[str, str, Json]]
    if given.ablation == "reference":
        raw = [(leg.name, "training", leg.changes) for leg in REFERENCE_ABLATION]
    elif given.legs:
        raw = [(leg.name, f"legs[{i}].training", leg.training) for i, leg in enumerate(given.legs)]
    else:
        raw = [(SINGLE_LEG, "training", {})]
    base = _collect(problems, lambda: parse(TrainingSpec, training, "training"))
    legs: list[Leg] = []
    for name, path, changes in raw:
        spec = (
            base
            if not changes
            else (_collect(problems, lambda p=path, c=changes: parse(TrainingSpec, overlay(training, c, "training"), p)) if base else None)
        )
        if spec is not None:
            legs.append(Leg(name=name, training=spec))
    return legs


def _fitted(leg: Leg, compute: ComputeSpec, problems: list[Problem]) -> Leg:
    """The leg with what it leaves to the memory estimate."""
    if not leg.training.fit_memory:
        return leg
    device = accelerators_of(compute.instance_type)
    found = (
        Problem("fit_memory", f"the memory of {compute.instance_type} is not known (infra/sagemaker/instance_types.py); give the values")
        if device is None
        else fitted(leg.training, compute.instance_count, device.memory_gib)
    )
    if isinstance(found, Problem):
        problems.append(Problem(f"{_path_of(leg)}.{found.path}", found.message))
        return leg
    return dataclasses.replace(leg, training=found)


def _path_of(leg: Leg) -> str:
    return "training" if leg.name == SINGLE_LEG else f"legs.{leg.name}.training"


def _cluster_problems(legs: list[Leg], compute: ComputeSpec) -> Iterator[Problem]:
    for leg in legs:
        for number, source in enumerate(compute.capacity):
            if source.local_batch_size is None:
                continue
            path = f"compute.capacity[{number}].local_batch_size"
            if leg.training.global_batch_size is None:
                yield Problem(
                    path, "needs training.global_batch_size, so that a change of type does not change the batch that is learned from"
                )
                continue
            changed = dataclasses.replace(leg.training, local_batch_size=source.local_batch_size)
            yield from (Problem(path, problem.message) for problem in cluster_problems(changed, compute.instance_count))
        for problem in cluster_problems(leg.training, compute.instance_count):
            yield Problem(f"{_path_of(leg)}.{problem.path}", problem.message)


def _continued_problems(legs: list[Leg], data: DataSpec | None) -> Iterator[Problem]:
    """A run that is continued in pieces needs a learning-rate curve and a mixture that do not depend on where a piece ends."""
    if data is not None and any(source.epochs is None for source in data.sources):  # where all have epochs, they are relative
        for number, source in enumerate(data.sources):
            if source.epochs is not None:
                message = "resume=latest adds steps with every firing, which changes what it comes to; give it a weight"
                yield Problem(f"data.sources[{number}].epochs", message)
    for leg in legs:
        if leg.training.schedule.total_steps is None and leg.training.schedule.decay != "constant":
            yield Problem(
                "training.schedule.total_steps",
                f'resume=latest moves the last step with every firing, and decay="{leg.training.schedule.decay}" ends there; '
                'set the steps that the whole curve spans, or decay="constant"',
            )
            return


def as_input(spec: RunSpec) -> Json:
    """The resolved run as JSON, the main part of run.json."""
    content: Json = to_json(spec)
    return content
