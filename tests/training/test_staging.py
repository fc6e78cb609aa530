"""Checkpoints that are staged in shared memory: the default on CUDA, reached here with everything but the pinning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from leg_corpus import write_job
from rank_group import RankServer
from test_parallelism import BASE

from contracts.config import merge
from training.checkpoint_reader import open_checkpoint
from training.staging import shortage

GIB = 1 << 30


def trained(ranks: RankServer, channel: Path, base: Path, steps: int, **arguments: Any) -> list[dict[str, Any]]:
    checkpoint = {"interval_steps": 2, "async_mode": "async"}
    write_job(base, merge(BASE, {"steps": steps, "local_batch_size": 2, "processes_per_host": 2, "checkpoint": checkpoint}))
    if not (base / "input" / "data" / "tokens").exists():
        (base / "input" / "data" / "tokens").symlink_to(channel)
    return ranks.run("proofs:train_pinned", world=2, base=str(base), **arguments)


def test_parts_are_staged_in_shared_memory_and_written_by_another_process(ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    answers = trained(ranks, channel, tmp_path, steps=5)
    for answer in answers:
        assert answer["staging"] == {"asked": "async_with_pinned_mem", "used": "async_with_pinned_mem", "reason": None}
        assert answer["writes"] == 3  # two of them by the process, the last one at once
        assert answer["shared_bytes"] == pytest.approx(answer["staged_bytes"], rel=0.02)
    folder = tmp_path / "checkpoints" / "checkpoints"
    assert [open_checkpoint(folder / f"step-{step}").manifest.step for step in (2, 4, 5)] == [2, 4, 5]


def test_without_room_all_ranks_agree_on_async_and_say_so(ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    for answer in trained(ranks, channel, tmp_path, steps=3, free=GIB):
        assert (answer["staging"]["used"], answer["shared_bytes"]) == ("async", 0)
        assert "GiB of /dev/shm on" in answer["staging"]["reason"]
    assert open_checkpoint(tmp_path / "checkpoints" / "checkpoints" / "step-2").manifest.step == 2


def test_a_hosts_ranks_share_its_room_and_one_short_host_is_enough() -> None:
    roomy = [("algo-1", 12 * GIB, 97 * GIB + 1)] * 8
    assert shortage(roomy) is None
    assert "96.0 GiB of /dev/shm on algo-2 beside NCCL's 1, and 96.9 GiB" in (
        shortage(roomy + [("algo-2", 12 * GIB, int(96.9 * GIB))] * 8) or ""
    )
