"""Detects that steps have stopped, records stacks and NCCL's state, and ends the process so that the next attempt can resume.

A collective that waits for a lost peer never returns to Python, so the watchdog is a thread, and it ends the process itself.
"""

from __future__ import annotations

import faulthandler
import os
import statistics
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType

import torch

from training.failure_classes import CollectiveHang
from training.rank_notes import leave_failure

FLOOR_SECONDS = 60.0  # a checkpoint, a validation or a slow disk may hold one step back this long
FIRST_STEP_SECONDS = 1800.0  # torch.compile, NCCL's start and the load of a checkpoint come before the first step ends
RECORD_SECONDS = 30.0  # for NCCL's flight record, which asks a library that may itself be stuck
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again


class Watchdog:
    """A thread that expects ``beat`` within a number of median step times."""

    def __init__(self, folder: Path, median_steps: float, floor_seconds: float = FLOOR_SECONDS) -> None:
        self.folder = folder
        self.median_steps = median_steps
        self.floor_seconds = floor_seconds
        self.steps = 0
        self._step = 0
        self._times: deque[float] = deque(maxlen=101)  # an odd number of recent steps, so that the median is one of them
        self._last = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()

    def beat(self, step: int) -> None:
        """``step`` has ended (0 or the resumed step: training begins)."""
        now = time.monotonic()
        if self.steps > 1:
            self._times.append(now - self._last)
        self.steps += 1
        self._step, self._last = step, now

    @property
    def limit_seconds(self) -> float:
        """How long a step may take now."""
        if not self._times:
            return max(FIRST_STEP_SECONDS, self.floor_seconds)
        return max(self.floor_seconds, self.median_steps * statistics.median(self._times))

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self.floor_seconds / 4)):
            silent = time.monotonic() - self._last
            if silent > self.limit_seconds:
                try:
                    self._report(silent)
                finally:
                    os._exit(EXIT_CODE)

    def _report(self, silent: float) -> None:
        """Python stacks of every thread, the sentence, and then NCCL's flight record, which asks a stuck library and may not return."""
        rank = os.environ.get("RANK", "0")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"stacks-rank{rank}.txt").open("w") as file:
            faulthandler.dump_traceback(file=file, all_threads=True)
        median = f"{statistics.median(self._times):.2f} s" if self._times else "unknown"
        leave_failure(
            CollectiveHang(
                f"no step ended for {silent:.0f} s after step {self._step} (median step {median}, limit {self.limit_seconds:.0f} s): "
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
