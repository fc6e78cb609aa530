"""What a leg begins from other than chance: a model's weights, or another leg's checkpoint. Pure, no torch.

    hf://OWNER/NAME@COMMIT        weights: a Hugging Face repository, which data preparation copies into the bucket
    s3://BUCKET/PREFIX/           weights: a folder with config.json and safetensors, such as an export
    run:RUN/LEG                   weights: the export of a finished leg
    run:RUN/LEG@STEP              a checkpoint of a leg: weights, optimiser, schedule's place and data cursor

Weights start a training of their own: fresh optimiser, step 0, first sample. A checkpoint starts a *cool-down* (or another end of
the same training): the leg trains on from STEP with its own schedule, and writes into its own folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from contracts.config import Json, Pattern, Problem

RUN, LEG, STEP = r"[a-zA-Z0-9](?:-*[a-zA-Z0-9]){0,79}", r"[a-z0-9](?:[a-z0-9_-]{0,22}[a-z0-9])?", r"[1-9][0-9]{0,14}"
INITIAL = Pattern(
    rf"hf://[\w.-]+/[\w.-]+@[0-9a-f]{{40}}|s3://[a-z0-9.-]{{3,63}}/(?:[^/]+/)+|run:{RUN}/{LEG}(?:@{STEP})?",
    'where training begins: "hf://OWNER/NAME@COMMIT" with the 40 hex digits of a commit, "s3://BUCKET/FOLDER/" with config.json and '
    'safetensors (it ends in "/"), "run:RUN/LEG" for that leg\'s export, or "run:RUN/LEG@STEP" for its checkpoint',
)
_OTHER_LEG = re.compile(rf"run:({RUN})/({LEG})(?:@({STEP}))?")


@dataclass(frozen=True, kw_only=True)
class OtherLeg:
    """A leg of a run that is named as a start."""

    run: str
    leg: str
    step: int | None
    """Of its checkpoint; None means its export."""


def other_leg(initial: str) -> OtherLeg | None:
    """The leg that ``run:...`` names; None for another form."""
    match = _OTHER_LEG.fullmatch(initial)
    return None if match is None else OtherLeg(run=match[1], leg=match[2], step=int(match[3]) if match[3] else None)


def start_step(initial: str | None) -> int:
    """Steps that the start has behind it: those of a checkpoint, 0 for weights and for chance."""
    named = other_leg(initial) if initial is not None else None
    return (named.step or 0) if named is not None else 0


def start_problems(initial: str | None, steps: int, decay_steps: int | None) -> Iterator[Problem]:
    """Problems of a leg of ``steps`` steps that goes on from a checkpoint."""
    begun = start_step(initial)
    if not begun:
        return
    if steps <= begun:
        yield Problem("steps", f"{steps} are behind {initial} already; steps count from that training's first, so give more than {begun}")
    elif decay_steps is not None and decay_steps > steps - begun:
        yield Problem(
            "schedule.decay_steps",
            f"{decay_steps} begin before {initial}, at step {steps - decay_steps}, so that the learning rate would jump; "
            f"set it to {steps - begun} at most, or steps to {begun + decay_steps}",
        )


def optimizer_differences(theirs: Any, ours: Json) -> Iterator[Problem]:
    """What of ``training.optimizer`` differs from the training whose optimiser state is gone on with."""
    if not isinstance(theirs, dict):
        return
    for key, value in ours.items():
        old = theirs.get(key, value)
        if old != value:
            yield Problem(
                f"optimizer.{key}", f"the checkpoint's optimizer has {old}, and this is {value}; a cool-down keeps it, so set it to {old}"
            )
