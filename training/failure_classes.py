"""The training job's failure classes. `triage` derives what to do from them; docs/runbook.md has a section for each."""

from __future__ import annotations

from contracts.failure import BadInput, CorruptShard, JobFailure, Unexpected

__all__ = [
    "FAILURE_CLASSES",
    "BadInput",
    "CheckpointDamaged",
    "CheckpointMismatch",
    "CheckpointUnusable",
    "CollectiveHang",
    "CorruptShard",
    "DeviceFault",
    "DriverTooOld",
    "FabricSlow",
    "HostLost",
    "JobFailure",
    "LossDiverged",
    "OutOfMemory",
    "Preempted",
    "TokensMismatch",
    "Unexpected",
    "WeightsUnusable",
]  # fmt: skip


class TokensMismatch(JobFailure):
    """The tokens channel and the training settings do not fit (vocabulary, sequence length, too few tokens)."""


class CheckpointMismatch(JobFailure):
    """The checkpoint belongs to another model or data order."""


class CheckpointDamaged(JobFailure):
    """The checkpoint to go on from is not what was saved: the next attempt gets the one before it."""

    retry = "retry"


class CheckpointUnusable(JobFailure):
    """No checkpoint can be read, or none can be written."""


class WeightsUnusable(JobFailure):
    """The weights that training should begin from (training.initial) are damaged, or of another model or tokenizer."""


class LossDiverged(JobFailure):
    """NaN or infinite loss."""


class OutOfMemory(JobFailure):
    """A device ran out of memory."""


class DeviceFault(JobFailure):
    """A fault of a device, driver or host; another host may work."""

    retry = "retry"


class DriverTooOld(JobFailure):
    """The host's driver serves the image's CUDA neither by itself nor with the compatibility library."""


class FabricSlow(JobFailure):
    """The hosts' network is missing or below its floor."""

    retry = "retry"


class CollectiveHang(JobFailure):
    """No step for many median step times."""

    retry = "retry"


class HostLost(JobFailure):
    """A rank or host exited without a message."""

    retry = "retry"


class Preempted(JobFailure):
    """SIGTERM: the sentence says which checkpoint was written; the next attempt goes on from the newest that arrived."""

    retry = "retry"


FAILURE_CLASSES: tuple[type[JobFailure], ...] = (
    BadInput, CorruptShard, TokensMismatch, CheckpointMismatch, CheckpointDamaged, CheckpointUnusable, WeightsUnusable,
    LossDiverged, OutOfMemory, DeviceFault, DriverTooOld, FabricSlow, CollectiveHang, HostLost, Preempted, Unexpected,
)  # fmt: skip
