"""A run that is executed again: its earlier execution, and what this one adds.

Executing a run again goes on from each leg's newest whole checkpoint, so its tokens and its model must be what they were. With
``schedule.resume=latest`` the last step also moves: by ``training.steps`` once the earlier target was reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.config import Json, Problem, to_json
from infra.run.layout import RunLayout, uri
from infra.run.leg_files import attempt_folders, newest_result, whole_checkpoints
from infra.run.run_spec import Leg, RunSpec
from infra.run.stored import read_json
from training.schedule import schedule_problems
from training.spec import total_steps


@dataclass(frozen=True)
class Continued:
    """The run as this execution continues it."""

    spec: RunSpec
    run_id: str
    done_steps: int = 0
    """Steps that every leg has behind it."""
    previous: Json | None = None
    """run.json of the earlier execution, when it left checkpoints."""
    checkpoints: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Leg -> S3 URI of the checkpoint that its first attempt goes on from."""

    def problems(self, fingerprint: str | None) -> Iterator[Problem]:
        """Reasons why the checkpoints of the earlier execution cannot be continued."""
        if self.previous is None:
            return
        again = "choose another run_id to start afresh"
        before = str(self.previous["tokens"]["fingerprint"])
        if fingerprint is not None and fingerprint != before:
            message = (
                f'run "{self.run_id}" has checkpoints from tokens {before}, and this source, tokenizer and settings make {fingerprint}'
            )
            yield Problem("run_id", f"{message}; {again}")
        hosts = self.spec.compute.instance_count
        for leg in self.spec.legs:  # resume=latest moved the last step, so the curve is looked at again
            for problem in schedule_problems(leg.training.schedule, total_steps(leg.training, hosts)):
                yield Problem(f"training.{problem.path}", f'{problem.message} (run "{self.run_id}" goes on to that step); {again}')
        models = {str(leg["name"]): leg["training"]["model"] for leg in self.previous["legs"]}
        for leg in self.spec.legs:
            if leg.name in models and to_json(leg.training.model) != models[leg.name]:
                yield Problem("run_id", f'run "{self.run_id}" has checkpoints of another model in leg {leg.name}; {again}')
            if leg.name in self.checkpoints and not leg.training.checkpoint.resume:
                found = f'run "{self.run_id}" has checkpoints of leg {leg.name} ({self.checkpoints[leg.name]})'
                yield Problem("training.checkpoint.resume", f"it is false, and {found}; {again}, or set it to true")


def continued(spec: RunSpec, layout: RunLayout, s3: Any, bucket: str) -> Continued:
    """Read what an earlier execution of the run left; without one, ``spec`` as it is."""
    previous = read_json(s3, bucket, layout.run_json)
    if not previous:
        return Continued(spec, layout.run_id)
    newest = {leg.name: next(whole_checkpoints(s3, bucket, layout, leg.name), None) for leg in spec.legs}
    checkpoints = {name: uri(bucket, folder.prefix) for name, folder in newest.items() if folder is not None}
    if not checkpoints:
        return Continued(spec, layout.run_id)
    done = min(_done_steps(s3, bucket, layout, leg) for leg in spec.legs)
    if spec.schedule is not None and spec.schedule.resume == "latest":
        hosts = spec.compute.instance_count
        legs = tuple(_extended(leg, previous, done, hosts) for leg in spec.legs)
        spec = dataclasses.replace(spec, legs=legs)
    return Continued(spec, layout.run_id, done, previous, checkpoints)


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
