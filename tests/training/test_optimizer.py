"""Which parameters are decayed, and Muon over shards: the same steps as on one rank."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from rank_group import RankServer
from test_parallelism import BASE, ROUNDING, losses

from contracts.config import merge
from training.model import model_spec
from training.optimizer import optimizer_config
from training.spec import ModelShape, OptimizerSpec

SHAPE = ModelShape(dim=64, layers=2, heads=4, kv_heads=2, ffn_dim=160, vocab_size=300)


def groups(chosen: OptimizerSpec, shape: ModelShape = SHAPE) -> dict[str, tuple[str, float]]:
    """Parameter name to optimiser and weight decay."""
    model = model_spec(shape).model.build()
    built = dataclasses.replace(optimizer_config(chosen, tied=shape.tie_embeddings), implementation="for-loop").build(model_parts=[model])
    return {
        name: (type(optimizer).__name__, group["weight_decay"])
        for optimizer in built
        for group in optimizer.param_groups
        for name in group["param_names"]
    }


def test_norms_are_not_decayed_and_matrices_are() -> None:
    found = groups(OptimizerSpec(weight_decay=0.3))
    assert {name for name, (_, decay) in found.items() if decay == 0.0} == {name for name in found if "norm" in name}
    assert found["tok_embeddings.weight"] == found["lm_head.weight"] == ("AdamW", 0.3)
    assert len(found) == 2 * 7 + 3


def test_the_embedding_is_spared_by_a_setting_unless_it_is_the_output_layer_too() -> None:
    chosen = OptimizerSpec(weight_decay=0.3, decay_embeddings=False)
    found = groups(chosen)
    assert (found["tok_embeddings.weight"][1], found["lm_head.weight"][1]) == (0.0, 0.3)
    tied = groups(chosen, dataclasses.replace(SHAPE, tie_embeddings=True))
    assert [decay for name, (_, decay) in tied.items() if re.match("tok_embeddings|lm_head", name)] == [0.3]


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    found = groups(OptimizerSpec(name="muon", decay_embeddings=False))
    assert {name for name, (kind, _) in found.items() if kind == "Muon"} == {
        n for n in found if n.startswith("layers.") and "norm" not in n
    }
    assert {kind for name, (kind, _) in found.items() if not name.startswith("layers.")} == {"AdamW"}


MUON: dict[str, Any] = merge(BASE, {"optimizer": {"name": "muon"}})


@pytest.fixture(scope="module")
def muon_on_one_rank(ranks: RankServer, channel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(ranks, tmp_path_factory.mktemp("muon") / "job", channel, 1, MUON)


@pytest.mark.parametrize(
    ("world", "changes"),
    [(2, {"local_batch_size": 2}), (2, {"parallelism": {"pipeline": 2}}), (2, {"parallelism": {"tensor": 2}})],
    ids=["fsdp", "pipeline", "tensor"],
)
def test_muon_over_several_ranks_takes_the_steps_of_one(
    world: int, changes: dict[str, Any], ranks: RankServer, channel: Path, tmp_path: Path, muon_on_one_rank: list[float]
) -> None:
    found = losses(ranks, tmp_path / "job", channel, world, merge(MUON, changes))
    assert found == pytest.approx(muon_on_one_rank, rel=ROUNDING)


def test_muon_moves_weights_that_fsdp_gathers_in_fp8(
    ranks: RankServer, channel: Path, tmp_path: Path, muon_on_one_rank: list[float]
) -> None:
    changes = {"local_batch_size": 2, "float8": "tensorwise_all_gather"}
    found = losses(ranks, tmp_path / "job", channel, 2, merge(MUON, changes))
    assert found[0::2] == pytest.approx(muon_on_one_rank[0::2], rel=5e-3)
    assert found != pytest.approx(muon_on_one_rank, rel=1e-6)
