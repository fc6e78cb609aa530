"""What an earlier execution of the run has done for good: legs at their last step are not trained again, nor evaluated twice alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contracts.config import Json, to_json
from contracts.files import EVALUATION, EVALUATION_RESULTS, EXPORT, LEG_FILE
from infra.run.layout import RunLayout
from infra.run.leg_files import attempt_folders, finished_result, newest_result
from infra.run.run_spec import Leg, RunSpec
from infra.run.stored import Unreadable, read_json
from training.evaluation.spec import VALIDATION
from training.spec import total_steps


@dataclass(frozen=True, kw_only=True)
class FinishedLeg:
    """The attempt that finished a leg."""

    folder: str
    """Its folder, as a key prefix."""
    identity: Json
    """What its export is of (training/leg_identity.py); checkpoints may be gone by now."""


def finished_leg(s3: Any, bucket: str, layout: RunLayout, leg: Leg, hosts: int) -> FinishedLeg | None:
    """The leg's newest result, where training it again would change nothing: at its last step, with the whole export that the leg asks for.

    A leg without an export is not looked at: its next job finds its last checkpoint and ends at once.
    """
    found = newest_result(s3, bucket, attempt_folders(s3, bucket, layout, leg.name))
    if found is None or not leg.training.export.enabled:
        return None
    folder, result = found
    export = result.get("export") or {}
    if int(result.get("steps") or 0) < total_steps(leg.training, hosts) or export.get("dtype") != leg.training.export.dtype:
        return None
    if finished_result(s3, bucket, folder) is None:
        return None
    try:
        identity = read_json(s3, bucket, f"{folder}{EXPORT}/{LEG_FILE}")
    except Unreadable:
        return None
    return FinishedLeg(folder=folder, identity=identity) if identity else None


def is_evaluated(s3: Any, bucket: str, folder: str, spec: RunSpec, *, data: str | None, image: str | None) -> bool:
    """Whether the newest evaluation of a finished leg's export was asked for the same, in the same image, and measured all of it.

    Args:
        s3, bucket, folder: the attempt that finished the leg.
        spec: the run, with full URIs.
        data: fingerprint of the copies that the evaluation reads; None when it reads none.
        image: of the evaluation, by digest; None when it is yet to be built.
    """
    if spec.evaluation is None or image is None:
        return False
    try:
        found = read_json(s3, bucket, f"{folder}{EVALUATION}/{EVALUATION_RESULTS}")
    except Unreadable:
        return False
    sources = [f"{VALIDATION}/{source.name}" for source in spec.data.sources] or [VALIDATION]
    held_out = [*(sources if spec.evaluation.validation else ()), *(one.name for one in spec.evaluation.held_out)]
    asked = {"settings": to_json(spec.evaluation), "data": data}
    measured = [found.get("held_out"), found.get("tasks"), found.get("environment")]
    if not all(isinstance(part, dict) for part in measured) or any(found.get(key) != value for key, value in asked.items()):
        return False
    there = {*held_out} <= {*found["held_out"]} and {*spec.evaluation.tasks} <= {*found["tasks"]}
    return there and found["environment"].get("image") == image
