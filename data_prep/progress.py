"""Progress of the job: JSON lines in a job's log, a bar on a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

LINE_SECONDS = 5.0
BAR_SECONDS = 0.2
BAR_CELLS = 30


@dataclass(frozen=True)
class Counts:
    """What this instance has read and made so far."""

    stored_bytes: int = 0
    documents: int = 0
    tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.stored_bytes + other.stored_bytes, self.documents + other.documents, self.tokens + other.tokens)


@dataclass
class Progress:
    """Shows ``{"stage": "prepare", "done_bytes":, "total_bytes":, "documents":, "tokens":, "eta_seconds":}``.

    In a mixture a line has the ``source`` too.
    """

    total_bytes: int
    resumed: Counts = field(default_factory=Counts)
    """Done by an earlier attempt: counted, but not in the speed."""
    out: TextIO = field(default_factory=lambda: sys.stdout)
    clock: Callable[[], float] = time.monotonic
    source: str = ""
    """Name of the source, where there are several."""

    def __post_init__(self) -> None:
        self._started = self.clock()
        self._shown = float("-inf")
        self._bar = self.out.isatty()

    def show(self, now: Counts, *, final: bool = False) -> None:
        """Show it when it is time to."""
        moment = self.clock()
        if not final and moment - self._shown < (BAR_SECONDS if self._bar else LINE_SECONDS):
            return
        self._shown = moment
        done = self.resumed + now
        eta = 0 if final else self._eta(now, moment)
        text = self._as_bar(done, eta, final) if self._bar else self._as_line(done, eta)
        print(text, end="" if self._bar and not final else "\n", file=self.out, flush=True)

    def _eta(self, now: Counts, moment: float) -> int | None:
        spent = moment - self._started
        if now.stored_bytes == 0 or spent <= 0:
            return None
        left = self.total_bytes - self.resumed.stored_bytes - now.stored_bytes
        return max(0, round(left * spent / now.stored_bytes))

    def _as_line(self, done: Counts, eta: int | None) -> str:
        content = {
            "stage": "prepare", "done_bytes": done.stored_bytes, "total_bytes": self.total_bytes,
            "documents": done.documents, "tokens": done.tokens, "eta_seconds": eta,
        }  # fmt: skip
        return json.dumps(content | ({"source": self.source} if self.source else {}))

    def _as_bar(self, done: Counts, eta: int | None, final: bool) -> str:
        share = min(1.0, done.stored_bytes / self.total_bytes) if self.total_bytes else 1.0
        cells = round(share * BAR_CELLS)
        left = "done" if final else f"{eta} s left" if eta is not None else ""
        bar = "#" * cells + "-" * (BAR_CELLS - cells)
        return f"\r[{bar}] {share:4.0%}  {done.documents:,} documents  {done.tokens:,} tokens  {left:12}"
