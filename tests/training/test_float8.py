"""FP8 with FP8 all-gather on torchtitan 0.3.0, emulated on two CPU ranks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from job_runs import give_checkpoint, whole_checkpoints
from leg_corpus import write_job
from rank_group import RankServer
from test_parallelism import BASE, losses

from contracts.config import merge

TWO = merge(BASE, {"local_batch_size": 2, "processes_per_host": 2, "schedule": {"total_steps": 5}})
WRAPPED = "WeightWithDynamicFloat8CastTensor"
RECIPES = ("off", "tensorwise", "tensorwise_all_gather")


@dataclass(frozen=True)
class Trained:
    """Three steps of one recipe."""

    base: Path
    losses: list[float]


@pytest.fixture(scope="module")
def trained(ranks: RankServer, channel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    root = tmp_path_factory.mktemp("float8")
    return {name: Trained(root / name, losses(ranks, root / name, channel, 2, merge(TWO, {"float8": name}))) for name in RECIPES}


def test_gathering_in_fp8_changes_no_step_of_tensorwise_fp8(trained: dict[str, Trained]) -> None:
    assert trained["tensorwise_all_gather"].losses == pytest.approx(trained["tensorwise"].losses, rel=1e-6)


def test_fp8_rounds_and_still_trains_like_high_precision(trained: dict[str, Trained]) -> None:
    high, low = trained["off"].losses, trained["tensorwise"].losses
    assert low != pytest.approx(high, rel=1e-6)
    assert low[0::2] == pytest.approx(high[0::2], rel=5e-3)


def test_checkpoints_hold_plain_weights_and_load_into_another_precision(ranks: RankServer, trained: dict[str, Trained]) -> None:
    base = trained["tensorwise_all_gather"].base
    shown = ranks.run("proofs:weights_in_state", world=2, base=str(base))[0]
    assert shown == {"parameters": ["Tensor", WRAPPED], "checkpoint": ["Tensor torch.float32"]}
    write_job(base, merge(TWO, {"float8": "off", "steps": 5}), attempt=2)
    give_checkpoint(base, whole_checkpoints(base / "checkpoints")[0])
    (answer,) = [value for value in ranks.run("proofs:train", world=2, base=str(base)) if value["rows"]]
    assert [row["step"] for row in answer["rows"]] == [1, 2, 3, 4, 5]
    assert answer["rows"][3]["loss"] == pytest.approx(answer["rows"][2]["loss"], rel=0.1)


def test_scales_stay_in_the_memory_where_a_captured_cuda_graph_reads_them(ranks: RankServer, trained: dict[str, Trained]) -> None:
    base = trained["tensorwise_all_gather"].base
    write_job(base, merge(TWO, {"float8": "tensorwise_all_gather", "steps": 3}), attempt=2)
    found = ranks.run("proofs:scales", world=2, base=str(base), steps=2)[0]
    assert found["places"] == 1
    assert found["values"] == 2  # and they follow the weights
