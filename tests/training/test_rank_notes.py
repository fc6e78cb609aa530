"""From the failure notes of a host's ranks to the job's failure sentence."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from training.failure_classes import (
    CheckpointUnusable,
    CorruptShard,
    DeviceFault,
    HostLost,
    JobFailure,
    LossDiverged,
    OutOfMemory,
    Unexpected,
)
from training.rank_notes import Note, cause, classify, leave_failure, read_notes


def note(failure: str, at: float, rank: int = 0) -> Note:
    return Note(rank=rank, time=at, failure=failure, sentence=f"{failure} at {at}")


def test_the_cause_is_named_and_not_the_echo_it_makes_on_other_ranks() -> None:
    found = cause([note("HostLost", 1.0), note("CorruptShard", 2.0, rank=1)], "algo-1")
    assert isinstance(found, CorruptShard)


def test_the_earliest_of_several_causes_counts() -> None:
    assert cause([note("LossDiverged", 1.0), note("OutOfMemory", 2.0)], "algo-1").sentence == "LossDiverged at 1.0"


def test_only_echoes_mean_that_another_host_went_first() -> None:
    assert isinstance(cause([note("HostLost", 1.0)], "algo-1"), HostLost)


def test_no_word_from_any_rank_is_a_lost_host_that_can_be_tried_again() -> None:
    found = cause([], "algo-2")
    assert isinstance(found, HostLost)
    assert found.retry == "retry"
    assert "algo-2" in found.sentence


def test_a_rank_keeps_its_first_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    before = time.time()
    leave_failure(LossDiverged("first"))
    leave_failure(HostLost("second"))
    (only,) = read_notes(tmp_path / "output" / "ranks")
    assert (only.rank, only.failure, only.sentence) == (3, "LossDiverged", "first")
    assert only.time >= before


class OutOfMemoryError(RuntimeError):
    """torch.OutOfMemoryError's name; the real one needs no device either, but importing torch here is slow."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), OutOfMemory),
        (RuntimeError("[/pytorch/third_party/gloo/...] Connection closed by peer [127.0.0.1]:4242"), HostLost),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), DeviceFault),
        (OSError(28, "No space left on device"), CheckpointUnusable),
        (KeyError("x"), Unexpected),
        (CorruptShard("s"), CorruptShard),
    ],
)
def test_foreign_exceptions_get_a_class(error: BaseException, expected: type[JobFailure]) -> None:
    assert type(classify(error)) is expected


def test_out_of_memory_says_what_to_lower() -> None:
    assert "training.local_batch_size" in classify(OutOfMemoryError("CUDA out of memory")).sentence
