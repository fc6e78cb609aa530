"""A stop that comes before training does: while the hosts' network is measured, or while the first step compiles."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_runs import TINY
from leg_corpus import write_job

from data_prep.strict import merge
from training import job as entry
from training.failure import HostLost, Preempted
from training.leg_job import STOP_FILE, LegJob, read_job

HOSTS = ("algo-1", "algo-2")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LegJob:
    """A job of two hosts that needs no devices: its checks find nothing."""
    cuda = {"device": "cuda", "checkpoint": {"async_mode": "disabled"}}
    write_job(tmp_path, merge(TINY, cuda), hosts=HOSTS, host="algo-1")
    monkeypatch.setattr(entry, "check_job", lambda job: None)
    return read_job(tmp_path)


@pytest.mark.parametrize(("code", "modules"), [(0, ["training.fabric"]), (-9, ["training.fabric"])])
def test_a_stop_during_the_gate_ends_the_job_resumable_and_starts_no_training(
    job: LegJob, monkeypatch: pytest.MonkeyPatch, code: int, modules: list[str]
) -> None:
    started = []

    def stopped(job: LegJob, module: str) -> int:
        started.append(module)
        (job.rank_notes / STOP_FILE).touch()
        return code

    monkeypatch.setattr(entry, "_run_ranks", stopped)
    with pytest.raises(Preempted, match="stopped on request before a step had ended"):
        entry.run_job(job)
    assert started == modules


def test_ranks_that_vanish_without_a_stop_are_a_lost_host(job: LegJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "_run_ranks", lambda job, module: -9)
    with pytest.raises(HostLost):
        entry.run_job(job)
