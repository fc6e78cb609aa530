"""The learning rate of each step: equal to torchtitan's curve, and ended at the last step."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from job_runs import TINY
from torchtitan.components.optimizer import LRSchedulersContainer

from contracts.config import merge, parse
from training.optimizer import LegSchedule
from training.schedule import ScheduleSpec, rate
from training.spec import TrainingSpec, cluster_problems


class Optimizers(list[torch.optim.Optimizer]):
    """What a scheduler container asks of torchtitan's optimisers."""


def optimizers() -> Any:
    return Optimizers([torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)])


@pytest.mark.parametrize("decay", ["cosine", "linear", "sqrt"])
@pytest.mark.parametrize("decay_steps", [None, 12, 1])
def test_the_curve_is_torchtitans_to_its_last_step(decay: Any, decay_steps: int | None) -> None:
    ours = ScheduleSpec(warmup_steps=7, decay=decay, decay_steps=decay_steps, min_lr_share=0.1)
    ratio = None if decay_steps is None else decay_steps / 60
    theirs = LRSchedulersContainer.Config(warmup_steps=7, decay_ratio=ratio, decay_type=decay, min_lr_factor=0.1)
    curve = theirs.build(optimizers=optimizers(), training_steps=60).schedulers[0].lr_lambdas[0]
    assert [rate(ours, 60, step) for step in range(60)] == [curve(step) for step in range(60)]


@pytest.mark.parametrize("decay", ["cosine", "linear", "sqrt"])
def test_past_its_end_the_rate_stays_at_its_floor(decay: Any) -> None:
    schedule = ScheduleSpec(warmup_steps=2, decay=decay, min_lr_share=0.1)
    assert [rate(schedule, 20, step) for step in (20, 21, 30, 1000)] == pytest.approx([0.1] * 4)


def test_a_constant_rate_has_no_end_and_a_stable_stretch_lasts_to_the_decay() -> None:
    assert {rate(ScheduleSpec(warmup_steps=2, decay="constant"), 20, step) for step in (2, 19, 20, 500)} == {1.0}
    wsd = [rate(ScheduleSpec(warmup_steps=4, decay="linear", decay_steps=5, min_lr_share=0.0), 20, step) for step in range(20)]
    assert wsd[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(wsd[3:16]) == {1.0}
    assert wsd[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_torchtitans_scheduler_follows_it_and_finds_its_place_again() -> None:
    schedule = ScheduleSpec(warmup_steps=2, decay="linear", min_lr_share=0.0)
    built = LegSchedule.Config(schedule=schedule).build(optimizers=optimizers(), training_steps=6)
    built.load_state_dict({"last_epoch": 9})
    assert built.schedulers[0].get_last_lr() == [0.0]
    built.load_state_dict({"last_epoch": 2})
    built.step()
    assert built.schedulers[0].get_last_lr() == [0.5 * rate(schedule, 6, 3)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schedule": {"total_steps": 20}}, "schedule.total_steps: 20 is less than the 24 steps to train"),
        ({"steps": None, "tokens": 24 * 256, "schedule": {"total_steps": 20}}, "20 is less than the 24 steps"),
        ({"schedule": {"warmup_steps": 24}}, "schedule.warmup_steps: 24 is no less than the 24 steps of the leg"),
        ({"schedule": {"warmup_steps": 40, "total_steps": 40}}, "40 is no less than the 40 steps of schedule.total_steps"),
        ({"schedule": {"decay_steps": 21}}, "schedule.decay_steps: 21 and warmup_steps=4 are more than the 24 steps"),
        ({"schedule": {"total_steps": 30, "decay_steps": 26}}, None),
        ({"schedule": {"decay": "constant", "total_steps": 5, "warmup_steps": 50}}, None),
    ],
)
def test_a_curve_that_does_not_fit_the_leg_is_refused(changes: dict[str, Any], sentence: str | None) -> None:
    spec = parse(TrainingSpec, merge(TINY, changes))
    found = [str(problem) for problem in cluster_problems(spec, 1)]
    assert found == [] if sentence is None else len(found) == 1 and sentence in found[0]


def test_capacity_and_hosts_count_into_steps_that_are_given_as_tokens() -> None:
    spec = parse(TrainingSpec, merge(TINY, {"steps": None, "tokens": 24 * 256, "global_batch_size": None, "schedule": {"total_steps": 12}}))
    assert [problem.path for problem in cluster_problems(spec, 1)] == ["schedule.total_steps"]
    assert list(cluster_problems(dataclasses.replace(spec, global_batch_size=8), 2)) == []
