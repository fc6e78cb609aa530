"""Admit in three steps: gather looks, check only judges, commit writes only what check let pass."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest
from admission_values import DEPLOYMENT, EXECUTION, Quotas, SageMaker, price, spec
from small_s3 import SmallS3

from infra.admit.admission import Refused, admit
from infra.admit.checks import check
from infra.admit.gather import Clients, Deployed, Facts, gather
from infra.run.layout import RunLayout

PLENTY = {f"{kind} for {use} usage": 64.0 for kind in ("ml.c7i.large", "ml.c7i.8xlarge") for use in ("training job", "processing job")}
INPUT = {"recipe": "local", "budget": {"max_usd": 100}}
DEPLOYED = Deployed(
    bucket=DEPLOYMENT.bucket,
    repository_uri=DEPLOYMENT.repository_uri,
    image_tag=DEPLOYMENT.image_tag,
    secret_arn=DEPLOYMENT.secret_arn,
)


class Ecr:
    def describe_images(self, *, repositoryName: str, imageIds: list[Any]) -> Any:
        assert repositoryName == DEPLOYMENT.repository
        return {"imageDetails": [{"imageDigest": "sha256:0"}]}


def account(quotas: dict[str, float] = PLENTY) -> Clients:
    s3 = SmallS3()
    s3.put("source/botocore/part-0.jsonl.gz", "text")
    secret = {"VersionIdsToStages": {}}
    return Clients(
        s3=s3,
        ecr=Ecr(),
        states=None,
        sagemaker=SageMaker(),
        quotas=Quotas(quotas, {}),
        secrets=SimpleNamespace(describe_secret=lambda SecretId: secret),
        price=price,
    )


def facts(value: Any = INPUT) -> Facts:
    return gather(spec(value), RunLayout("r"), DEPLOYED, account(), "us-east-1")


def test_gather_writes_nothing() -> None:
    clients = account()
    before = dict(clients.s3.objects)
    gather(spec(INPUT), RunLayout("r"), DEPLOYED, clients, "us-east-1")
    assert clients.s3.objects == before


def test_facts_of_a_run_that_can_go_have_no_problem() -> None:
    found = facts()
    assert check(found) == []
    assert found.image == {
        "tag": DEPLOYMENT.image_tag,
        "exists": True,
        "targets": ["data_prep", "training"],
        **dict.fromkeys(("data_prep", "training"), f"{DEPLOYMENT.repository_uri}@sha256:0"),
    }


@pytest.mark.parametrize(
    ("changed", "topic", "words"),
    [
        ({"data_sets": None, "source_refused": "SourceEmpty"}, "Data", "SourceEmpty"),
        ({"processing_types": frozenset(), "quotas": []}, "Instance types", "no instance type for processing jobs"),
        (
            {"quotas": [dataclasses.replace(q, limit=0.0) for q in facts().quotas or [] if q.request.scope == "type"]},
            "Quotas",
            "needs quota 1",
        ),
        ({"costs": dataclasses.replace(facts().costs, prepare_max_usd=1000.0)}, "Budget", "is less than"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fact_that_is_wrong_is_one_finding_of_its_topic(changed: Any, topic: str, words: str) -> None:
    found = check(dataclasses.replace(facts(), **changed))
    assert {finding.topic for finding in found} == {topic}
    assert all(words in str(finding.problem) for finding in found)


def test_what_is_not_known_is_not_judged() -> None:
    unknown = dict.fromkeys(("data_sets", "training_types", "processing_types", "token", "training_plans", "quotas", "image", "earlier"))
    assert check(dataclasses.replace(facts(), **unknown)) == []


def test_a_path_on_one_machine_is_refused_and_not_looked_at() -> None:
    found = facts(INPUT | {"data": {"source": "/home/me/text"}})
    assert found.data_sets is None
    assert [str(finding.problem) for finding in check(found)] == [
        'data.source: "/home/me/text" is a path on one machine; upload it to s3://data/source/ and name that'
    ]


def test_admit_commits_what_was_checked_and_nothing_when_a_check_fails() -> None:
    clients = account()
    plan = admit(INPUT | {"run_id": "r"}, EXECUTION, DEPLOYMENT, clients)
    run = json.loads(clients.s3.objects["runs/r/run.json"][0])
    assert run["tokens"]["fingerprint"] == plan["tokens"]["fingerprint"]
    assert json.loads(clients.s3.objects["runs/r/lock.json"][0])["execution_arn"] == EXECUTION.arn
    poor = account({})
    before = dict(poor.s3.objects)
    with pytest.raises(Refused, match="Service Quotas"):
        admit(INPUT | {"run_id": "r"}, EXECUTION, DEPLOYMENT, poor)
    assert poor.s3.objects.pop("runs/r/executions/e1.json")  # that it was refused, and why
    assert poor.s3.objects == before


def test_admitting_again_for_the_same_execution_changes_nothing() -> None:
    clients = account()
    first = admit(INPUT | {"run_id": "r"}, EXECUTION, DEPLOYMENT, clients)
    written = {key: body for key, (body, _) in clients.s3.objects.items()}
    assert admit(INPUT | {"run_id": "r"}, EXECUTION, DEPLOYMENT, clients) == first
    assert {key: body for key, (body, _) in clients.s3.objects.items()} == written
