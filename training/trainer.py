"""torchtitan's trainer with what a long run needs around each step: an agreed stop, a watchdog, and an end at NaN or Inf."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torchtitan.tools.logging import logger
from torchtitan.trainer import Trainer

from training.failure_classes import Preempted
from training.metrics import LegMetrics, diverged
from training.positions import with_positions
from training.watchdog import Watchdog

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
        self._pending: tuple[torch.Tensor, dist.Work] | None = None
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self._wanted = True

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

    config: Config
    metrics_processor: LegMetrics

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.stopping = False
        self.resumed_from = 0
        self.checkpointer.on_held = self._hold
        self._agreement = StopAgreement(Path(config.stop_file))
        self._watchdog = Watchdog(Path(config.diagnostics), config.hang_after_median_steps)

    def train(self) -> None:
        """Train from the newest usable checkpoint.

        Raises:
            Preempted: stopped on request; a checkpoint of the last step is complete.
            LossDiverged: loss, gradient norm or a weight is NaN or Inf.
        """
        with self._watchdog:
            super().train()
            if self.stopping:
                self._stop()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Step and tokens of the checkpoint this job goes on from."""
        super().load_state_dict(state_dict)
        self.resumed_from = self.step

    def should_continue_training(self) -> bool:
        """False after the last step and when the ranks agreed to stop."""
        if self._watchdog.steps == 0:
            self.metrics_processor.begin(self.step)
        self._watchdog.beat(self.step)
        self.stopping = self._agreement.ask() and super().should_continue_training()
        return not self.stopping and super().should_continue_training()

    def train_step(self, data_iterator: Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]) -> None:
        """One optimiser step.

        Raises:
            LossDiverged: the loss or gradient norm is NaN or Inf.
        """
        self.metrics_processor.cursor = str(self.dataloader.state_dict())
        try:
            super().train_step(data_iterator)
        except RuntimeError as error:
            if _NOT_FINITE in str(error):
                value = float(str(error).partition("global_avg_loss=")[2].partition(")")[0])
                raise diverged("loss", value, self.step, self.metrics_processor.cursor) from error
            raise

    def post_dataloading_process(self, input_dict: dict[str, torch.Tensor], labels: torch.Tensor) -> Any:
        """torchtitan's, which needs positions to split a sequence over ranks."""
        return super().post_dataloading_process(with_positions(input_dict) if self.parallel_dims.cp_enabled else input_dict, labels)

    def _hold(self, seconds: float) -> None:
        self.metrics_processor.held.checkpoint += seconds

    def _stop(self) -> None:
        if self.checkpointer.saved and self.checkpointer.saved[-1].step == self.step:
            self.checkpointer.maybe_wait_for_saving()
        else:
            self.checkpointer.save_now(self.step, blocking=True)
        if dist.get_rank() == 0:
            logger.info(f"Stopped on request after step {self.step}")
        raise Preempted(f"stopped on request after step {self.step} of {self.config.training.steps}; a checkpoint of it is complete")
