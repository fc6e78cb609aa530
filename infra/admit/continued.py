"""A run that is executed again: its earlier execution, and what this one adds.

Executing a run again goes on from each leg's newest whole checkpoint, so what that depends on must be what it was; a leg that has
reached its last step is not trained again (infra/admit/finished.py). With
``schedule.resume=latest`` the last step also moves: by ``training.steps`` once the earlier target was reached.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.config import Json, Problem
from infra.admit.finished import finished_leg
from infra.run.layout import RunLayout, uri
from infra.run.leg_files import StepFolder, attempt_folders, manifest_of, newest_result, whole_checkpoints
from infra.run.run_record import Change, changed, shown
from infra.run.run_spec import Leg, RunSpec, as_input
from infra.run.stored import read_bytes
from training.leg_identity import differences, leg_identity
from training.schedule import schedule_problems
from training.spec import total_steps

AFRESH = "choose another run_id to start afresh"


INPUT_PATHS = {
    "data.seed": "training.seed",
    "data.sequence_length": "training.sequence_length",
    "data.tokens_per_step": "training.global_batch_size",
    "data.mixture": "data.sources",
    "optimizer.name": "training.optimizer.name",
    "initial.source": "training.initial",
}
"""Where the input says what a checkpoint depends on; the model lies under ``training.model``."""


@dataclass(frozen=True, kw_only=True)
class Continued:
    """The run as this execution continues it."""

    spec: RunSpec
    run_id: str
    done_steps: int = 0
    """Steps that every leg has behind it."""
    previous: Json | None = None
    """run.json of the earlier execution."""
    saved: Mapping[str, Json] = dataclasses.field(default_factory=dict)
    """Leg -> what its newest whole checkpoint, else its finished export, is of (training/leg_identity.py)."""
    checkpoints: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Leg -> S3 URI of that checkpoint, which its first attempt goes on from."""
    finished: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Leg -> S3 URI of the attempt's folder that finished it; such a leg is not trained again."""
    unreadable: str | None = None
    """Why run.json of the earlier execution cannot be used."""

    def changes(self, spec: RunSpec) -> tuple[Change, ...]:
        """Settings of ``spec``, with full URIs as run.json has them, that differ from the run's before."""
        return changed(self.previous, as_input(spec)) if self.previous is not None else ()

    def problems(self, fingerprint: str | None) -> Iterator[Problem]:
        """Reasons why what the earlier execution left cannot be gone on with.

        Args:
            fingerprint: of this execution's tokens; None when it is not known.
        """
        if self.unreadable is not None:
            yield Problem("run_id", self.unreadable)
        if not self.saved:
            return
        hosts = self.spec.compute.instance_count
        for leg in self.spec.legs:  # resume=latest moved the last step, so the curve is looked at again
            for problem in schedule_problems(leg.training.schedule, total_steps(leg.training, hosts)):
                yield Problem(f"training.{problem.path}", f'{problem.message} (run "{self.run_id}" goes on to that step); {AFRESH}')
        for name, where in self.checkpoints.items():
            if not next(leg.training.checkpoint.resume for leg in self.spec.legs if leg.name == name):
                found = f'run "{self.run_id}" has checkpoints of leg {name} ({where})'
                yield Problem("training.checkpoint.resume", f"it is false, and {found}; {AFRESH}, or set it to true")
        told: dict[tuple[str, str, str], list[str]] = {}
        for leg in self.spec.legs:
            if leg.name in self.saved:
                for path, old, new in self._differences(leg, fingerprint):
                    told.setdefault((path, shown(old), shown(new)), []).append(leg.name)
        for (path, old, new), legs in told.items():
            yield self._problem(path, old, new, legs)

    def _differences(self, leg: Leg, fingerprint: str | None) -> list[tuple[str, Any, Any]]:
        saved = self.saved[leg.name]
        known = fingerprint or str(saved.get("data", {}).get("fingerprint"))
        hosts, sources = self.spec.compute.instance_count, self.spec.data.sources
        found = differences(saved, leg_identity(leg.training, known, hosts, sources, initial=_initial(saved, leg)))
        return [(path, *(_unequal(old, new) if path == "data.mixture" else (old, new))) for path, old, new in found]

    def _problem(self, path: str, old: str, new: str, legs: list[str]) -> Problem:
        what = "checkpoints" if any(leg in self.checkpoints for leg in legs) else "the finished model"
        whose = f'run "{self.run_id}" has {what} of leg {", ".join(legs)}'
        if path == "data.fingerprint":
            return Problem("run_id", f"{whose} from tokens {old}, and this source, tokenizer and settings make {new}; {AFRESH}")
        where = INPUT_PATHS.get(path, f"training.{path}")
        what = "tokens per step " if path == "data.tokens_per_step" else ""
        return Problem(where, f"{whose} made with {what}{old}, and this input has {new}; go back to {old}, or {AFRESH}")


def _unequal(old: Json | None, new: Json | None) -> tuple[Json, Json]:
    """The entries in which two objects differ."""
    one, two = old or {}, new or {}
    names = [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]
    return {name: one.get(name) for name in names}, {name: two.get(name) for name in names}


def continued(spec: RunSpec, layout: RunLayout, s3: Any, bucket: str) -> Continued:
    """Read what an earlier execution of the run left; without one, ``spec`` as it is."""
    body = read_bytes(s3, bucket, layout.run_json)
    if body is None:
        return Continued(spec=spec, run_id=layout.run_id)
    try:
        previous = _run_json(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        what = f"{uri(bucket, layout.run_json)} cannot be read"
        fix = f"restore its version before (the bucket keeps versions), or {AFRESH}"
        return Continued(spec=spec, run_id=layout.run_id, unreadable=f"{what}, so what the run's checkpoints are of is not known; {fix}")
    newest = {leg.name: _whole(s3, bucket, layout, leg.name) for leg in spec.legs}
    found = {name: whole for name, whole in newest.items() if whole is not None}
    extends = spec.schedule is not None and spec.schedule.resume == "latest"
    hosts = spec.compute.instance_count
    looked = {} if extends else {leg.name: finished_leg(s3, bucket, layout, leg, hosts) for leg in spec.legs}
    finished = {name: leg for name, leg in looked.items() if leg is not None}
    if not found and not finished:
        return Continued(spec=spec, run_id=layout.run_id, previous=previous)
    done = min(_done_steps(s3, bucket, layout, leg) for leg in spec.legs)
    if extends:
        spec = dataclasses.replace(spec, legs=tuple(_extended(leg, previous, done, hosts) for leg in spec.legs))
    return Continued(
        spec=spec,
        run_id=layout.run_id,
        done_steps=done,
        previous=previous,
        saved={name: leg.identity for name, leg in finished.items()} | {name: leg for name, (_, leg) in found.items()},
        checkpoints={name: uri(bucket, folder.prefix) for name, (folder, _) in found.items()},
        finished={name: uri(bucket, leg.folder) for name, leg in finished.items()},
    )


def _initial(saved: Json, leg: Leg) -> Json | None:
    """What the leg began from according to its checkpoint, under the name that this execution gives it."""
    recorded: Json = saved.get("initial") or {}
    named = leg.training.initial
    return None if named is None and "source" not in recorded else {**recorded, "source": named}


def _run_json(body: bytes) -> Json:
    run: Json = json.loads(body)
    sections = (*run["legs"], *(leg["training"] for leg in run["legs"]), run["tokens"])
    if not run["legs"] or not all(isinstance(section, dict) for section in sections):
        raise ValueError("no run.json")
    return run


def _whole(s3: Any, bucket: str, layout: RunLayout, leg: str) -> tuple[StepFolder, Json] | None:
    """A leg's newest whole checkpoint, and what it is of."""
    for folder in whole_checkpoints(s3, bucket, layout, leg):
        manifest = manifest_of(s3, bucket, folder)
        if manifest is not None:
            return folder, manifest.leg
    return None


def _extended(leg: Leg, previous: Json, done: int, hosts: int) -> Leg:
    """The leg with its new last step."""
    more = total_steps(leg.training, hosts)
    earlier = next((old["training"] for old in previous["legs"] if old["name"] == leg.name), None)
    target = int((earlier or {}).get("steps") or 0)
    steps = target if done < target else target + more
    return dataclasses.replace(leg, training=dataclasses.replace(leg.training, steps=max(steps, more), tokens=None))


def _done_steps(s3: Any, bucket: str, layout: RunLayout, leg: Leg) -> int:
    found = newest_result(s3, bucket, attempt_folders(s3, bucket, layout, leg.name))
    return int(found[1].get("steps") or 0) if found is not None else 0
