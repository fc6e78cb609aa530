"""torchtitan's metrics, as one JSON line per logged step: printed, appended to metrics.jsonl, and written for TensorBoard.

One rank writes: rank 0, or with pipeline stages the first rank of the last stage, which alone knows the loss.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.distributed import ParallelDims

from contracts.accelerators import accelerator_of
from contracts.files import METRICS_FILE
from contracts.metric_line import BySource, format_line, parse_line
from training.event_files import EventFiles
from training.failure_classes import LossDiverged


class MetricsFile:
    """metrics.jsonl of an attempt; a report joins those of a leg's attempts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[dict[str, float]]:
        """Every whole line, oldest first."""
        if not self.path.exists():
            return []
        parsed = (parse_line(line) for line in self.path.read_text().splitlines())
        return [row for row in parsed if row is not None]

    def append(self, line: str) -> None:
        """Add one line, flushed, so that a kill loses none."""
        with self.path.open("a") as file:
            file.write(line + "\n")


@dataclass
class Held:
    """Seconds since the last logged step that were not training."""

    checkpoint: float = 0.0
    validation: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.checkpoint + self.validation


@dataclass
class Totals:
    """Totals of this attempt for the leg's result."""

    seconds: float = 0.0
    """Training seconds, checkpoints and validation excluded."""
    tokens_per_second: list[float] = field(default_factory=list)
    """Per device, one value per logged interval after the first step."""
    mfu: list[float] = field(default_factory=list)
    memory_gib: float = 0.0


class LegMetrics(MetricsProcessor):
    """Measures each logged interval and writes the metrics line."""

    @dataclass(kw_only=True, slots=True)
    class Config(MetricsProcessor.Config):
        """Where the lines go, and which steps must be logged."""

        folder: str
        """Folder of metrics.jsonl."""
        tensorboard_folder: str
        """Folder of TensorBoard's event files."""
        checked_steps: int
        """Loss and gradient norm are looked at, and so logged, at least every this many steps: before each checkpoint."""
        last_step: int
        """Logged whatever the interval."""
        tokens_per_step: int
        """Over all devices."""
        slowed: tuple[int, int] = (0, 0)
        """First step that the profiler slows, and the step after the last one; equal: none."""

    def __init__(self, config: Config, *, parallel_dims: ParallelDims, pp_schedule: str = "1F1B", **rest: Any) -> None:
        super().__init__(config, parallel_dims=parallel_dims, pp_schedule=pp_schedule, **rest)
        world, stages = parallel_dims.world_size, parallel_dims.pp
        self.writes = torch.distributed.get_rank() == world // stages * (stages - 1)
        self.file = MetricsFile(Path(config.folder) / METRICS_FILE)
        self.tensorboard: EventFiles | None = None
        device = accelerator_of(self.device_memory_monitor.device_name)
        self.peak = None if device is None else device.bf16_flops
        self.held = Held()
        self.held_out: list[float] = []
        self.totals = Totals()
        self.cursor = "unknown"
        self.seen: Callable[[], BySource] = dict
        """What each source of a mixture has given so far."""
        self.ntokens_since_last_log = 0
        self.started_after = 0
        self._last_step = 0

    def begin(self, step: int) -> None:
        """Training starts after ``step`` (0, or the step of the checkpoint)."""
        self.started_after = self._last_step = step
        self.time_last_log = time.perf_counter()
        if not self.writes:
            return
        self.tensorboard = EventFiles(self.config.tensorboard_folder, first_step=step + 1)

    def should_log(self, step: int) -> bool:
        """First, last, every ``log_freq`` steps, and before each checkpoint."""
        config = self.config
        return step in (1, config.last_step) or step % config.log_freq == 0 or step % config.checked_steps == 0

    def log(
        self, step: int, global_avg_loss: float, global_max_loss: float, grad_norm: float, extra_metrics: dict[str, Any] | None = None
    ) -> None:
        """One interval: loss and norm of this step, speed and memory since the previous logged one.

        Raises:
            LossDiverged: the gradient norm is NaN or Inf, and so are the weights.
        """
        if not math.isfinite(grad_norm):
            raise diverged("gradient norm", grad_norm, step, self.cursor)
        now = time.perf_counter()
        seconds = max(now - self.time_last_log - self.held.total, 1e-9)
        steps = step - self._last_step
        rate = self.ntokens_since_last_log / (seconds * self.parallel_dims.non_data_parallel_size)
        mfu = None if self.peak is None else 100 * self.num_flops_per_token * rate / self.peak
        memory = self.device_memory_monitor.get_peak_stats().max_reserved_gib
        profiled = len(range(max(self._last_step + 1, self.config.slowed[0]), min(step + 1, self.config.slowed[1])))
        learning_rate = next(value for name, value in (extra_metrics or {}).items() if name.startswith("lr"))
        self._write(
            step,
            {
                "loss": global_avg_loss,
                "grad_norm": grad_norm,
                "lr": learning_rate,
                "tokens": step * self.config.tokens_per_step,
                "tokens_per_second_per_device": rate,
                "mfu": mfu,
                "step_seconds": seconds / steps,
                "data_wait_seconds": sum(self.data_loading_times) / steps,
                "memory_gib": memory,
                "checkpoint_seconds": self.held.checkpoint,
                **({"profiled_steps": profiled} if profiled else {}),
            },
            self.seen(),
        )
        self._add(step, seconds, None if profiled else rate, mfu, memory)
        self._last_step, self.ntokens_since_last_log, self.held = step, 0, Held()
        self.data_loading_times.clear()
        self.device_memory_monitor.reset_peak_stats()
        self.time_last_log = time.perf_counter()

    def log_validation(self, loss: float, step: int, extra_metrics: dict[str, Any] | None = None) -> None:
        """torchtitan's call after one pass over one validation loader: the loss is kept until ``end_validation``."""
        self.held_out.append(loss)

    def end_validation(self, step: int, sources: Sequence[str]) -> None:
        """One line for the passes since the last call, one for each of ``sources``. Does not disturb the measured interval.

        The loss is the plain mean of the sources' losses: it does not depend on their shares, so that legs with other mixtures
        and the stages of a curriculum compare.
        """
        losses, self.held_out = self.held_out, []
        loss = statistics.fmean(losses)
        by_source = {name: {"held_out_loss": value} for name, value in zip(sources, losses, strict=True) if name}
        self._write(step, {"validation_loss": loss, "validation_perplexity": math.exp(min(loss, 700.0))}, by_source)

    def close(self) -> None:
        """Flush TensorBoard."""
        super().close()
        if self.tensorboard is not None:
            self.tensorboard.close()

    def _write(self, step: int, values: dict[str, float | None], sources: BySource) -> None:
        if not self.writes:
            return
        line = format_line(step, time.time(), values, sources)
        print(line, flush=True)
        self.file.append(line)
        if self.tensorboard is not None:
            nested = {f"{name}/{source}": value for source, each in sources.items() for name, value in each.items()}
            self.tensorboard.add(step, values | nested)

    def _add(self, step: int, seconds: float, rate: float | None, mfu: float | None, memory: float) -> None:
        """``rate`` is None for an interval that is no measure of the speed."""
        totals = self.totals
        totals.seconds += seconds
        totals.memory_gib = max(totals.memory_gib, memory)
        if rate is not None and step > self.started_after + 1:  # the first step of a process compiles and allocates
            totals.tokens_per_second.append(rate)
            if mfu is not None:
                totals.mfu.append(mfu)


def diverged(what: str, value: float, step: int, cursor: str) -> LossDiverged:
    """The failure that ends a run with NaN or Inf in loss, gradient or weights."""
    return LossDiverged(
        f"{what} is {value} at step {step} (data cursor: {cursor}); no checkpoint holds it. "
        "Lower training.optimizer.lr, lengthen training.schedule.warmup_steps or look at the text at that cursor, then start again"
    )


def write_json(path: Path, content: Any) -> None:
    """Write atomically, since the checkpoint sync may read the file at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
