"""Checkpoints on top of torchtitan's manager: which ones are whole, which one a job resumes from, which ones are kept.

    checkpoints/step-150/
        leg.json            what was trained: model, data, batch; written first
        __0_0.distcp ...    each rank's part, in files of its own
        .metadata           written last, by rank 0, and says how long every part is

SageMaker's sync copies single files in any order, and a kill can come at any moment, so a folder counts as a checkpoint
only when .metadata can be read and every part has the length that it names. A job resumes from the newest one that loads,
and says which newer ones it passed over.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.tools.logging import logger

from contracts.config import Json
from contracts.files import CHECKPOINT_METADATA, LEG_FILE
from training.failure_classes import CheckpointMismatch, CheckpointUnusable
from training.metrics import diverged, write_json

CUT_OFF = "saving was cut off"
_STEP = re.compile(r"step-(\d+)")


def step_folders(folder: Path) -> dict[int, Path]:
    """Step folders, whole or not."""
    if not folder.is_dir():
        return {}
    found = ((_STEP.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in found if match is not None}


def damage(folder: Path) -> str | None:
    """What a step folder lacks to be a checkpoint, in words, or None when it is whole."""
    try:
        metadata = pickle.loads((folder / CHECKPOINT_METADATA).read_bytes())
    except FileNotFoundError:
        return f"it has no {CHECKPOINT_METADATA}: {CUT_OFF}"
    except Exception as error:
        return f"its {CHECKPOINT_METADATA} cannot be read ({type(error).__name__})"
    needed: dict[str, int] = {}
    for part in metadata.storage_data.values():
        needed[part.relative_path] = max(needed.get(part.relative_path, 0), part.offset + part.length)
    for name, length in sorted(needed.items()):
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size < length:
            return f"{name} has {path.stat().st_size} bytes of {length}"
    return None


def mismatch(saved: Json, wanted: Json) -> str | None:
    """Why a checkpoint's leg.json does not fit this leg, or None. Only what changes the meaning of its numbers counts."""
    for section in ("model", "data", "optimizer"):
        old, new = saved.get(section, {}), wanted.get(section, {})
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return f"{section}.{key} was {old.get(key)} there and is {new.get(key)} here"
    return None


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One checkpoint of this attempt."""

    step: int
    time: float
    """Seconds since the epoch."""
    seconds: float
    """How long the step was held back."""


class LegCheckpoints(CheckpointManager):
    """torchtitan's manager with leg.json, whole checkpoints only, a fallback to older ones, and no weights that are NaN or Inf."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        """torchtitan's, and what the checkpoints are of."""

        leg: Json
        """Content of leg.json: ``model`` and ``data`` must match to resume."""

    def __init__(self, config: Config, **rest: Any) -> None:
        super().__init__(config, **rest)
        self.leg = config.leg
        self.root = Path(self.folder)
        self.saved: list[Saved] = []
        self.passed_over: dict[int, str] = {}
        self.write_seconds: list[float] = []
        """From the start of each save of this attempt to its last file on disk."""
        self.on_held: Callable[[float], None] = lambda seconds: None
        self.watched: Callable[[], AbstractContextManager[None]] = nullcontext
        """Around everything that may wait for a disk: the watchdog's limit for it."""
        self._whole: list[int] = []  # complete on every host, oldest first
        self._in_flight: int | None = None

    def _load(self, step: int = -1) -> bool:
        """Load the newest checkpoint that every host finds whole and that loads.

        Raises:
            CheckpointMismatch: the newest whole one is of another model or data order.
            CheckpointUnusable: there are checkpoints, and none can be used.
        """
        candidates = self._find_whole()
        for newest in sorted(candidates, reverse=True):
            self._refuse_other_leg(newest)
            try:
                loaded = bool(super()._load(newest))
            except CheckpointException as error:  # raised on every rank when one rank cannot read its part
                reason = next(iter(error.failures.values()))[0]
                self._pass_over(newest, f"it does not load ({type(reason).__name__}: {str(reason)[:200]})")
                continue
            self._whole = [step for step in sorted(candidates) if step <= newest]
            return loaded
        # One that was cut off, or whose parts a sync had not brought up yet, is what any crash leaves behind, and the first
        # checkpoint of a run can be that one: the run starts again. Several finished ones that are all damaged are no crash.
        if len([reason for reason in self.passed_over.values() if CUT_OFF not in reason]) > 1:
            raise CheckpointUnusable(
                f"none of the {len(self.passed_over)} checkpoints can be used: "
                + "; ".join(f"step-{step}: {reason}" for step, reason in sorted(self.passed_over.items()))
                + ". Restore an older version of one from S3 (the bucket keeps versions), or delete them to start again"
            )
        return False

    def _find_whole(self) -> list[int]:
        """Steps that all hosts find whole; the others are passed over, and said so."""
        damaged: dict[int, str | None] = {step: damage(path) for step, path in step_folders(self.root).items()}
        per_rank: list[dict[int, str | None] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(per_rank, damaged)
        views = [view for view in per_rank if view is not None]
        steps = set().union(*views)
        for step in sorted(steps):
            reasons = [view.get(step, "it is missing on a host") for view in views]
            reason = next((reason for reason in reasons if reason), None)
            if reason is not None:
                self._pass_over(step, reason)
        return [step for step in steps if step not in self.passed_over]

    def _pass_over(self, step: int, reason: str) -> None:
        self.passed_over[step] = reason
        if dist.get_rank() == 0:
            logger.warning(f"Checkpoint step-{step} is passed over: {reason}")

    def _refuse_other_leg(self, step: int) -> None:
        path = self.root / f"step-{step}" / LEG_FILE
        saved = json.loads(path.read_text()) if path.exists() else {}
        difference = mismatch(saved, self.leg) if saved else f"it has no {LEG_FILE} to say what it holds"
        if difference is not None:
            raise CheckpointMismatch(
                f"checkpoint step-{step} does not belong to this leg: {difference}. "
                "Start under another run_id, or give the settings it was made with"
            )

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        """Save when due. Weights that are NaN or Inf are never written."""
        if not self._should_save(curr_step, last_step):
            return False
        with self.watched():
            return self.save_now(curr_step, blocking=last_step)

    def _maybe_wait_for_staging(self) -> None:
        """The copy out of the device's memory, which the next optimiser step must not overtake."""
        if self.staging_future is not None:
            with self.watched():
                super()._maybe_wait_for_staging()

    def save_now(self, step: int, *, blocking: bool) -> bool:
        """Save this step. ``blocking`` returns when the files are complete.

        Raises:
            LossDiverged: a weight is NaN or infinite.
        """
        begin = time.perf_counter()
        self.maybe_wait_for_saving()
        self._settle()
        self._refuse_non_finite_weights(step)
        folder = self.root / f"step-{step}"
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            if folder.exists():  # left by an attempt that was killed while saving it
                shutil.rmtree(folder)
            write_json(folder / LEG_FILE, self.leg)
        dist.barrier()
        self._in_flight = step
        writing = time.perf_counter()

        def written(_: object = None) -> None:
            self.write_seconds.append(time.perf_counter() - writing)

        saved = bool(super()._save(step, last_step=blocking))
        if self.save_future is None:
            written()
        else:
            self.save_future.add_done_callback(written)
        if blocking:
            self._settle()
            self._purge_stale_checkpoints()
        seconds = time.perf_counter() - begin
        self.saved.append(Saved(step=step, time=time.time(), seconds=seconds))
        self.on_held(seconds)
        return saved

    def _settle(self) -> None:
        """The save in flight has ended on this rank, and with DCP's own barrier on all ranks."""
        if self._in_flight is not None and self._in_flight not in self._whole:
            self._whole.append(self._in_flight)
        self._in_flight = None

    def _refuse_non_finite_weights(self, step: int) -> None:
        non_finite = torch.zeros((), device=_first_device(self.states["model"].model))
        for model in self.states["model"].model:
            for parameter in model.parameters():
                local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
                non_finite += (~torch.isfinite(local.detach()).all()).float()
        dist.all_reduce(non_finite, op=dist.ReduceOp.MAX)
        if non_finite.item():
            raise diverged("a weight", float("nan"), step, "unknown")

    def _purge_stale_checkpoints(self) -> None:
        """Keep the newest ``keep_latest_k`` whole checkpoints; everything older goes, whole or not.

        Each host clears its own disk. A half-written folder counts for nothing, so a job that is killed over and over
        while saving never pushes a whole checkpoint out.
        """
        if int(os.environ.get("LOCAL_RANK", "0")) != 0 or len(self._whole) < self.keep_latest_k:
            return
        oldest_kept = self._whole[-self.keep_latest_k]
        self._whole = self._whole[-self.keep_latest_k :]
        for step, path in sorted(step_folders(self.root).items()):
            if step < oldest_kept:
                self.purge_queue.put(str(path))


def _first_device(models: list[torch.nn.Module]) -> torch.device:
    return next(models[0].parameters()).device
