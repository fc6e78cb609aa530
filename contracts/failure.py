"""Failure sentences: one classed sentence for the reason a job stopped, in the file that SageMaker reads.

``CorruptShard (stop): shard train/part-00003.tokens has 10 bytes fewer than index.json says; ...``

The class names the failure, the word in brackets whether a retry can help: ``retry`` (the same job may
succeed on another host or later) or ``stop`` (the same input fails again). `triage` reads both;
explanation, notification and command line show the sentence verbatim.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

Retry = Literal["retry", "stop"]

MAX_FAILURE_BYTES = 1024  # SageMaker keeps the first 1024 characters of the file as FailureReason

_SENTENCE = re.compile(r"(?P<name>[A-Z][A-Za-z0-9]+) \((?P<retry>retry|stop)\): (?P<sentence>.*)", re.DOTALL)


def readable(text: str) -> str:
    """``text`` with what no terminal, mail or log may get (control and direction characters, lone surrogates) as escapes."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


class JobFailure(Exception):
    """Base class of the failure classes. ``sentence`` is written for people; ``retry`` says whether a retry can help."""

    retry: ClassVar[Retry] = "stop"

    def __init__(self, sentence: str) -> None:
        self.sentence = readable(" ".join(sentence.split()))
        super().__init__(f"{type(self).__name__} ({self.retry}): {self.sentence}")

    def __reduce__(self) -> tuple[type[JobFailure], tuple[str]]:
        """Pickle as the class and its sentence."""
        return type(self), (self.sentence,)


class BadInput(JobFailure):
    """The run's settings or files cannot work."""


class CorruptShard(JobFailure):
    """A shard is not what index.json says it is."""


class Unexpected(JobFailure):
    """A failure that no other class covers: a defect. Retried, since failing hardware can cause it too."""

    retry = "retry"


@dataclass(frozen=True)
class ReadFailure:
    """A classed sentence found in a failure file, a FailureReason or an ExitMessage."""

    name: str
    retry: Retry
    sentence: str


def base_dir() -> Path:
    """The container's contract folder: ``/opt/ml``, moved by ``SAGEMAKER_BASE_DIR``."""
    return Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def write_failure(failure: JobFailure) -> None:
    """Write the sentence where SageMaker reads it: ``output/failure`` (training) and ``output/message`` (processing)."""
    folder = base_dir() / "output"
    folder.mkdir(parents=True, exist_ok=True)
    text = str(failure).encode()[:MAX_FAILURE_BYTES].decode(errors="ignore")
    for name in ("failure", "message"):
        (folder / name).write_text(text)


def read_failure(text: str) -> ReadFailure | None:
    """The classed sentence inside ``text`` (which may carry SageMaker's own prefix and suffix), or None."""
    match = _SENTENCE.search(text)
    if match is None:
        return None
    sentence = re.sub(r", exit code: \d+$", "", match["sentence"].strip())
    retry: Retry = "retry" if match["retry"] == "retry" else "stop"
    return ReadFailure(match["name"], retry, sentence)
