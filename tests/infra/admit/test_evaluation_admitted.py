"""Admit and an evaluation: money, quotas, types, devices, data, requests."""

from __future__ import annotations

from typing import Any

import pytest
from admission_values import DEPLOYMENT, price, spec

from contracts.config import SpecError
from contracts.mixture import SourceTokens
from infra.admit import checks
from infra.admit.estimate import estimate
from infra.admit.evaluation_data import copies_of, with_full_uris
from infra.run.evaluation import evaluation_request, evaluation_type
from infra.run.layout import RunLayout
from infra.run.quota_requests import quota_requests
from infra.run.run_images import targets

TOKENS = (SourceTokens(name="", fingerprint="f", uri="s3://data/tokens/f/"),)
HUB = f"hf://datasets/Rowan/hellaswag@{'1' * 40}"


def evaluated(**evaluation: Any) -> Any:
    return spec({"evaluation": evaluation})


def test_without_an_evaluation_nothing_is_asked_for_and_nothing_is_paid() -> None:
    plain = spec()
    assert targets(plain) == ("data_prep", "training") and copies_of(plain) == ()
    assert estimate(plain, price, prepared=True).evaluation_max_usd == 0


def test_each_legs_evaluation_counts_with_its_time_limit() -> None:
    legs = [{"name": "a"}, {"name": "b"}]
    plain = estimate(spec({"legs": legs}), price, prepared=True)
    found = estimate(spec({"legs": legs, "evaluation": {"instance_type": "ml.g5.2xlarge"}}), price, prepared=True)
    assert found.evaluation_max_usd == pytest.approx(3.04)  # 7,200 s at $1.52
    assert found.usd == pytest.approx((plain.usd or 0) + 2 * 3.04, abs=0.01)
    assert [leg.max_usd for leg in found.legs] == [pytest.approx((leg.max_usd or 0) - 3.04, abs=0.01) for leg in plain.legs]
    assert "ml.g5.2xlarge" in found.usd_per_hour


def test_an_evaluation_over_the_budget_is_refused_in_the_budgets_words() -> None:
    chosen = spec({"evaluation": {"max_runtime_seconds": 86_400}})
    (problem,) = checks.budget_problems(chosen, estimate(chosen, price, prepared=True))
    assert "each evaluation $1,519" in problem.message


def test_its_quota_is_the_runs_own_unless_it_names_a_type() -> None:
    own = [request for request in quota_requests(evaluated(), prepared=True) if request.path.startswith("evaluation")]
    assert {request.instance_type for request in own} == {"ml.p5.48xlarge"}
    other = [request for request in quota_requests(evaluated(instance_type="ml.g5.2xlarge"), prepared=True) if request.scope == "type"]
    assert ("evaluation.instance_type", "training job", "ml.g5.2xlarge", 1) in [(r.path, r.use, r.instance_type, r.count) for r in other]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"evaluation": {"instance_type": "ml.c7i.large"}}, "has no GPU"),
        ({"recipe": "llama3_70b", "evaluation": {"instance_type": "ml.g5.2xlarge"}}, "131 GiB of weights, and ml.g5.2xlarge has room"),
    ],
)  # fmt: skip
def test_an_instance_that_cannot_hold_the_export_is_refused(value: Any, words: str) -> None:
    (problem,) = checks.evaluation_device_problems(spec(value))
    assert words in problem.message
    assert not list(checks.evaluation_device_problems(evaluated()))


def test_a_type_that_does_not_exist_is_told_with_a_suggestion() -> None:
    (problem,) = checks.type_problems(evaluated(instance_type="ml.g5.2xlarg"), {"ml.p5.48xlarge", "ml.g5.2xlarge"}, {"ml.c7i.8xlarge"})
    assert problem.path == "evaluation.instance_type" and 'did you mean "ml.g5.2xlarge"' in problem.message


def test_a_leg_without_export_cannot_be_evaluated() -> None:
    with pytest.raises(SpecError, match=r"training\.export\.enabled=false"):
        spec({"training": {"export": {"enabled": False}}, "evaluation": {}})


def test_the_jobs_channels_are_what_it_measures() -> None:
    chosen = evaluated(tasks=["hellaswag"], datasets=[HUB], held_out=[{"name": "novel", "source": "source/novel/"}])
    full = with_full_uris(chosen.evaluation, "data")
    assert full is not None and full.held_out[0].source == "s3://data/source/novel/"
    assert [(copy.folder, copy.source) for copy in copies_of(chosen)] == [
        ("tasks/Rowan/hellaswag/", HUB),
        ("held_out/novel/", "source/novel/"),
    ]
    request = evaluation_request(chosen, RunLayout("r"), DEPLOYMENT, TOKENS, "s3://data/evaluation/x/")
    assert request["EnableNetworkIsolation"] is True and request["RoleArn"] == DEPLOYMENT.evaluate_role_arn
    assert request["AlgorithmSpecification"]["ContainerEntrypoint"] == ["python", "-m", "training.evaluation.job"]
    assert {c["ChannelName"]: c["InputMode"] for c in request["InputDataConfig"]} == {
        "run": "File",
        "tokens": "FastFile",
        "evaluation": "File",
    }
    assert "VolumeKmsKeyId" not in request["ResourceConfig"]  # ml.p5 has storage of its own
    alone = evaluation_request(evaluated(instance_type="ml.m7i.xlarge", validation=True), RunLayout("r"), DEPLOYMENT, TOKENS, None)
    assert [c["ChannelName"] for c in alone["InputDataConfig"]] == ["run", "tokens"] and "VolumeKmsKeyId" in alone["ResourceConfig"]
    assert evaluation_type(evaluated()) == "ml.p5.48xlarge" and targets(chosen)[-1] == "evaluate"
