"""The corpus job's failure classes. `triage` derives what to do from them; docs/runbook.md has a section for each."""

from __future__ import annotations

from contracts.failure import BadInput, JobFailure, Unexpected
from data_prep.failure_classes import (
    AccessDenied,
    CorruptSource,
    DiskFull,
    Interrupted,
    SourceChanged,
    StoreUnavailable,
    TooMuchSkipped,
    WorkerLost,
)


class FilterFailed(JobFailure):
    """A step of datatrove raises on a document; it would again."""


class NothingLeft(JobFailure):
    """No document of the source is left after the steps."""


FAILURE_CLASSES: tuple[type[JobFailure], ...] = (
    BadInput, SourceChanged, CorruptSource, TooMuchSkipped, FilterFailed, NothingLeft, AccessDenied, DiskFull, StoreUnavailable,
    WorkerLost, Interrupted, Unexpected,
)  # fmt: skip
"""Every class that the corpus job can end with."""
