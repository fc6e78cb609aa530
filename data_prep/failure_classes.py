"""The processing job's failure classes. `triage` derives what to do from them; docs/runbook.md has a section for each."""

from __future__ import annotations

from contracts.failure import BadInput, CorruptShard, JobFailure, Unexpected


class SourceChanged(JobFailure):
    """An object of the source is not the one that was listed when the run was admitted."""


class CorruptSource(JobFailure):
    """An object or record of the source cannot be read: truncated, damaged, or against a policy that says fail."""


class TooMuchSkipped(JobFailure):
    """More documents were skipped than max_skipped_share allows."""


class TokenizerUnusable(JobFailure):
    """The tokenizer cannot be loaded, fetched or trained, or has no token that separates documents."""


class EncoderMismatch(JobFailure):
    """The fast encoder and Hugging Face tokenizers gave different ids for one document."""


class AccessDenied(JobFailure):
    """A source, the secret or the destination refuses this role or token."""


class DiskFull(JobFailure):
    """The disk for parts in work, or the destination folder's, is full."""


class StoreUnavailable(JobFailure):
    """S3 or the hub kept refusing or dropping requests after many retries."""

    retry = "retry"


class WorkerLost(JobFailure):
    """A worker process exited without a message (killed, most often for memory)."""

    retry = "retry"


class InstanceLost(JobFailure):
    """Another processing instance stopped reporting."""

    retry = "retry"


class Interrupted(JobFailure):
    """SIGTERM: the job was stopped; finished parts are kept and the next run goes on from them."""

    retry = "retry"


FAILURE_CLASSES: tuple[type[JobFailure], ...] = (
    BadInput, SourceChanged, CorruptSource, TooMuchSkipped, TokenizerUnusable, EncoderMismatch, CorruptShard,
    AccessDenied, DiskFull, StoreUnavailable, WorkerLost, InstanceLost, Interrupted, Unexpected,
)  # fmt: skip
"""Every class that the processing job can end with; docs/runbook.md has a section for each."""
