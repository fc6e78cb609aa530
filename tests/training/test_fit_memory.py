"""Batch and checkpointing by the memory estimate."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from contracts.config import Problem
from infra.cli.plan_screen import memory_lines
from infra.run.recipes import RECIPES
from infra.run.run_spec import resolve
from training.fit_memory import SHARE, fitted, reasons
from training.memory import device_bytes
from training.parallelism import ParallelismSpec
from training.spec import TrainingSpec

BOTH = ("local_batch_size", "activation_checkpointing")


def llama3_8b(**changes: Any) -> TrainingSpec:
    return dataclasses.replace(RECIPES["llama3_8b"].training, **changes)


def resolved(training: dict[str, Any], **compute: Any) -> TrainingSpec:
    value = {"recipe": "llama3_8b", "training": training, **({"compute": compute} if compute else {})}
    return resolve(value, default_recipe="llama3_8b").legs[0].training


@pytest.mark.parametrize("hosts", [1, 4])
@pytest.mark.parametrize("gib", [22, 40, 79, 140])
def test_what_is_chosen_fits_and_the_next_would_not(hosts, gib):
    found = fitted(llama3_8b(global_batch_size=256 * hosts, fit_memory=BOTH), hosts, gib)
    if isinstance(found, Problem):
        assert hosts == 1 and gib == 22
        return
    limit = SHARE * gib * 2**30
    assert device_bytes(found, hosts) <= limit
    twice = dataclasses.replace(found, local_batch_size=2 * found.local_batch_size)
    assert device_bytes(twice, hosts) > limit or 2 * found.local_batch_size * 8 * hosts > 256 * hosts
    less = {"full": "selective", "selective": "none"}.get(found.activation_checkpointing)
    if less is not None:
        assert device_bytes(dataclasses.replace(found, activation_checkpointing=less, local_batch_size=1), hosts) > limit


def test_only_what_is_named_is_chosen():
    batch = fitted(llama3_8b(global_batch_size=128, fit_memory=("local_batch_size",)), 1, 79)
    assert isinstance(batch, TrainingSpec)
    assert (batch.activation_checkpointing, batch.local_batch_size) == ("selective", 2)
    kind = fitted(llama3_8b(fit_memory=("activation_checkpointing",)), 1, 79)
    assert isinstance(kind, TrainingSpec)
    assert kind.local_batch_size == 2
    assert fitted(llama3_8b(), 1, 1) == llama3_8b()


def test_the_batch_divides_the_global_batch():
    found = fitted(llama3_8b(global_batch_size=8 * 3, fit_memory=("local_batch_size",), activation_checkpointing="full"), 1, 79)
    assert isinstance(found, TrainingSpec)
    assert found.local_batch_size == 3


def test_the_resolved_run_holds_the_choice():
    chosen = resolved({"global_batch_size": 128, "fit_memory": list(BOTH)}, instance_count=4)
    assert chosen.fit_memory == BOTH
    assert isinstance(chosen.local_batch_size, int)


def test_gathered_weights_are_kept_where_there_is_room_and_the_batch_goes_first():
    every = (*BOTH, "reshard_after_forward")
    one, four, large = (
        fitted(llama3_8b(global_batch_size=64, fit_memory=every), hosts, gib) for hosts, gib in ((1, 79), (4, 79), (1, 140))
    )
    assert isinstance(one, TrainingSpec) and isinstance(four, TrainingSpec) and isinstance(large, TrainingSpec)
    for found, hosts, gib in ((one, 1, 79), (four, 4, 79), (large, 1, 140)):
        without = fitted(llama3_8b(global_batch_size=64, fit_memory=BOTH), hosts, gib)
        assert isinstance(without, TrainingSpec)
        assert (found.local_batch_size, found.activation_checkpointing) == (without.local_batch_size, without.activation_checkpointing)
        kept = dataclasses.replace(found, parallelism=dataclasses.replace(found.parallelism, reshard_after_forward=False))
        assert found.parallelism.reshard_after_forward == (device_bytes(kept, hosts) > SHARE * gib * 2**30)
    assert (one.parallelism.reshard_after_forward, four.parallelism.reshard_after_forward) == (True, False)


def test_the_reasons_name_what_the_next_faster_choice_would_take():
    every = (*BOTH, "reshard_after_forward")
    small, large = (fitted(llama3_8b(global_batch_size=64, fit_memory=every), 1, gib) for gib in (45, 79))
    assert isinstance(small, TrainingSpec) and isinstance(large, TrainingSpec)
    assert [re.sub(r"\d+\.\d", "N", reason) for reason in reasons(small, 1)] == [
        "activation_checkpointing selective, since none takes N with 1 sample",
        "local_batch_size 1 in 8 passes per step, since 2 samples take N",
        "reshard_after_forward true, since keeping gathered weights takes N",
    ]
    assert next(re.sub(r"\d+\.\d", "N", reason) for reason in reasons(large, 1)) == "activation_checkpointing none"
    assert list(reasons(dataclasses.replace(small, parallelism=ParallelismSpec(reshard_after_forward=False)), 1))[2] == (
        "reshard_after_forward false, so that gathered weights are kept"
    )
    all_of_it = fitted(llama3_8b(global_batch_size=8, fit_memory=("local_batch_size",)), 1, 79)
    assert isinstance(all_of_it, TrainingSpec)
    assert list(reasons(all_of_it, 1)) == ["local_batch_size 1 in 1 pass per step, the whole global batch"]


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        (1, r"activation_checkpointing none; local_batch_size 2 in 4 passes per step, since 4 samples take \d+\.\d; reshard_after"),
        (4, r"activation_checkpointing none; local_batch_size 2 in 1 pass per step, the whole global batch; reshard_after_forward false"),
    ],
)
def test_plan_says_what_was_chosen_and_why(hosts, said):
    training = {"global_batch_size": 64, "fit_memory": [*BOTH, "reshard_after_forward"]}
    spec = resolve({"training": training, "compute": {"instance_count": hosts}}, default_recipe="llama3_8b")
    memory, chosen = memory_lines(spec)
    assert memory.startswith("Memory per device: ")
    assert re.match(r"Chosen to stay within 75\.0 GiB \(95% of the NVIDIA H100's 79\): " + said, chosen), chosen


@pytest.mark.parametrize(
    ("training", "compute", "said"),
    [
        ({"fit_memory": ["local_batch_size"]}, {}, "training.fit_memory: local_batch_size needs global_batch_size"),
        ({"fit_memory": ["activation_checkpointing"]}, {"instance_type": "ml.x9.large"}, "the memory of ml.x9.large is not known"),
        ({"fit_memory": ["activation_checkpointing"], "sequence_length": 8192, "local_batch_size": 64}, {}, "a step needs"),
        ({"fit_memory": ["batch"]}, {}, "fit_memory"),
        ({"fit_memory": ["local_batch_size"], "global_batch_size": 12}, {}, "training.global_batch_size: 12 is not a multiple of the 8"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_is_refused(training, compute, said):
    with pytest.raises(ValueError, match=said.replace("[", r"\[")):
        resolved(training, **compute)
