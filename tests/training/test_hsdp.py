"""HSDP on 2 x 2 CPU ranks with two passes per step: losses of one rank, one sum over replicas per step, checkpoints and resumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from job_runs import give_checkpoint, step_folders
from leg_corpus import write_job
from rank_group import RankServer
from test_parallelism import BASE, ROUNDING

from contracts.config import merge, parse
from training.memory import estimate, parameter_count
from training.spec import TrainingSpec, cluster_problems

SHARED = merge(BASE, {"steps": 4, "global_batch_size": 8, "checkpoint": {"interval_steps": 2}})
HSDP = merge(SHARED, {"processes_per_host": 4, "local_batch_size": 1, "parallelism": {"replicate": 2, "shard": 2}})
ONE = merge(SHARED, {"processes_per_host": 1, "local_batch_size": 4})
FSDP = merge(SHARED, {"processes_per_host": 2, "local_batch_size": 2})

Losses = dict[int, tuple[float, float]]
"""Loss and gradient norm by step."""


@dataclass(frozen=True)
class Trained:
    """Four steps."""

    base: Path
    losses: Losses
    summed: list[int]
    """Gradients that each rank summed over replicas."""


def trained(ranks: RankServer, base: Path, channel: Path, training: dict[str, Any], checkpoint: Path | None = None) -> Trained:
    write_job(base, training)
    (base / "input" / "data" / "tokens").symlink_to(channel)
    if checkpoint is not None:
        give_checkpoint(base, checkpoint)
    answers = ranks.run("proofs:train_counting_replica_sums", world=training["processes_per_host"], base=str(base))
    (rows,) = [answer["rows"] for answer in answers if answer["rows"]]
    return Trained(base, {row["step"]: (row["loss"], row["grad_norm"]) for row in rows}, [answer["summed"] for answer in answers])


@pytest.fixture(scope="module")
def hsdp(ranks: RankServer, channel: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(ranks, tmp_path_factory.mktemp("hsdp") / "job", channel, HSDP)


@pytest.fixture(scope="module")
def half_way(hsdp: Trained) -> Path:
    return step_folders(hsdp.base / "checkpoints" / "checkpoints")[2]


def test_losses_are_those_of_one_rank(hsdp: Trained, ranks: RankServer, channel: Path, tmp_path: Path) -> None:
    one = trained(ranks, tmp_path / "one", channel, ONE)
    for step, expected in one.losses.items():
        assert hsdp.losses[step] == pytest.approx(expected, rel=ROUNDING)
    assert one.summed == [0]


def test_gradients_are_summed_over_replicas_once_per_step_and_not_once_per_pass(hsdp: Trained) -> None:
    """Each rank sums its half of the model. Only the output layer, with the last norm, is summed in both passes: the loss in chunks asks
    FSDP to at its last one."""
    shape = parse(TrainingSpec, HSDP).model
    per_step = (parameter_count(shape) + shape.dim * shape.vocab_size + shape.dim) // 2
    assert hsdp.summed == [per_step * SHARED["steps"]] * 4


def test_a_resume_goes_on_bit_by_bit_and_fsdp_goes_on_from_the_same_checkpoint(
    hsdp: Trained, half_way: Path, ranks: RankServer, channel: Path, tmp_path: Path
) -> None:
    rest = {step: value for step, value in hsdp.losses.items() if step > 2}
    assert trained(ranks, tmp_path / "hsdp", channel, HSDP, half_way).losses == rest
    elsewhere = trained(ranks, tmp_path / "fsdp", channel, FSDP, half_way).losses
    assert elsewhere.keys() == rest.keys()
    for step, expected in rest.items():
        assert elsewhere[step] == pytest.approx(expected, rel=ROUNDING)


def test_a_checkpoint_holds_every_weight_and_moment_once_and_all_ranks_write_it(half_way: Path) -> None:
    files = [path.stat().st_size for path in half_way.glob("*.distcp")]
    needed = 12 * parameter_count(parse(TrainingSpec, HSDP).model)
    assert needed <= sum(files) < 1.5 * needed  # a small tensor's header is as large as itself; two copies would be twice as much
    assert len(files) == 4
    assert max(files) < 2 * min(files)


def on_hosts(replicate: int) -> TrainingSpec:
    degrees = {"replicate": replicate, "shard": -1}
    changes = {"device": "cuda", "processes_per_host": 8, "global_batch_size": None, "parallelism": degrees}
    return parse(TrainingSpec, merge(HSDP, changes))


@pytest.mark.parametrize(
    ("hosts", "replicate", "refused"),
    [
        (4, 4, None),
        (4, 2, None),
        (1, 2, None),
        (4, 8, None),  # two replicas on each host
        (4, 3, "replicate=3 x tensor=1 x context=1 x pipeline=1 does not divide 32 devices"),
        (3, 4, "4 makes replicas of 6 devices, which 3 hosts of 8 cannot hold without splitting a host; choose 3"),
    ],
)
def test_replicas_divide_the_devices_and_split_no_host(hosts: int, replicate: int, refused: str | None) -> None:
    found = [problem.message for problem in cluster_problems(on_hosts(replicate), hosts) if problem.path.startswith("parallelism")]
    assert (found == []) if refused is None else (len(found) == 1 and found[0].startswith(refused))


def test_the_estimate_gives_every_replica_the_whole_state() -> None:
    four_hosts, one_host = estimate(on_hosts(4), 4), estimate(on_hosts(1), 1)
    assert (four_hosts.parameters, four_hosts.optimizer) == (one_host.parameters, one_host.optimizer)
    assert four_hosts.optimizer == pytest.approx(4 * estimate(on_hosts(1), 4).optimizer, rel=0.01)
