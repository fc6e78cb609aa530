"""torch's profiler, and the CUDA allocator's history, over chosen steps: files below the attempt's diagnostics/.

torchtitan's loop calls its profiler after every step. torchtitan's own records every n-th step for as long as the run lasts; this
one records one window, writes it once, and ends no run: what goes wrong is a line of the log and of the leg's result.
Every rank that records is late for the step after the window; ``slowed_steps`` says so to the watchdog and the metrics.
"""

from __future__ import annotations

import gzip
import pickle
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

import torch
from torch.profiler import ProfilerAction, ProfilerActivity
from torchtitan.tools.logging import logger
from torchtitan.tools.profiler import Profiler

from training.profile_spec import WARMUP_STEPS, ProfileSpec

MAX_BYTES = 512 << 20
"""Of one file. It goes to S3 in the same sync as the checkpoints, and is read in a browser."""
MEMORY_EVENTS = 100_000
"""Allocations and frees in one snapshot, the newest. torch holds each with its stack: several kB of the host's memory."""
PACKED = 1  # gzip's level: traces shrink to a tenth with it, and the other ranks wait


class LegProfiler(Profiler):
    """Records the chosen steps, on the chosen ranks."""

    @dataclass(kw_only=True, slots=True)
    class Config(Profiler.Config):
        """What is recorded; torchtitan's own fields are ignored."""

        chosen: ProfileSpec | None = None
        """None records nothing."""
        folder: str = ""
        """Where the files go."""
        cuda: bool = False
        """Whether the leg trains on GPUs; only they have an allocator's history."""
        told: list[str] = field(default_factory=list)
        """What was not recorded, a sentence each, for the leg's result."""

    _config: Config

    def __init__(self, config: Config, *, global_step: int = 0, base_folder: str = "", leaf_folder: str = "") -> None:
        super().__init__(config, global_step=global_step, base_folder=base_folder, leaf_folder=leaf_folder)
        self._rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self._ended = global_step
        chosen = config.chosen
        self._first, self._last = chosen.steps if chosen is not None else (0, 0)
        self._waiting = chosen is not None and self._rank in chosen.ranks
        self._recording: torch.profiler.profile | None = None
        self._remembering = False
        """The allocator keeps its history."""

    def __enter__(self) -> LegProfiler:
        self._look_ahead()
        return self

    def step(self) -> None:
        """A step has ended, its checkpoint and its validation with it."""
        self._ended += 1
        if self._recording is not None:
            self._try(self._recording.step)  # after the last step torch calls _write_trace
        if self._ended == self._last:
            self._stop_recording()
            if self._remembering:
                self._try(self._write_memory)
        if self._waiting:
            self._look_ahead()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> Literal[False]:
        if self._remembering:  # the window is open
            self._try(self._write_memory if isinstance(error, torch.OutOfMemoryError) else self._forget)
        if self._recording is not None:
            self._recording.on_trace_ready = None  # a stop's seconds belong to its checkpoint
            self._stop_recording()
            self._tell(f"training ended after step {self._ended}")
        return False

    def _look_ahead(self) -> None:
        """Begin when the next step is recorded or warms the profiler up."""
        following = self._ended + 1
        if not self._waiting or following < self._first - WARMUP_STEPS:
            return
        self._waiting = False
        if following > self._last:
            self._tell(f"this attempt began after step {self._ended}")
            return
        self._try(lambda: self._begin(following))

    def _begin(self, following: int) -> None:
        chosen, cuda = self._config.chosen, self._config.cuda
        if chosen is not None and chosen.memory:
            if cuda:
                torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS, stacks="python")
                self._remembering = True
            else:
                self._tell("a CPU has no allocator's history, which training.profile.memory asks for", what="memory")
        recording = torch.profiler.profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])],
            schedule=self._schedule(following),
            on_trace_ready=self._write_trace,
            record_shapes=True,
        )
        recording.step_num = following  # the trace names steps as the metrics do
        recording.start()
        self._recording = recording

    def _schedule(self, following: int) -> Callable[[int], ProfilerAction]:
        """What to do in each step; torch asks for step 0 before it knows where the numbers begin."""

        def action(step: int) -> ProfilerAction:
            step = max(step, following)
            if step > self._last:
                return ProfilerAction.NONE
            if step == self._last:
                return ProfilerAction.RECORD_AND_SAVE
            return ProfilerAction.RECORD if step >= self._first else ProfilerAction.WARMUP

        return action

    def _stop_recording(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            self._try(recording.stop)

    def _write_trace(self, recording: torch.profiler.profile) -> None:
        with tempfile.TemporaryDirectory() as folder:
            plain, packed = Path(folder) / "trace.json", Path(folder) / self._name("trace", "json.gz")
            recording.export_chrome_trace(str(plain))
            with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=PACKED) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            self._keep(packed)

    def _write_memory(self) -> None:
        snapshot = torch.cuda.memory._snapshot()
        self._forget()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self._name("memory", "pickle")
            with path.open("wb") as file:
                pickle.dump(snapshot, file, protocol=4)  # the newest that pytorch.org/memory_viz reads (torchtitan/tools/profiler.py)
            self._keep(path)

    def _forget(self) -> None:
        self._remembering = False
        torch.cuda.memory._record_memory_history(enabled=None)

    def _name(self, what: str, end: str) -> str:
        return f"{what}-steps-{self._first}-{self._last}-rank-{self._rank}.{end}"

    def _keep(self, path: Path) -> None:
        """Move a whole file to its folder; one that is there already stays."""
        target, size = Path(self._config.folder) / path.name, path.stat().st_size
        if size > MAX_BYTES:
            self._tell(f"{path.name} has {size:,} bytes, and {MAX_BYTES:,} at most are kept; choose fewer steps", what=path.name)
        elif target.exists():
            self._tell(f"{path.name} is there from before", what=path.name)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
            logger.info(f"Profiled steps {self._first} to {self._last}: {path.name}, {size:,} bytes, in the attempt's diagnostics/")

    def _try(self, part: Callable[[], object]) -> None:
        """Whatever goes wrong in a part costs the recording and nothing else."""
        try:
            part()
        except Exception as error:
            self._recording = None
            self._tell(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            if self._remembering and part != self._forget:
                self._try(self._forget)

    def _tell(self, why: str, what: str = "trace") -> None:
        sentence = f"no {what} of steps {self._first} to {self._last} on rank {self._rank}: {why}"
        self._config.told.append(sentence)
        logger.warning(f"Profiler: {sentence}")
