"""What ends a run early: NaN or Inf, and steps that do not end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from leg_corpus import write_job
from rank_group import RankServer
from test_parallelism import BASE

from contracts.config import merge
from training.watchdog import Limits, Watchdog

HANG = """
import time
from pathlib import Path
from training.watchdog import Watchdog

def stuck_in_a_collective():
    time.sleep(60)

with Watchdog(Path({folder!r}), median_steps=2.0, floor_seconds=0.2) as watchdog:
    for step in range(8):
        watchdog.beat(step)
        time.sleep(0.01)
    stuck_in_a_collective()
"""


def test_weights_with_nan_stop_the_run_with_step_and_cursor_and_reach_no_checkpoint(
    ranks: RankServer, channel: Path, tmp_path: Path
) -> None:
    training = merge(
        BASE, {"steps": 12, "local_batch_size": 2, "processes_per_host": 2, "log_interval_steps": 50, "checkpoint": {"interval_steps": 4}}
    )
    write_job(tmp_path, training)
    (tmp_path / "input" / "data" / "tokens").symlink_to(channel)
    answer = ranks.run("proofs:train_then_spoil", world=2, base=str(tmp_path), step=6)[0]
    assert answer["failure"].startswith("LossDiverged (stop): loss is nan at step 8 (data cursor: {'cursor': 28})")
    assert answer["checkpoints"] == ["step-4"]


IN_A_PHASE = """
import time
from pathlib import Path
from training.watchdog import Watchdog

with Watchdog(Path({folder!r}), median_steps=2.0, floor_seconds=0.2) as watchdog:
    for step in range(8):
        watchdog.beat(step)
        time.sleep(0.01)
    with watchdog.phase("a long save", 30.0):
        time.sleep(0.6)
        with watchdog.phase("a step of it", 0.3, optional={optional}):
            time.sleep(60)
"""


def ended(code: str, base: Path) -> int:
    environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(base), "RANK": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run([sys.executable, "-c", code], env=environment, timeout=120).returncode


def test_a_phase_has_a_limit_of_its_own_and_what_is_optional_ends_with_success(tmp_path: Path) -> None:
    for optional, expected in ((False, 75), (True, 0)):
        base = tmp_path / str(expected)
        assert ended(IN_A_PHASE.format(folder=str(base), optional=optional), base) == expected
    note = json.loads((tmp_path / "75" / "output" / "ranks" / "rank-1.json").read_text())
    assert note["sentence"].startswith("a step of it did not end within 0 s after step 7")
    assert not (tmp_path / "0" / "output").exists()


def test_limits_come_from_bytes_and_batches(tmp_path: Path) -> None:
    limits = Limits.of(checkpoint_bytes=96_000_000_000, export_bytes=16_000_000_000, validation_batches=16)
    assert (limits.save, limits.load, limits.export) == (1560.0, 1500.0, 310.0)
    watchdog = Watchdog(tmp_path, 50.0)
    assert watchdog.validation_seconds(16, first=True) == 1800 + 2 * 16 * 60
    watchdog._times.extend([4.0] * 5)
    assert watchdog.validation_seconds(16, first=False) == 50 * 4 + 2 * 16 * 4


def whole_leg(base: Path, channel: Path, **changes: Any) -> None:
    write_job(base, merge(BASE, {"steps": 6, "checkpoint": {"interval_steps": 4}, "export": {"enabled": True}, **changes}))
    (base / "input" / "data" / "tokens").symlink_to(channel)


def test_saves_validations_and_the_export_may_take_longer_than_any_step(ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    whole_leg(tmp_path, channel)
    seconds = {"save": 2.5, "validation": 2.5, "export": 2.5, "sample": 2.5}
    (answer,) = ranks.run("proofs:finish_slowly", world=1, base=str(tmp_path), seconds=seconds)
    assert answer["together"]
    assert answer["longest_step"] < 2.5


@pytest.mark.parametrize(
    ("part", "limits", "words"),
    [
        ("save", {"save": 0.5}, "saving a checkpoint did not end"),
        ("validation", {"validation_batches": 1}, "validation did not end"),
        ("export", {"export": 0.5}, "the export did not end"),
    ],
)
def test_a_hang_in_each_of_them_still_ends_the_job(
    part: str, limits: dict[str, float], words: str, ranks: RankServer, channel: Path, tmp_path: Path
) -> None:
    whole_leg(tmp_path, channel)
    with pytest.raises(AssertionError, match="exited without a message"):
        environment = {"SAGEMAKER_BASE_DIR": str(tmp_path)}
        ranks.run("proofs:finish_slowly", world=1, base=str(tmp_path), seconds={part: 100}, limits=limits, environment=environment)
    note = json.loads((tmp_path / "output" / "ranks" / "rank-0.json").read_text())
    assert (note["failure"], note["sentence"][: len(words)]) == ("CollectiveHang", words)


def result_of(base: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((base / "checkpoints" / "metrics" / "result.json").read_text())
    return content


def test_a_sample_that_hangs_costs_neither_export_nor_result(ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    whole_leg(tmp_path, channel)
    with pytest.raises(AssertionError, match="exited without a message"):  # success: see the test of phases
        ranks.run("proofs:finish_slowly", world=1, base=str(tmp_path), seconds={"sample": 100}, sample_seconds=0.5)
    assert result_of(tmp_path)["export"]["files"] == 1
    assert (tmp_path / "checkpoints" / "export" / "model-00001-of-00001.safetensors").exists()
    assert not (tmp_path / "output" / "ranks" / "rank-0.json").exists()


def test_a_sample_that_fails_on_one_rank_costs_neither_export_nor_result(ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    whole_leg(tmp_path, channel, local_batch_size=2, processes_per_host=2)
    answers = ranks.run("proofs:finish_with_a_sample_that_fails_on", world=2, base=str(tmp_path), rank=1)
    assert answers == [False, False]
    result = result_of(tmp_path)
    assert result["export"] is not None and result["sample"] is None
    assert "RuntimeError" in result["sample_left_out"]


def test_a_stop_begins_no_save_that_cannot_arrive_on_every_host(ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    whole_leg(tmp_path, channel, local_batch_size=2, processes_per_host=2)
    for sentence in ranks.run("proofs:stop_with_saves_that_took", world=2, base=str(tmp_path), seconds=[0.1, 70.0]):
        assert sentence.startswith("Preempted (retry): stopped on request after step 1 of 6; no checkpoint of it was begun")
        assert "known to be in S3: none of this run's. training.checkpoint.interval_steps bounds" in sentence
    assert not (tmp_path / "checkpoints" / "checkpoints").exists()
    for sentence in ranks.run("proofs:stop_with_saves_that_took", world=2, base=str(tmp_path), seconds=[0.1, 20.0]):
        assert "its checkpoint is written to disk and SageMaker uploads it, unacknowledged" in sentence
    assert (tmp_path / "checkpoints" / "checkpoints" / "step-1" / ".metadata").exists()


def test_a_step_that_does_not_end_leaves_stacks_and_a_sentence_and_ends_the_process(tmp_path: Path) -> None:
    code = HANG.format(folder=str(tmp_path / "output" / "data"))
    assert ended(code, tmp_path) == 75
    assert "stuck_in_a_collective" in (tmp_path / "output" / "data" / "stacks-rank1.txt").read_text()
    note = json.loads((tmp_path / "output" / "ranks" / "rank-1.json").read_text())
    assert note["failure"] == "CollectiveHang"
    assert "after step 7" in note["sentence"]
