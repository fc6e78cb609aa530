"""One active execution per run, and runs that are executed again."""

from __future__ import annotations

import json

import pytest
from admission_values import Json, spec
from small_s3 import SmallS3

from contracts.config import to_json
from infra.admit.continued import continued
from infra.run import run_lock
from infra.run.layout import RunLayout
from infra.run.run_spec import RunSpec
from training.leg_identity import leg_identity

ARNS = ["", *(f"arn:aws:states:us-east-1:111122223333:execution:machine:{name}" for name in ("one", "two"))]


class Executions:
    """DescribeExecution."""

    class exceptions:
        class ExecutionDoesNotExist(Exception):
            pass

    def __init__(self, status: str | None) -> None:
        self.status = status

    def describe_execution(self, executionArn: str) -> Json:
        if self.status is None:
            raise self.exceptions.ExecutionDoesNotExist
        return {"status": self.status}


def test_a_run_has_one_active_execution() -> None:
    s3, layout = SmallS3(), RunLayout("r")
    run_lock.acquire(s3, Executions("RUNNING"), "data", layout, ARNS[1])
    run_lock.acquire(s3, Executions("RUNNING"), "data", layout, ARNS[1])  # Admit may be retried
    with pytest.raises(run_lock.RunIsActive, match=r"active in execution .*:one;"):
        run_lock.acquire(s3, Executions("RUNNING"), "data", layout, ARNS[2])


@pytest.mark.parametrize("status", ["FAILED", "SUCCEEDED", "ABORTED", None])
def test_the_lock_of_an_ended_execution_is_taken_over(status: str | None) -> None:
    s3, layout = SmallS3(), RunLayout("r")
    run_lock.acquire(s3, Executions(status), "data", layout, ARNS[1])
    run_lock.acquire(s3, Executions(status), "data", layout, ARNS[2])
    assert json.loads(s3.objects[layout.lock][0])["execution_arn"] == ARNS[2]


ATTEMPT = "runs/daily/main/attempts/20261121T060000-aaaaaa-2/"


def earlier(steps: int, done: int | None, curve: Json | None = None) -> tuple[SmallS3, RunSpec]:
    s3 = SmallS3()
    schedule = {"name": "daily", "time": "2026-11-22T06:00:00Z", "resume": "latest"}
    chosen = spec({"schedule": schedule, "training": {"steps": 100, "schedule": curve or {"decay": "constant"}}})
    training = to_json(chosen.legs[0].training) | {"steps": steps}
    s3.put("runs/daily/run.json", json.dumps({"tokens": {"fingerprint": "f1"}, "legs": [{"name": "main", "training": training}]}))
    s3.put_checkpoint(ATTEMPT, 50, of=leg_identity(chosen.legs[0].training, "f1", 1))
    if done is not None:
        s3.put(f"{ATTEMPT}metrics/result.json", json.dumps({"steps": done}))
    return s3, chosen


@pytest.mark.parametrize(("steps", "done", "target"), [(100, 100, 200), (200, 100, 200), (100, None, 100)])
def test_each_firing_goes_on_for_more_steps_and_finishes_what_was_left(steps: int, done: int | None, target: int) -> None:
    s3, chosen = earlier(steps, done)
    assert continued(chosen, RunLayout("daily"), s3, "data").spec.legs[0].training.steps == target


def test_a_firing_that_would_go_past_the_end_of_the_curve_is_refused() -> None:
    s3, chosen = earlier(900, 900, {"total_steps": 1000})
    assert not list(continued(chosen, RunLayout("daily"), s3, "data").problems("f1"))
    s3, chosen = earlier(1000, 1000, {"total_steps": 1000})
    (problem,) = continued(chosen, RunLayout("daily"), s3, "data").problems("f1")
    assert problem.path == "training.schedule.total_steps"
    assert "1000 is less than the 1100 steps to train" in problem.message


def test_other_tokens_cannot_continue_a_run() -> None:
    s3, chosen = earlier(100, 100)
    before = continued(chosen, RunLayout("daily"), s3, "data")
    assert not list(before.problems("f1"))
    (problem,) = before.problems("f2")
    assert "choose another run_id" in problem.message


def test_a_run_without_whole_checkpoints_starts_afresh() -> None:
    s3, chosen = earlier(100, 100)
    s3.put(f"{ATTEMPT}checkpoints/step-50/__1_0.distcp", "cut")
    before = continued(chosen, RunLayout("daily"), s3, "data")
    assert not before.saved and not list(before.problems("f2"))
    assert before.spec.legs[0].training.steps == 100


def test_the_newest_whole_checkpoint_of_all_attempts_is_gone_on_from() -> None:
    s3, chosen = earlier(100, None)
    first, tenth = (ATTEMPT.replace("-2/", f"-{number}/") for number in (1, 10))
    s3.put_checkpoint(first, 60)
    found = s3.put_checkpoint(tenth, 55)  # this attempt had to go back further
    s3.put(f"{tenth}checkpoints/step-75/__0_0.distcp", "cut off")
    before = continued(chosen, RunLayout("daily"), s3, "data")
    assert before.checkpoints == {"main": f"s3://data/{found}"}


def test_checkpoints_are_not_trained_past_where_the_input_says_not_to_resume() -> None:
    s3, _ = earlier(100, None)
    chosen = spec({"training": {"checkpoint": {"resume": False}}})
    (problem,) = [p for p in continued(chosen, RunLayout("daily"), s3, "data").problems("f1") if "resume" in p.path]
    assert "choose another run_id" in problem.message
