"""Where the time from the container's start to the first step went. Every instance is paid for from then on.

The container's entry and rank 0 mark the end of each part in one small file of the host; nobody else reads a clock for it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

STARTUP_FILE = "startup.json"  # in the folder of the ranks' notes
PARTS = {
    "checks": "node health and token shards",
    "compile_cache": "unpacking what an earlier attempt compiled",
    "fabric": "all-reduce over all hosts, where there are several",
    "ranks": "torchrun, imports and process groups",
    "model": "building model and optimiser",
    "checkpoint": "reading the checkpoint",
    "first_step": "the first step, which compiles",
}
"""Parts in their order, and what they are."""


class Startup:
    """The parts so far, kept in ``folder`` so that the ranks go on where the entry stopped."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / STARTUP_FILE

    def begin(self) -> None:
        """The container's entry starts: the time at which its process was made, imports included."""
        self._write({"last": _process_began(), "seconds": {}})

    def end(self, part: str) -> None:
        """``part`` ends now; it began when the one before ended."""
        if part not in PARTS:
            raise ValueError(f"no such part: {part}; add it to training/startup.py")
        try:
            state = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return  # ranks started without the container's entry, as benchmarks do
        now = time.time()
        state["seconds"][part] = round(now - state["last"], 3)
        self._write({**state, "last": now})

    def seconds(self) -> dict[str, float]:
        """Seconds by part, in order; empty when nothing was marked."""
        try:
            found = json.loads(self._file.read_text())["seconds"]
        except (OSError, ValueError, KeyError):
            return {}
        return {part: float(found[part]) for part in PARTS if part in found}

    def _write(self, state: dict[str, object]) -> None:
        temporary = self._file.with_suffix(".part")
        temporary.write_text(json.dumps(state))
        temporary.replace(self._file)


def said(seconds: dict[str, float]) -> str:
    """One line for the log."""
    parts = ", ".join(f"{part.replace('_', ' ')} {value:.1f} s" for part, value in seconds.items())
    return f"Start-up took {sum(seconds.values()):.1f} s: {parts}"


def _process_began() -> float:
    """Seconds since the epoch at which this process was made (Linux: field 22 of /proc/self/stat, in clock ticks since boot)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - max(0.0, age)
