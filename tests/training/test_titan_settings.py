"""Settings of TrainingSpec that are torchtitan's under another name reach its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from job_runs import TINY
from leg_corpus import write_job

from contracts.config import merge, parse
from training.leg_job import read_job
from training.memory import block_parameters, estimate
from training.spec import TrainingSpec
from training.titan_config import trainer_config
from training.tokens import job_tokens

CUDA = merge(TINY, {"device": "cuda", "processes_per_host": 8, "global_batch_size": None})


@pytest.mark.parametrize(("freed", "policy"), [(True, "default"), (False, "never")])
def test_gathered_weights_are_kept_by_torchtitans_policy(freed: bool, policy: str, channel: Path, tmp_path: Path) -> None:
    write_job(tmp_path, merge(CUDA, {"parallelism": {"reshard_after_forward": freed}}))
    (tmp_path / "input" / "data" / "tokens").symlink_to(channel)
    job = read_job(tmp_path)
    assert trainer_config(job, job_tokens(job)).parallelism.fsdp_reshard_after_forward == policy


@pytest.mark.parametrize(("float8", "bytes_each"), [("off", 2), ("tensorwise", 2), ("tensorwise_all_gather", 1)])
def test_kept_weights_are_counted_as_they_are_gathered(float8: str, bytes_each: int) -> None:
    settings: dict[str, Any] = {"float8": float8, "precision": "bfloat16"}
    spec = parse(TrainingSpec, merge(CUDA, settings))
    kept = parse(TrainingSpec, merge(CUDA, {**settings, "parallelism": {"reshard_after_forward": False}}))
    more = estimate(kept, 1).total - estimate(spec, 1).total
    every = spec.model.layers * block_parameters(spec.model) * bytes_each
    assert 0 <= more <= every  # what one peak holds of it anyway is not counted twice
    assert estimate(kept, 1).gathered >= every
