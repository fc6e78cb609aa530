"""torchtitan's trainer with what a long run needs around each step: an agreed stop, a watchdog, and an end at NaN or Inf."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torchtitan.tools.logging import logger
from torchtitan.trainer import Trainer

from training.failure_classes import Preempted
from training.leg_job import STOP_SECONDS
from training.loader import ShardLoader
from training.metrics import LegMetrics, diverged
from training.positions import with_positions
from training.profile_spec import slowed_steps
from training.profiling import LegProfiler
from training.rank_notes import record_crashes
from training.staging import Staging, agree_on_staging
from training.watchdog import PROFILED_SECONDS, Limits, Watchdog

ARRIVING_SHARE = 0.5  # of what a stop leaves: the files are written once and uploaded once, and an upload is no faster than the disk
_NOT_FINITE = "Loss is not finite"  # how torchtitan's train_step begins that RuntimeError


class StopAgreement:
    """Whether to stop, with one answer for all ranks at the same step.

    SIGTERM reaches the hosts at different moments, and a checkpoint needs all ranks. Each step starts a sum of the
    ranks' wishes over gloo and reads the sum that the step before started: nothing waits, and all ranks read the same.
    """

    def __init__(self, stop_file: Path) -> None:
        self._stop_file = stop_file
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        self._wanted = False
        self._signalled_at = 0.0
        self._pending: tuple[torch.Tensor, dist.Work] | None = None
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self._wanted, self._signalled_at = True, time.time()

    def seconds_left(self) -> float:
        """Until this host's container is killed; all of it where the stop came to another host."""
        try:
            asked_at = self._stop_file.stat().st_mtime
        except FileNotFoundError:
            asked_at = self._signalled_at or time.time()
        return asked_at + STOP_SECONDS - time.time()

    def any(self, mine: bool) -> bool:
        """Whether it is so on any rank. Collective, and waits."""
        wish = torch.tensor(float(mine))
        dist.all_reduce(wish, op=dist.ReduceOp.MAX, group=self._group)
        return bool(wish.item())

    def ask(self) -> bool:
        """Call once per step, on every rank: true when any rank wished to stop by the step before."""
        answer = False
        if self._pending is not None:
            total, work = self._pending
            work.wait()
            answer = bool(total.item())
        wish = torch.tensor(float(self._wanted or self._stop_file.exists()))
        started = dist.all_reduce(wish, group=self._group, async_op=True)
        self._pending = (wish, started)
        return answer


class LegTrainer(Trainer):
    """Trains one leg to its last step, or to an agreed stop with a final checkpoint.

    Nothing here waits for the device: the stop is agreed on between hosts' CPUs, the watchdog reads a clock. Loss and norm are
    looked at where torchtitan brings them to the host anyway, at logged steps; the step before a checkpoint is always one of
    them, so NaN and Inf are noticed at most one logging interval late, and never saved.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        """torchtitan's, and what the watchdog and the stop need."""

        hang_after_median_steps: float = 50.0
        """See TrainingSpec."""
        diagnostics: str
        """Folder for stacks and flight records of a hang."""
        stop_file: str
        """Its presence is a wish to stop; the job makes it on SIGTERM."""
        limits: Limits
        """How long what is no step may take."""
        profiler: LegProfiler.Config = field(default_factory=LegProfiler.Config)
        """Which steps are recorded."""

    config: Config
    metrics_processor: LegMetrics
    dataloader: ShardLoader

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.stopping = False
        self._passes = 0
        self.resumed_from = 0
        self.on_part: Callable[[str], None] = lambda part: None
        """Called at the end of each part of the start (training/startup.py)."""
        self._agreement = StopAgreement(Path(config.stop_file))
        self.watchdog = Watchdog(Path(config.diagnostics), config.hang_after_median_steps, load_seconds=config.limits.load)
        self.limits = config.limits
        self._slowed = slowed_steps(config.profiler.chosen)
        self.staging: Staging = agree_on_staging(self.checkpointer)
        self.checkpointer.on_held = self._hold
        self.checkpointer.watched = lambda: self.watchdog.phase("saving a checkpoint", self.limits.save)
        self.metrics_processor.seen = self.dataloader.seen
        if config.validator.enable:
            self.validator.watched = self._validation_phase

    def train(self) -> None:
        """Train from the newest usable checkpoint. The watchdog watches from here to ``close``.

        Raises:
            Preempted: stopped on request; the sentence says which checkpoint there is.
            LossDiverged: loss, gradient norm or a weight is NaN or Inf.
        """
        self.watchdog.start()
        super().train()
        if self.stopping:
            self._stop()

    def close(self) -> None:
        """Stop the watchdog, and what torchtitan closes."""
        if hasattr(self, "watchdog"):
            self.watchdog.stop()
        super().close()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Step and tokens of the checkpoint this job goes on from."""
        super().load_state_dict(state_dict)
        self.resumed_from = self.step

    def should_continue_training(self) -> bool:
        """False after the last step and when the ranks agreed to stop."""
        if self.watchdog.steps == 0:
            self.metrics_processor.begin(self.step)
            record_crashes(Path(self.config.stop_file).parent)
            self.on_part("checkpoint")
            if self.checkpointer.began_from_weights and self.config.validator.enable:
                self.validator.validate(self.model_parts, self.step)  # the weights' own loss, before anything is learned
        elif self.watchdog.steps == 1:
            self.on_part("first_step")
        self.watchdog.beat(self.step)
        self.watchdog.extra_seconds = PROFILED_SECONDS if self.step + 1 in self._slowed else 0.0
        self.stopping = self._agreement.ask() and super().should_continue_training()
        return not self.stopping and super().should_continue_training()

    def train_step(self, data_iterator: Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]) -> None:
        """One optimiser step.

        Raises:
            LossDiverged: the loss or gradient norm is NaN or Inf.
        """
        self.metrics_processor.cursor = str(self.dataloader.cursors())
        try:
            super().train_step(data_iterator)
        except RuntimeError as error:
            if _NOT_FINITE in str(error):
                value = float(str(error).partition("global_avg_loss=")[2].partition(")")[0])
                raise diverged("loss", value, self.step, self.metrics_processor.cursor) from error
            raise

    def forward_backward_step(self, **arguments: Any) -> torch.Tensor:
        """torchtitan's. With HSDP only the last pass of a step sums gradients over the replicas: torchtitan 0.3.0 does so in every
        pass, and a sum of sums is the same (pytorch/torchtitan#1929). The loss in chunks still sums the output layer's in each. A
        captured CUDA graph is of one pass and replays it for all.
        """
        passes = self.gradient_accumulation_steps
        if self.parallel_dims.dp_replicate_enabled and passes > 1 and self.config.training.disable_cuda_graphs:
            self._passes += 1
            for part in self.model_parts:
                cast(FSDPModule, part).set_requires_all_reduce(self._passes % passes == 0)
        loss: torch.Tensor = super().forward_backward_step(**arguments)
        return loss

    def post_dataloading_process(self, input_dict: dict[str, torch.Tensor], labels: torch.Tensor) -> Any:
        """torchtitan's, which needs positions to split a sequence over ranks."""
        return super().post_dataloading_process(with_positions(input_dict) if self.parallel_dims.cp_enabled else input_dict, labels)

    def _hold(self, seconds: float) -> None:
        self.metrics_processor.held.checkpoint += seconds

    def _validation_phase(self) -> AbstractContextManager[None]:
        first = not self.validator.validations
        return self.watchdog.phase("validation", self.watchdog.validation_seconds(self.limits.validation_batches, first=first))

    def _stop(self) -> None:
        """A last checkpoint when one can arrive, and the sentence that says what there is."""
        saver, last = self.checkpointer, self.config.training.steps
        made = [saved for saved in saver.saved if saved.step < self.step]
        before = f"; step-{made[-1].step} was saved {time.time() - made[-1].time:.0f} s before" if made else ""
        stored = f"step-{self.resumed_from}, which this attempt began from" if self.resumed_from else "none of this run's"
        surely = f"known to be in S3: {stored}"
        told = f"stopped on request after step {self.step} of {last}"
        needed = max(saver.write_seconds, default=0.0)
        if saver.saved and saver.saved[-1].step == self.step:
            with saver.watched():
                saver.maybe_wait_for_saving()
        elif self._agreement.any(needed > ARRIVING_SHARE * self._agreement.seconds_left()):
            with saver.watched():
                saver.maybe_wait_for_saving()  # the one before may still be on its way to the disk
            raise Preempted(
                f"{told}; no checkpoint of it was begun: saving took {needed:.0f} s before, and writing and uploading have "
                f"{STOP_SECONDS:.0f} s after a stop{before}; {surely}. training.checkpoint.interval_steps bounds what a stop loses"
            )
        else:
            with saver.watched():
                saver.save_now(self.step, blocking=True)
        if dist.get_rank() == 0:
            logger.info(f"Stopped on request after step {self.step}")
        raise Preempted(f"{told}; its checkpoint is written to disk and SageMaker uploads it, unacknowledged{before}; {surely}")
