"""Checkpoints on top of torchtitan's manager: where a job goes on from, what it saves, what it keeps on its disk.

A job goes on from one checkpoint, the channel ``checkpoint``, which Admit or Triage chose before the job was created; without
that channel it begins from the weights of the channel ``initial``, or by chance. What it saves lies in a folder of its own
attempt (contracts/checkpoint_manifest.py), which was empty when it began. A damaged checkpoint ends the job in one sentence,
and Triage takes the one before it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, AsyncSaveResponse, async_save, save
from torchtitan.components.checkpoint import AsyncMode, CheckpointManager
from torchtitan.tools.logging import logger
from torchtitan.tools.utils import GarbageCollection

from contracts.config import Json
from contracts.files import CHECKPOINT_MANIFEST
from training.checkpoint_reader import Checkpoint, CheckpointPlanner, CheckpointReader, DamagedCheckpoint, open_checkpoint
from training.checkpoint_writer import CheckpointWriter
from training.compile_cache import CacheKeeper
from training.failure_classes import CheckpointDamaged, CheckpointMismatch
from training.fused_attention import keep_fused
from training.leg_identity import mismatch
from training.metrics import diverged
from training.spec import ModelShape
from training.weights_reader import load_weights

_STEP = re.compile(r"step-(\d+)")


def step_folders(folder: Path) -> dict[int, Path]:
    """Step folders, whole or not."""
    if not folder.is_dir():
        return {}
    found = ((_STEP.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in found if match is not None}


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One checkpoint of this attempt."""

    step: int
    time: float
    """Seconds since the epoch."""
    seconds: float
    """How long the step was held back."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The checkpoint that this attempt went on from."""

    step: int
    bytes: int
    """Size of the whole checkpoint."""
    host_bytes: tuple[int, ...]
    """What each host has read of it."""
    seconds: float
    """From the first byte to the last tensor in place."""


class LegCheckpoints(CheckpointManager):
    """torchtitan's manager with a verified source, checksums and a manifest in what it saves, and no weights that are NaN or Inf."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        """torchtitan's, and what the checkpoints are of."""

        leg: Json
        """What is trained, for the manifest: ``model`` and ``data`` must match to go on."""
        source: str
        """Folder of the checkpoint to go on from; it does not exist when the job starts afresh."""
        compile_cache: str | None
        """Folder that this host's ranks compile to, kept in each checkpoint; None keeps nothing."""
        weights: str
        """Folder of the weights to begin from; it does not exist when the job begins by chance or from a checkpoint."""
        shape: ModelShape
        """The model's."""

    def __init__(self, config: Config, **rest: Any) -> None:
        keep_fused(rest["model_parts"])
        super().__init__(config, **rest)
        self.leg = config.leg
        self.compile_cache = CacheKeeper(Path(config.compile_cache) if config.compile_cache else None)
        self.root = Path(self.folder)
        self.source, self.weights, self.shape = Path(config.source), Path(config.weights), config.shape
        self.saved: list[Saved] = []
        self.restored: Restored | None = None
        self.began_from_weights = False
        self.write_seconds: list[float] = []
        """From the start of each save of this attempt to its last file on disk."""
        self.on_held: Callable[[float], None] = lambda seconds: None
        self.watched: Callable[[], AbstractContextManager[None]] = nullcontext
        """Around everything that may wait for a disk: the watchdog's limit for it."""
        self._whole: list[int] = []  # complete on every host, oldest first
        self._in_flight: int | None = None
        self._saving: int = 0

    @torch.no_grad()
    def _load(self, step: int = -1) -> bool:
        """Load the checkpoint of the channel, else the weights of theirs; False when there is no checkpoint.

        Raises:
            CheckpointDamaged: a rank cannot read what it needs of it.
            CheckpointMismatch: it is of another model or data order.
            WeightsUnusable: a rank cannot read what it needs of the weights.
        """
        if not self.source.is_dir():
            if self.weights.is_dir():
                self._load_weights()
            else:
                logger.info("No checkpoint was given: training begins at step 1")
            return False
        begin = time.perf_counter()
        found = self._open()
        self._refuse_other_leg(found)
        reader = CheckpointReader(found)
        states = self._states_to_load(False)
        try:
            load(states, storage_reader=reader, planner=CheckpointPlanner())
        except CheckpointException as error:  # raised on every rank when one rank cannot read its part
            reason = next(iter(error.failures.values()))[0]
            words = str(reason) if isinstance(reason, DamagedCheckpoint) else f"it does not load ({type(reason).__name__}: {reason})"
            raise self._damaged(words[:300]) from error
        self.states["model"].load_state_dict(states)
        GarbageCollection.collect("GC collection for checkpoint loading.")
        self._account(found, reader.bytes_read, time.perf_counter() - begin)
        return True

    def _load_weights(self) -> None:
        """The model's weights and nothing else: optimiser, schedule, step and cursor stay as they were made."""
        begin, model = time.perf_counter(), self.states["model"]
        state = model.state_dict()
        bytes_read = load_weights(self.weights, self.shape, state)
        model.load_state_dict(state)
        self.began_from_weights = True
        shares = ", ".join(f"{count:,}" for count in _by_host(bytes_read))
        logger.info(f"Training begins from given weights, read in {time.perf_counter() - begin:.2f} s; each host's bytes: {shares}")

    def _open(self) -> Checkpoint:
        """The verified indexes, when every rank finds them so."""
        found, reason = None, None
        try:
            found = open_checkpoint(self.source)
        except DamagedCheckpoint as error:
            reason = str(error)
        reasons: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(reasons, reason)
        said = next((text for text in reasons if text is not None), None)
        if said is not None or found is None:
            raise self._damaged(said or "it cannot be read")
        return found

    def _damaged(self, reason: str) -> CheckpointDamaged:
        return CheckpointDamaged(f"the checkpoint to go on from is passed over: {reason}")

    def _refuse_other_leg(self, found: Checkpoint) -> None:
        saved, start = found.manifest.leg, self.leg.get("initial")
        if start and found.checksum == start.get("checksum"):  # another leg's, which this one was told to go on from
            saved = {**saved, "initial": start}
        difference = mismatch(saved, self.leg)
        if difference is not None:
            raise CheckpointMismatch(
                f"checkpoint step-{found.manifest.step} does not belong to this leg: {difference}. "
                "Start under another run_id, or give the settings it was made with"
            )

    def _account(self, found: Checkpoint, bytes_read: int, seconds: float) -> None:
        """Say what each host has read."""
        hosts = _by_host(bytes_read)
        manifest = found.manifest
        self.restored = Restored(step=manifest.step, bytes=manifest.bytes, host_bytes=hosts, seconds=seconds)
        shares = ", ".join(f"{count:,}" for count in hosts)
        logger.info(f"Checkpoint step-{manifest.step} of {manifest.bytes:,} bytes read in {seconds:.2f} s; each host's bytes: {shares}")

    def dcp_save(
        self,
        state_dict: dict[str, Any],
        checkpoint_id: str,
        async_mode: AsyncMode,
        enable_garbage_collection: bool = False,
        to_hf: bool = False,
    ) -> Future[Any] | AsyncSaveResponse | None:
        """torchtitan's three ways of saving, through the writer that sums and leaves a manifest."""
        assert not to_hf, "the export is training/export.py's"
        writer = CheckpointWriter(checkpoint_id, leg=self.leg, step=self._saving, world_size=dist.get_world_size())
        saving: Future[Any] | AsyncSaveResponse | None = None
        if async_mode == AsyncMode.ASYNC:
            saving = async_save(state_dict, storage_writer=writer, process_group=self.pg)
        elif async_mode == AsyncMode.ASYNC_WITH_PINNED_MEM:
            saving = async_save(
                state_dict,
                storage_writer=writer,
                process_group=self.pg,
                async_checkpointer_type=AsyncCheckpointerType.PROCESS,
                async_stager=self.stager,
            )
        else:
            save(state_dict, storage_writer=writer)
        if enable_garbage_collection:
            GarbageCollection.collect("GC collection invoked by checkpointer.")
        return saving

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
        self._in_flight = self._saving = step
        if dist.get_rank() == 0:
            self.compile_cache.put_into(self.root / f"step-{step}")
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

        Each host clears its own disk, and SageMaker's sync deletes in S3 what was deleted here. The manifest goes first, so
        that a half-deleted checkpoint is none.
        """
        if int(os.environ.get("LOCAL_RANK", "0")) != 0 or len(self._whole) < self.keep_latest_k:
            return
        oldest_kept = self._whole[-self.keep_latest_k]
        self._whole = self._whole[-self.keep_latest_k :]
        for step, path in sorted(step_folders(self.root).items()):
            if step < oldest_kept:
                (path / CHECKPOINT_MANIFEST).unlink(missing_ok=True)
                self.purge_queue.put(str(path))


def _by_host(bytes_read: int) -> tuple[int, ...]:
    """What the ranks of each host have read together. Collective."""
    ranks: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(ranks, bytes_read)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return tuple(sum(ranks[first : first + local]) for first in range(0, len(ranks), local))


def _first_device(models: list[torch.nn.Module]) -> torch.device:
    return next(models[0].parameters()).device
