"""The checkpoint that the next attempt of a leg goes on from, chosen before its job is created."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from contracts.config import Json
from infra.run.layout import RunLayout, split_uri, uri
from infra.run.leg_files import finished_result, whole_checkpoints
from infra.triage.attempts import Attempt, Decision
from infra.triage.decisions import Verdict

DAMAGED = "CheckpointDamaged"
"""The class that a job ends with when the checkpoint it was given is not what was saved (training/failure_classes.py)."""


@dataclass(frozen=True, kw_only=True)
class LegFiles:
    """One leg's folders in S3."""

    s3: Any
    bucket: str
    layout: RunLayout
    leg: str
    stem: str
    """What the folders of this execution's attempts begin with."""
    start: str | None = None
    """URI of another leg's checkpoint, which this one begins from (training.initial) as long as it has none of its own."""

    @classmethod
    def of(cls, leg: Json, s3: Any) -> LegFiles:
        """From the leg as the state machine carries it."""
        request = leg["request"]
        bucket, stem = split_uri(request["CheckpointConfig"]["S3Uri"])
        layout = RunLayout(request["HyperParameters"]["run_id"])
        return cls(s3=s3, bucket=bucket, layout=layout, leg=str(leg["name"]), stem=stem, start=leg.get("start"))

    def finished(self, number: int) -> bool:
        """Whether attempt ``number`` left a result and the whole export that it names."""
        return finished_result(self.s3, self.bucket, f"{self.stem}{number}/") is not None

    def newest_whole(self, unusable: tuple[str, ...]) -> tuple[str | None, int]:
        """URI of the newest whole checkpoint that is not ``unusable``, and how many were left out before it."""
        left_out = 0
        for folder in whole_checkpoints(self.s3, self.bucket, self.layout, self.leg):
            found = uri(self.bucket, folder.prefix)
            if found not in unusable:
                return found, left_out
            left_out += 1
        return None, left_out


def with_checkpoint(decision: Decision, ended: Attempt, verdict: Verdict, files: LegFiles) -> Decision:
    """``decision`` with the checkpoint that its attempt goes on from.

    A leg that has saved nothing whole starts again, from where it began. One whose checkpoints are all damaged does not: that
    would throw its training away silently.
    """
    unusable = ended.unusable
    if verdict.name == DAMAGED and ended.checkpoint is not None and ended.checkpoint not in unusable:
        unusable = (*unusable, ended.checkpoint)
    checkpoint, left_out = files.newest_whole(unusable)
    if checkpoint is None and files.start is not None:
        if files.start in unusable:
            left_out += 1
        elif not left_out:
            checkpoint = files.start
    attempt = dataclasses.replace(decision.attempt, checkpoint=checkpoint, unusable=unusable)
    if checkpoint is None and left_out:
        again = "delete them to start again" if files.start is None else "choose another run_id, or another step in training.initial"
        sentence = (
            f"none of the {left_out} checkpoints of leg {files.leg} can be used (the last: {verdict.sentence}); restore an older version "
            f"of one from S3 (the bucket keeps versions), or {again}"
        )
        last = dataclasses.replace(attempt, number=ended.number)
        return Decision(again=False, attempt=last, name="CheckpointUnusable", sentence=sentence, retry="stop")
    return dataclasses.replace(decision, attempt=attempt)
