"""FP8 with FP8 all-gather on torchtitan 0.3.0, emulated on two CPU ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from leg_corpus import write_job
from rank_group import RankServer
from test_parallelism import BASE, losses

from data_prep.strict import merge

TWO = merge(BASE, {"local_batch_size": 2})
WRAPPED = "WeightWithDynamicFloat8CastTensor"


def test_gathering_in_fp8_changes_no_step_of_tensorwise_fp8(ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    found = {
        recipe: losses(ranks, tmp_path / recipe, channel, 2, merge(TWO, {"float8": recipe}))
        for recipe in ("tensorwise", "tensorwise_all_gather")
    }
    assert found["tensorwise_all_gather"] == pytest.approx(found["tensorwise"], rel=1e-6)


def test_fp8_rounds_and_still_trains_like_high_precision(ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    high = losses(ranks, tmp_path / "off", channel, 2, TWO)
    low = losses(ranks, tmp_path / "tensorwise", channel, 2, merge(TWO, {"float8": "tensorwise"}))
    assert low != pytest.approx(high, rel=1e-6)
    assert low[0::2] == pytest.approx(high[0::2], rel=5e-3)


def test_checkpoints_hold_plain_weights_and_load_into_another_precision(ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    gathered = merge(TWO, {"processes_per_host": 2, "float8": "tensorwise_all_gather", "schedule": {"total_steps": 5}})
    base = tmp_path / "job"
    losses(ranks, base, channel, 2, gathered)
    shown = ranks.run("proofs:weights_in_state", world=2, base=str(base))[0]
    assert shown == {"parameters": ["Tensor", WRAPPED], "checkpoint": ["Tensor torch.float32"]}
    write_job(base, merge(gathered, {"float8": "off", "steps": 5}), attempt=2)
    (answer,) = [value for value in ranks.run("proofs:train", world=2, base=str(base)) if value["rows"]]
    assert [row["step"] for row in answer["rows"]] == [1, 2, 3, 4, 5]
    assert answer["rows"][3]["loss"] == pytest.approx(answer["rows"][2]["loss"], rel=0.1)
