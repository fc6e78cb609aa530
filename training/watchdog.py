"""Detects that work has stopped, records stacks and NCCL's state, and ends the process so that the next attempt can resume.

A collective that waits for a lost peer never returns to Python, so the watchdog is a thread, and it ends the process itself.
A step is measured against the steps before it; what is no step (loading, saving, validating, exporting) is a *phase* with a
limit of its own, made of the bytes it moves or the batches it computes (``Limits``).
"""

from __future__ import annotations

import faulthandler
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import torch
from torchtitan.tools.logging import logger

from training.failure_classes import CollectiveHang
from training.rank_notes import leave_failure

FLOOR_SECONDS = 60.0  # garbage collection, a slow disk or a busy host may hold one step or the start of a phase back this long
FIRST_STEP_SECONDS = 1800.0  # torch.compile and NCCL's start come before the first step ends; the first validation compiles too
RECORD_SECONDS = 30.0  # for NCCL's flight record, which asks a library that may itself be stuck
SLOWEST_BYTES_PER_SECOND = 64e6  # half of what the slowest volume of a training instance sustains (EBS gp2 below 170 GB: 128 MB/s)
PROFILED_SECONDS = 900.0  # for a trace of 32 passes: about 1 GB of events to sort, write and pack on one core, while the other ranks wait
SAMPLE_SECONDS = 180.0  # 64 forward passes of 256 tokens; over 64 GPUs one of 70B gathers 141 GB, about a second
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long each phase may take, in seconds."""

    load: float
    """Reading a checkpoint, on top of the first step's limit."""
    save: float
    """Writing one, staging it, or waiting for the one before."""
    export: float
    """Gathering and writing the model."""
    validation_batches: int
    """Batches of one validation on this rank; each is a forward pass, so it takes no longer than a step."""

    @classmethod
    def of(cls, *, checkpoint_bytes: int, export_bytes: int, validation_batches: int) -> Limits:
        """For so many bytes on one host. 8B on one host: 96 GB to save / 64 MB/s + 60 s = 26 minutes, its export 5 (bfloat16)."""

        def moved(count: int) -> float:
            return FLOOR_SECONDS + count / SLOWEST_BYTES_PER_SECOND

        return cls(
            load=checkpoint_bytes / SLOWEST_BYTES_PER_SECOND,
            save=moved(checkpoint_bytes),
            export=moved(export_bytes),
            validation_batches=validation_batches,
        )


@dataclass(frozen=True, kw_only=True)
class _Phase:
    name: str
    began: float
    limit: float
    optional: bool


class Watchdog:
    """A thread that expects ``beat`` within a number of median step times, and the end of a phase within its limit."""

    def __init__(self, folder: Path, median_steps: float, *, load_seconds: float = 0.0, floor_seconds: float = FLOOR_SECONDS) -> None:
        self.folder = folder
        self.median_steps = median_steps
        self.load_seconds = load_seconds
        self.floor_seconds = floor_seconds
        self.steps = 0
        self.extra_seconds = 0.0
        """What the running step may take beyond its limit: it is profiled, or waits for a trace. Such a step is no measure of others."""
        self._step = 0
        self._times: deque[float] = deque(maxlen=101)  # an odd number of recent steps, so that the median is one of them
        self._last = time.monotonic()
        self._phase: _Phase | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Watch from now on."""
        self._last = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._done.set()

    def beat(self, step: int) -> None:
        """``step`` has ended (0 or the resumed step: training begins)."""
        now = time.monotonic()
        if self.steps > 1 and not self.extra_seconds:
            self._times.append(now - self._last)
        self.steps += 1
        self._step, self._last = step, now

    @contextmanager
    def phase(self, name: str, limit_seconds: float, *, optional: bool = False) -> Iterator[None]:
        """What happens inside is no step: it has ``limit_seconds``, and its time counts into no step.

        ``optional`` work that does not end costs nothing but itself: the process ends with success.
        """
        outer = self._phase
        self._phase = phase = _Phase(name=name, began=time.monotonic(), limit=limit_seconds, optional=optional)
        try:
            yield
        finally:
            spent = time.monotonic() - phase.began
            if outer is None:
                self._last += spent
            else:
                outer = replace(outer, began=outer.began + spent)
            self._phase = outer

    @property
    def median_seconds(self) -> float | None:
        """Of the recent steps; None before the third has ended."""
        return statistics.median(self._times) if self._times else None

    @property
    def limit_seconds(self) -> float:
        """How long a step may take now."""
        median = self.median_seconds
        if median is None:
            return max(FIRST_STEP_SECONDS, self.floor_seconds) + self.load_seconds + self.extra_seconds
        return max(self.floor_seconds, self.median_steps * median) + self.extra_seconds

    def validation_seconds(self, batches: int, *, first: bool) -> float:
        """Limit of a validation: a step's own, for the start and the end, and two median steps for each batch."""
        start = FIRST_STEP_SECONDS if first else self.limit_seconds
        return start + 2 * batches * (self.median_seconds or FLOOR_SECONDS)

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self.floor_seconds / 4)):
            phase, now = self._phase, time.monotonic()
            silent, limit = (now - self._last, self.limit_seconds) if phase is None else (now - phase.began, phase.limit)
            if silent > limit and phase is self._phase:
                code = EXIT_CODE
                try:
                    if phase is not None and phase.optional:
                        code = 0
                        logger.warning(f"{phase.name} did not end within {limit:.0f} s and is left out; everything else is done")
                    else:
                        self._report(phase, silent, limit)
                finally:
                    os._exit(code)

    def _report(self, phase: _Phase | None, silent: float, limit: float) -> None:
        """Python stacks of every thread, the sentence, and then NCCL's flight record, which asks a stuck library and may not return."""
        rank = os.environ.get("RANK", "0")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"stacks-rank{rank}.txt").open("w") as file:
            faulthandler.dump_traceback(file=file, all_threads=True)
        median = "unknown" if self.median_seconds is None else f"{self.median_seconds:.2f} s"
        what = "no step ended for" if phase is None else f"{phase.name} did not end within"
        also = ", training.profile was recording" if self.extra_seconds else ""
        leave_failure(
            CollectiveHang(
                f"{what} {silent:.0f} s after step {self._step} (median step {median}, limit {limit:.0f} s{also}): "
                f"a rank or the network between hosts is stuck. Stacks of each rank are in the job's output, stacks-rank*.txt"
            )
        )
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            recorder = threading.Thread(target=self._record_flight, args=(rank,), daemon=True)
            recorder.start()
            recorder.join(RECORD_SECONDS)

    def _record_flight(self, rank: str) -> None:
        record = torch._C._distributed_c10d._dump_nccl_trace()  # type: ignore[attr-defined]
        (self.folder / f"flight-rank{rank}.pickle").write_bytes(record)
