"""A simulated clock for the interpreter: processes sleep and wait for each other without real time passing."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

Steps = Generator["float | FirstOf", Any, Any]
"""What a process is: it yields seconds to sleep, or ``FirstOf`` to wait, and returns its result."""


@dataclass(eq=False)
class Process:
    """One running activity: its outcome once it ended."""

    steps: Steps
    result: Any = None
    error: Exception | None = None
    ended: bool = False


@dataclass(frozen=True)
class FirstOf:
    """Wait until one of these has ended; the process is resumed with it."""

    processes: Sequence[Process]


@dataclass
class Clock:
    """Runs processes in the order of their times; equal times in the order of their starts."""

    now: float = 0.0
    _queue: list[tuple[float, int, Process, Any]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _waiters: dict[int, tuple[Process, FirstOf]] = field(default_factory=dict)

    def start(self, steps: Steps) -> Process:
        """Start a process now."""
        process = Process(steps)
        self._resume(process, None)
        return process

    def cancel(self, process: Process) -> None:
        """End a process where it is; it sees GeneratorExit."""
        if not process.ended:
            process.ended = True
            self._waiters.pop(id(process), None)
            process.steps.close()

    def run(self, steps: Steps) -> Any:
        """Run a process to its end and give its result; its error is raised."""
        main = self.start(steps)
        while not main.ended:
            self.now, _, process, value = heapq.heappop(self._queue)
            if not process.ended:
                self._step(process, value)
        if main.error is not None:
            raise main.error
        return main.result

    def _resume(self, process: Process, value: Any, seconds: float = 0.0) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), process, value))

    def _step(self, process: Process, value: Any) -> None:
        try:
            wanted = process.steps.send(value)
        except StopIteration as stop:
            process.result = stop.value
        except Exception as error:
            process.error = error
        else:
            if isinstance(wanted, FirstOf):
                self._wait(process, wanted)
            else:
                self._resume(process, None, wanted)
            return
        process.ended = True
        for waiter, first in list(self._waiters.values()):
            if process in first.processes:
                del self._waiters[id(waiter)]
                self._resume(waiter, process)

    def _wait(self, process: Process, first: FirstOf) -> None:
        ended = next((other for other in first.processes if other.ended), None)
        if ended is not None:
            self._resume(process, ended)
        else:
            self._waiters[id(process)] = (process, first)
