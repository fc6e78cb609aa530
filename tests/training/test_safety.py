"""What ends a run early: NaN or Inf, and steps that do not end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from leg_corpus import write_job
from rank_group import RankServer
from test_parallelism import BASE

from contracts.config import merge

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


def test_a_step_that_does_not_end_leaves_stacks_and_a_sentence_and_ends_the_process(tmp_path: Path) -> None:
    code = HANG.format(folder=str(tmp_path / "output" / "data"))
    environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(tmp_path), "RANK": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=120).returncode == 75
    assert "stuck_in_a_collective" in (tmp_path / "output" / "data" / "stacks-rank1.txt").read_text()
    note = json.loads((tmp_path / "output" / "ranks" / "rank-1.json").read_text())
    assert note["failure"] == "CollectiveHang"
    assert "after step 7" in note["sentence"]
