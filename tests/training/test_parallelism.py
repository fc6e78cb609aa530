"""Each form of parallelism trains three steps to the loss of one rank. docs/parallelism.md lists the same forms as tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from job_runs import TINY
from leg_corpus import write_job
from rank_group import RankServer

from contracts.config import merge

BASE = merge(
    TINY,
    {
        "model": {"kv_heads": 4, "vocab_size": 400},
        "processes_per_host": 1,
        "steps": 3,
        "local_batch_size": 4,
        "checkpoint": {"interval_steps": 100, "async_mode": "disabled"},
        "export": {"enabled": False},
    },
)
ROUNDING = 2e-5  # relative: float32 sums over other orders; the loss is about 6, so the sixth digit may differ
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "fsdp": (2, {"local_batch_size": 2}),
    "fsdp-kept-gathered": (2, {"local_batch_size": 2, "parallelism": {"reshard_after_forward": False}}),
    "tensor": (2, {"parallelism": {"tensor": 2}}),
    "tensor-fsdp": (4, {"local_batch_size": 2, "parallelism": {"tensor": 2}}),
    "pipeline": (2, {"parallelism": {"pipeline": 2}}),
    "accumulation": (1, {"local_batch_size": 1, "validation": {"batches": 8}}),  # as many validation samples as 2 x 4
    "full-checkpointing": (1, {"activation_checkpointing": "full"}),
    "selective-checkpointing": (1, {"activation_checkpointing": "selective"}),
}


def losses(
    ranks: RankServer, base: Path, channel: Path, world: int, training: dict[str, Any], function: str = "train"
) -> list[list[float]]:
    """Loss, gradient norm of each step and the validation loss, from the rank that writes them."""
    write_job(base, merge(training, {"processes_per_host": world}))
    (base / "input" / "data" / "tokens").symlink_to(channel)
    answers = ranks.run(f"proofs:{function}", world=world, base=str(base))
    # Nothing random is left once the weights are set (the order of samples is computed), so checkpoints need no generator's state.
    assert not any(value["drew_random_numbers"] for value in answers)
    (answer,) = [value for value in answers if value["rows"]]
    steps = [number for row in answer["rows"] for number in (row["loss"], row["grad_norm"])]
    return [*steps, *(row["validation_loss"] for row in answer["validation"])]


@pytest.fixture(scope="module")
def one_rank(ranks: RankServer, channel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """What one rank comes to."""
    return losses(ranks, tmp_path_factory.mktemp("one") / "job", channel, 1, BASE)


@pytest.mark.parametrize("name", CASES)
def test_loss_is_that_of_one_rank(name: str, ranks: RankServer, channel: Path, tmp_path: Path, one_rank: list[float]) -> None:
    world, changes = CASES[name]
    found = losses(ranks, tmp_path / "job", channel, world, merge(BASE, changes))
    assert len(found) == 7
    assert found == pytest.approx(one_rank, rel=ROUNDING)


def test_context_parallel_loss_is_that_of_one_rank(ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    """With FlexAttention's eager kernels, which split blocks of 128 tokens: 512 tokens are two for each rank."""
    shape = {"layers": 1, "max_sequence_length": 512}
    training = merge(BASE, {"model": shape, "sequence_length": 512, "local_batch_size": 1, "global_batch_size": 1})
    expected = losses(ranks, tmp_path / "one", channel, 1, training, "train_flex")
    found = losses(ranks, tmp_path / "two", channel, 2, merge(training, {"parallelism": {"context": 2}}), "train_flex")
    assert found == pytest.approx(expected, rel=ROUNDING)


def test_weights_at_the_start_are_no_copies_and_do_not_depend_on_the_number_of_ranks(
    ranks: RankServer, channel: Path, tmp_path: Path
) -> None:
    found = []
    for world in (1, 2):
        base = tmp_path / str(world)
        write_job(base, merge(BASE, {"processes_per_host": world, "local_batch_size": 2}))
        (base / "input" / "data" / "tokens").symlink_to(channel)
        found.append(ranks.run("proofs:initial_weights", world=world, base=str(base))[0])
    one, two = found
    assert {name: total for name, (total, _) in one.items()} == pytest.approx({name: total for name, (total, _) in two.items()})
    assert max(abs(correlation) for _, correlation in two.values()) < 0.1  # shards that are copies correlate by 1
