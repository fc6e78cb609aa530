"""A bound on calls into a tokenizer: a regular expression in tokenizer.json can take for ever, and no signal reaches native code.

A timer thread ends the process when a call takes longer; what a worker leaves in a file becomes the job's sentence.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 60.0  # a busy machine's pauses
SLOWEST_BYTES_PER_SECOND = 50_000  # a hundredth of what Hugging Face tokenizers do on one core
SENTENCE_FILE = "ended"
READING_FILE = "reading"


class Patience:
    """The bound for one process; ``say`` gets the sentence before the process ends."""

    def __init__(self, say: Callable[[str], Any], seconds: float = PATIENCE_SECONDS) -> None:
        self._say, self._seconds = say, seconds

    @contextmanager
    def bounded(self, what: str, size: int) -> Iterator[None]:
        """End this process if the body takes longer than ``size`` bytes of text may take."""
        seconds = self._seconds + size / SLOWEST_BYTES_PER_SECOND
        timer = threading.Timer(seconds, self._end, (what, size, seconds))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end(self, what: str, size: int, seconds: float) -> None:
        self._say(
            f"the tokenizer had not encoded {what} ({size} bytes) after {seconds:.0f} s; "
            "a regular expression in tokenizer.json that backtracks is the usual cause: use another tokenizer or correct its pre_tokenizer"
        )
        os._exit(1)


def note_reading(folder: Path, part: int, objects: str) -> None:
    """Leave what this process reads, for the case that a library ends the process."""
    (folder / READING_FILE).write_text(json.dumps({"pid": os.getpid(), "part": part, "objects": objects}))


@dataclass(frozen=True)
class Reading:
    """What a process of this job read last."""

    pid: int
    part: int
    objects: str


def last_read(folder: Path) -> list[Reading]:
    """Of every process that read something."""
    return [Reading(**json.loads(path.read_text())) for path in sorted(folder.glob(f"*/{READING_FILE}")) if path.stat().st_size]


def ended(folder: Path) -> str | None:
    """The sentence that a process of this job left below ``folder``, if one did."""
    return next((path.read_text() for path in sorted(folder.glob(f"*/{SENTENCE_FILE}"))), None)
