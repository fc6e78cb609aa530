"""Admit's checks: types, devices, memory, token, training plan, money."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from admission_values import DEPLOYMENT, Jobs, Json, Quotas, price, spec

from infra.admit import checks
from infra.admit.checks import offered
from infra.admit.estimate import estimate
from infra.admit.gather import secret_has_value
from infra.run.quota_requests import quota_requests
from infra.run.recipes import RECIPES
from infra.sagemaker.quotas import quota_statuses


def test_p5_is_no_processing_type() -> None:
    chosen = spec({"data": {"instance_type": "ml.p5.48xlarge"}})
    (problem,) = checks.type_problems(chosen, ["ml.p5.48xlarge"], ["ml.c7i.8xlarge"])
    assert str(problem).startswith('data.instance_type: "ml.p5.48xlarge" is no instance type for processing jobs')


def test_a_type_that_only_service_quotas_knows_is_offered() -> None:
    """The runtime's service model may be older than the type; a quota of its own is proof enough."""
    chosen = spec({"compute": {"instance_type": "ml.p9.48xlarge"}})
    requests = quota_requests(chosen, prepared=False)
    listed = quota_statuses(requests, Quotas({"ml.p9.48xlarge for training job usage": 1}, {}), Jobs())
    assert offered(listed, "training") == {"ml.p9.48xlarge"} and offered(listed, "processing") == set()
    known = {"ml.c7i.8xlarge"}
    assert not list(checks.type_problems(chosen, offered(listed, "training"), known))
    unlisted = quota_statuses(requests, Quotas({}, {}), Jobs())
    assert [problem.path for problem in checks.type_problems(chosen, offered(unlisted, "training"), known)] == ["compute.instance_type"]


def test_ranks_must_match_the_gpus() -> None:
    (problem,) = checks.device_problems(spec({"training": {"processes_per_host": 4}}))
    assert "4 ranks on ml.p5.48xlarge, which has 8 x NVIDIA H100" in problem.message


def test_a_gated_tokenizer_needs_a_token() -> None:
    (problem,) = checks.secret_problems(spec(), DEPLOYMENT.secret_arn, has_value=False)
    assert "put-secret-value" in problem.message
    assert not list(checks.secret_problems(spec(), DEPLOYMENT.secret_arn, has_value=True))
    assert not list(checks.secret_problems(spec(recipe="local"), DEPLOYMENT.secret_arn, has_value=False))


@pytest.mark.parametrize(
    ("described", "has_value"),
    [
        ({}, False),
        ({"VersionIdsToStages": {"v": ["AWSCURRENT"]}, "CreatedDate": 1, "LastChangedDate": 1}, False),
        ({"VersionIdsToStages": {"v": ["AWSCURRENT"]}, "CreatedDate": 1, "LastChangedDate": 2}, True),
        ({"VersionIdsToStages": {"v": ["AWSPREVIOUS"]}, "CreatedDate": 1, "LastChangedDate": 2}, False),
    ],
)
def test_whether_a_token_is_set_is_known_without_reading_it(described: Json, has_value: bool) -> None:
    assert secret_has_value(SimpleNamespace(describe_secret=lambda SecretId: described), "arn") is has_value


def test_a_run_above_its_budget_is_refused_with_its_price() -> None:
    chosen = spec({"budget": {"max_usd": 20}})
    (problem,) = checks.budget_problems(chosen, estimate(chosen, price, prepared=True))
    assert problem.path == "budget.max_usd"
    assert "20 is less than" in problem.message


def test_a_budget_without_a_price_is_refused() -> None:
    chosen = spec({"compute": {"instance_type": "ml.p9.xlarge"}})
    (problem,) = checks.budget_problems(chosen, estimate(chosen, price, prepared=True))
    assert "no price is known for ml.p9.xlarge" in problem.message


def test_several_gpu_hosts_need_efa() -> None:
    without = {"instance_type": "ml.g5.2xlarge", "instance_count": 2}
    (problem,) = checks.network_problems(spec({"compute": without, "training": {"processes_per_host": 1}}))
    assert problem.path == "compute.instance_type"
    assert "2 x ml.g5.2xlarge cannot train together: the type has no EFA network; set compute.instance_count to 1" in problem.message
    assert not list(checks.network_problems(spec({"compute": {"instance_type": "ml.g5.2xlarge"}})))
    assert not list(checks.network_problems(spec({"compute": {"instance_count": 2}})))
    assert not list(checks.network_problems(spec({"compute": {"instance_count": 2}}, recipe="local")))


def test_a_training_plan_is_described_and_never_bought() -> None:
    arn = "arn:aws:sagemaker:us-east-1:111122223333:training-plan/p"
    chosen = spec({"compute": {"capacity": [{"kind": "training_plan", "training_plan_arn": arn}]}})
    plan = {"Status": "Expired", "ReservedCapacitySummaries": [{"InstanceType": "ml.p4d.24xlarge"}]}
    messages = [problem.message for problem in checks.training_plan_problems(chosen, {arn: plan})]
    assert any("is Expired" in message for message in messages)
    assert any("reserves ml.p4d.24xlarge, not ml.p5.48xlarge" in message for message in messages)
    assert [request.scope for request in quota_requests(chosen, prepared=True)] == ["run_time"]  # its instances are outside the quotas


def test_recipes_fit_their_devices() -> None:
    assert [list(checks.device_problems(spec(recipe=name))) for name in RECIPES] == [[]] * len(RECIPES)


def test_recipes_cost_no_more_than_their_own_budget() -> None:
    for name in RECIPES:
        chosen = spec(recipe=name)
        assert list(checks.budget_problems(chosen, estimate(chosen, price, prepared=False))) == []


def test_a_batch_that_does_not_fit_is_refused_with_need_limit_and_fix() -> None:
    (found,) = checks.device_problems(spec({"training": {"local_batch_size": 8}}))
    assert found.path == "training.local_batch_size"
    assert re.search(
        r"8 samples of 8192 tokens need about \d+ GiB on each NVIDIA H100 of ml.p5.48xlarge, which has 79 GiB; lower", found.message
    )


def test_an_alternative_type_is_checked_with_its_own_batch() -> None:
    smaller = {"kind": "on_demand", "instance_type": "ml.p4d.24xlarge"}
    refused = list(checks.device_problems(spec({"compute": {"capacity": [{}, smaller]}})))
    assert ["ml.p4d.24xlarge" in problem.message for problem in refused] == [True]
    fitting = {"training": {"global_batch_size": 16}, "compute": {"capacity": [{}, smaller | {"local_batch_size": 1}]}}
    assert list(checks.device_problems(spec(fitting))) == []
