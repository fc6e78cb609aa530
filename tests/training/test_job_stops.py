"""What the job decides around its ranks: their environment, and a stop that comes before the first step has ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from job_runs import TINY
from leg_corpus import write_job

from contracts.config import merge
from training import job as entry
from training.failure_classes import HostLost, Preempted
from training.leg_job import STOP_FILE, LegJob, read_job

HOSTS = ("algo-1", "algo-2")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LegJob:
    """A job of two hosts that needs no devices: its checks find nothing."""
    cuda = {"device": "cuda", "checkpoint": {"async_mode": "disabled"}}
    write_job(tmp_path, merge(TINY, cuda), hosts=HOSTS, host="algo-1")
    monkeypatch.setattr(entry, "check_job", lambda job: None)
    return read_job(tmp_path)


@pytest.mark.parametrize(
    ("codes", "sentence"),
    [
        ({"training.fabric": 0}, "stopped on request before training began"),
        ({"training.fabric": -9}, "stopped on request before training began"),
        ({"training.fabric": 0, "training.train": -9}, "ended before a step and its checkpoint were done"),
    ],
)
def test_a_stop_that_leaves_the_ranks_without_a_word_is_resumable(
    job: LegJob, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], sentence: str
) -> None:
    started = []

    def stopped_in_the_last(job: LegJob, module: str) -> int:
        started.append(module)
        if module == list(codes)[-1]:
            (job.rank_notes / STOP_FILE).touch()
        return codes[module]

    monkeypatch.setattr(entry, "_run_ranks", stopped_in_the_last)
    with pytest.raises(Preempted, match=sentence):
        entry.run_job(job)
    assert started == list(codes)


def test_a_stop_during_the_checks_ends_the_job_with_its_sentence(job: LegJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.setattr(entry, "check_job", lambda job: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert entry.main([]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "output/failure").read_text() == "Preempted (retry): stopped on request before training began"


def test_ranks_that_vanish_without_a_stop_are_a_lost_host(job: LegJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "_run_ranks", lambda job, module: -9)
    with pytest.raises(HostLost):
        entry.run_job(job)


def test_ranks_get_torchtitans_allocator_and_the_containers_word_goes_before(job: LegJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    assert entry.rank_environment(job)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "backend:cudaMallocAsync")
    assert entry.rank_environment(job)["PYTORCH_ALLOC_CONF"] == "backend:cudaMallocAsync"
