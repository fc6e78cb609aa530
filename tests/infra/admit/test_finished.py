"""A leg at its last step is not trained again: it costs nothing, needs no training instances, and the plan names its folder."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from admission_values import DEPLOYMENT, EXECUTION, price, spec
from test_gather_check_commit import DEPLOYED
from test_run_again import ATTEMPT, INPUT_OF_RUN, RUN, States, deployed, try_again

from contracts.config import to_json
from infra.admit.admission import Refused, admit
from infra.admit.estimate import estimate
from infra.admit.evaluation_data import evaluation_data
from infra.admit.gather import Clients, gather
from infra.run.quota_requests import quota_requests
from training.leg_identity import leg_identity
from training.spec import total_steps

RESULT = f"{ATTEMPT}metrics/result.json"
LEG = f"{ATTEMPT}export/leg.json"


def finished(*, checkpoint: bool = False, **exported: Any) -> Clients:
    """A deployment in which execution e1 of run r finished its leg; its checkpoints are gone unless told otherwise."""
    clients = deployed()
    plan = admit(INPUT_OF_RUN, EXECUTION, DEPLOYMENT, clients)
    (leg,) = spec(INPUT_OF_RUN).legs
    identity = leg_identity(leg.training, plan["tokens"]["fingerprint"], 1)
    export = {"files": 1, "bytes": 10, "dtype": leg.training.export.dtype} | exported
    clients.s3.put(RESULT, json.dumps({"steps": total_steps(leg.training, 1), "export": export}))
    clients.s3.put(f"{ATTEMPT}export/model-00001-of-00001.safetensors", "weights of the model")
    clients.s3.put(LEG, json.dumps(identity))
    if checkpoint:
        clients.s3.put_checkpoint(ATTEMPT, total_steps(leg.training, 1), of=identity)
    clients.states.status[EXECUTION.arn] = "SUCCEEDED"
    return clients


def leg_of(clients: Clients, **changes: Any) -> Any:
    (leg,) = try_again(clients, **changes)["legs"]
    return leg


@pytest.mark.parametrize("checkpoint", [True, False])
def test_the_plan_names_the_folder_that_is_evaluated_whether_or_not_a_checkpoint_is_left(checkpoint: bool) -> None:
    plan = try_again(finished(checkpoint=checkpoint), evaluation={})
    (leg,) = plan["legs"]
    assert leg["finished"] == f"s3://data/{ATTEMPT}" and leg["evaluate"]["attempt"]["number"] == 1
    (cost,) = plan["admitted"]["estimate"]["legs"]
    assert (cost["steps"], cost["seconds"], cost["usd"]) == (0, 0, 0.0)
    assert plan["admitted"]["estimate"]["evaluation_max_usd"] > 0


def cut(clients: Clients) -> None:
    clients.s3.put(RESULT, '{"steps": 5')


def lose_the_weights(clients: Clients) -> None:
    clients.s3.objects.pop(f"{ATTEMPT}export/model-00001-of-00001.safetensors")


def lose_the_identity(clients: Clients) -> None:
    clients.s3.objects.pop(LEG)


@pytest.mark.parametrize("damage", [cut, lose_the_weights, lose_the_identity])
def test_what_cannot_be_shown_to_be_finished_is_trained(damage: Any) -> None:
    clients = finished(checkpoint=True)
    damage(clients)
    leg = leg_of(clients, evaluation={})
    assert "finished" not in leg and leg["attempt"]["checkpoint"].startswith(f"s3://data/{ATTEMPT}")


def test_more_steps_another_type_of_weights_and_a_schedules_firing_train_on() -> None:
    steps = total_steps(spec(INPUT_OF_RUN).legs[0].training, 1)
    assert "finished" not in leg_of(finished(checkpoint=True), training={"steps": steps + 8})
    assert "finished" not in leg_of(finished(checkpoint=True, dtype="float16"))
    curve = {"schedule": {"decay": "constant"}}
    assert "finished" not in leg_of(
        finished(checkpoint=True), training=curve, schedule={"name": "r", "time": "2026-11-22T06:00:00Z", "resume": "latest"}
    )


def test_a_finished_model_of_other_settings_is_not_passed_over_silently() -> None:
    with pytest.raises(Refused, match='run "r" has the finished model of leg main made with 1, and this input has 5'):
        try_again(finished(), training={"seed": 5})


def test_instances_for_training_are_neither_counted_nor_paid_for() -> None:
    chosen = spec(INPUT_OF_RUN | {"evaluation": {"instance_type": "ml.g5.2xlarge"}})
    asked = {request.instance_type for request in quota_requests(chosen, prepared=True, trained=True)}
    assert asked == {"ml.g5.2xlarge"}
    assert {request.instance_type for request in quota_requests(spec(INPUT_OF_RUN), prepared=True, trained=True)} == set()
    costs = estimate(chosen, price, prepared=True, finished=frozenset({"main"}))
    assert costs.usd == costs.evaluation_max_usd


def test_of_two_legs_only_the_other_one_is_trained() -> None:
    clients = finished()
    run = json.loads(clients.s3.objects["runs/r/run.json"][0])
    clients.s3.put("runs/r/run.json", json.dumps(run | {"legs": [*run["legs"], {**run["legs"][0], "name": "b"}]}))
    plan = try_again(clients, legs=[{"name": "main"}, {"name": "b"}])
    assert [leg.get("finished") for leg in plan["legs"]] == [f"s3://data/{ATTEMPT}", None]
    assert [leg["steps"] > 0 for leg in plan["admitted"]["estimate"]["legs"]] == [False, True]


def test_doctor_and_plan_see_it_too() -> None:
    clients = dataclasses.replace(finished(), states=States())
    facts = gather(spec(INPUT_OF_RUN), RUN, DEPLOYED, clients, "us-east-1")
    assert facts.trained and dict(facts.finished) == {"main": f"s3://data/{ATTEMPT}"}


# -- an evaluation that would measure nothing new ---------------------------------------------------

RESULTS = f"{ATTEMPT}evaluation/results.json"
IMAGE = f"{DEPLOYMENT.repository_uri}@sha256:0"
ASKED: dict[str, Any] = {"held_out": [{"name": "novel", "source": "s3://data/source/botocore/"}]}


def evaluated(**changes: Any) -> Clients:
    """The finished leg with results of ``ASKED``, as far as ``changes`` say."""
    clients = finished()
    chosen = spec(INPUT_OF_RUN | {"evaluation": ASKED})
    copies = evaluation_data(chosen, DEPLOYMENT.bucket, clients.s3).copies
    assert copies is not None
    content = {
        "settings": to_json(chosen.evaluation), "data": copies.fingerprint, "environment": {"image": IMAGE},
        "held_out": {"validation": {}, "novel": {}}, "tasks": {},
    }  # fmt: skip
    clients.s3.put(RESULTS, json.dumps(content | changes))
    return clients


def test_a_finished_leg_is_not_evaluated_twice_alike() -> None:
    plan = try_again(evaluated(), evaluation=ASKED)
    assert plan["legs"][0]["finished"] and "evaluate" not in plan["legs"][0]
    assert plan["admitted"]["estimate"]["usd"] == plan["admitted"]["estimate"]["prepare_max_usd"]
    assert "evaluate" in leg_of(evaluated(), evaluation=ASKED | {"limit": 5})


@pytest.mark.parametrize(
    "changes",
    [{"held_out": {"validation": {}}}, {"data": "of other texts"}, {"environment": {"image": "another"}}, {"tasks": None}],
    ids=["one text failed", "other texts", "another image", "damaged"],
)
def test_what_is_missing_or_was_measured_otherwise_is_evaluated(changes: Any) -> None:
    assert "evaluate" in leg_of(evaluated(**changes), evaluation=ASKED)
