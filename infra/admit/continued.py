"""A run that is executed again: its earlier execution, and what this one adds.

Executing a run again goes on from its checkpoints, so its tokens and its model must be what they were. With
``schedule.resume=latest`` the last step also moves: by ``training.steps`` once the earlier target was reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from contracts.config import Json, Problem, to_json
from contracts.files import RESULT_FILE
from infra.run.layout import RunLayout
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


def continued(spec: RunSpec, layout: RunLayout, s3: Any, bucket: str) -> Continued:
    """Read what an earlier execution of the run left; without one, ``spec`` as it is."""
    previous = read_json(s3, bucket, layout.run_json)
    if not previous or not _any_checkpoint(s3, bucket, layout, spec):
        return Continued(spec, layout.run_id)
    done = min(_done_steps(s3, bucket, layout, leg) for leg in spec.legs)
    if spec.schedule is not None and spec.schedule.resume == "latest":
        hosts = spec.compute.instance_count
        legs = tuple(_extended(leg, previous, done, hosts) for leg in spec.legs)
        spec = dataclasses.replace(spec, legs=legs)
    return Continued(spec, layout.run_id, done, previous)


def _extended(leg: Leg, previous: Json, done: int, hosts: int) -> Leg:
    """The leg with its new last step."""
    more = total_steps(leg.training, hosts)
    earlier = next((old["training"] for old in previous["legs"] if old["name"] == leg.name), None)
    target = int((earlier or {}).get("steps") or 0)
    steps = target if done < target else target + more
    return dataclasses.replace(leg, training=dataclasses.replace(leg.training, steps=max(steps, more), tokens=None))


def _done_steps(s3: Any, bucket: str, layout: RunLayout, leg: Leg) -> int:
    result = read_json(s3, bucket, layout.leg_folder(leg.name, "metrics") + RESULT_FILE)
    return int(result.get("steps") or 0)


def _any_checkpoint(s3: Any, bucket: str, layout: RunLayout, spec: RunSpec) -> bool:
    prefixes = (layout.leg_folder(leg.name, "checkpoints") for leg in spec.legs)
    return any(s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("KeyCount") for prefix in prefixes)
