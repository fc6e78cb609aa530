"""`doctor` and `plan`: Admit's own look-ups and checks as lines; what this person may not see is a line too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from admission_values import Quotas, SageMaker, spec
from cli_aws import Denied, Deployed
from small_s3 import SmallS3

from infra.admit.checks import check
from infra.cli import preflight as module
from infra.cli.plan_screen import profile_lines
from infra.cli.preflight import Check, preflight
from infra.cli.registry import Unknown

INPUT = {"recipe": "local", "budget": {"max_usd": 100}}
PLENTY = {f"ml.c7i.large for {use} usage": 64.0 for use in ("training job", "processing job")}
BUILD = {"environment": {"environmentVariables": [{"name": "IMAGE_TAG", "value": "0123"}]}}


ACCOUNT_WIDE = [
    f"Quota: {name}"
    for use in ("processing job", "training job")
    for name in (
        f"Maximum number of instances per {use}",
        f"Number of instances across all {use}s",
        f"Longest run time for a {use}",
    )
]


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that has every image; tests of the check itself are in test_registry.py."""
    monkeypatch.setattr(module, "digest_of", lambda reference: f"sha256:{'0' * 64}")


def project(*, builds: list[str]) -> Any:
    listed = {"batch_get_projects": lambda names: {"projects": [BUILD]}, "list_builds_for_project": lambda projectName: {"ids": builds}}
    return SimpleNamespace(**listed)


def deployed(**changed: Any) -> Deployed:
    s3 = SmallS3()
    s3.put("source/botocore/part-0.jsonl.gz", "text")
    clients = {
        "s3": s3,
        "sts": SimpleNamespace(get_caller_identity=lambda: {"Account": "111122223333", "Arn": "arn:aws:iam::111122223333:user/me"}),
        "codebuild": project(builds=["build:1"]),
        "ecr": SimpleNamespace(describe_images=lambda **_: {"imageDetails": []}),
        "secretsmanager": SimpleNamespace(describe_secret=lambda SecretId: {}),
        "service-quotas": Quotas(PLENTY, {}),
        "sagemaker": SageMaker(),
    }
    return Deployed(**clients | changed)


def lines(target: Deployed, value: Any = INPUT) -> dict[str, Check]:
    return {line.name: line for line in preflight(target, spec(value)).checks}  # type: ignore[arg-type]


def test_a_run_that_can_go_is_green_in_the_order_of_the_stages() -> None:
    found = lines(deployed())
    assert {line.state for line in found.values()} == {"good"}
    assert [name for name in found if name not in ACCOUNT_WIDE] == [
        *("Account", "Stacks", "Image", "Base image", "Data", "Hub token"),
        *("Quota: ml.c7i.large for processing job usage", "Quota: ml.c7i.large for training job usage", "Capacity", "Budget"),
    ]


def test_account_wide_limits_have_lines_and_are_no_hindrance_where_they_are_not_listed() -> None:
    found = lines(deployed())
    assert [name for name in found if name in ACCOUNT_WIDE] == ACCOUNT_WIDE
    short = deployed(**{"service-quotas": Quotas(PLENTY | {"Longest run time for a training job": 60}, {})})
    assert lines(short)["Quota: Longest run time for a training job"].state == "bad"


def test_an_account_that_never_built_is_told_of_the_builds_it_may_not_have() -> None:
    line = lines(deployed(codebuild=project(builds=[])))["Image"]
    assert line.state == "warning" and "Cannot have more than 0 builds" in line.fix and "make images" in line.fix


def test_a_base_image_that_is_known_by_its_tag_only_is_said_so() -> None:
    line = lines(deployed())["Base image"]
    assert line.state == "good" and "by its tag only (make lock-images" in line.found


@pytest.mark.parametrize("answer", [None, Unknown("public.ecr.aws does not answer")])
def test_a_base_image_that_cannot_be_confirmed_is_a_warning(answer: Unknown | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest_of(reference: str) -> None:
        assert reference.startswith("public.ecr.aws/deep-learning-containers/base:")
        if isinstance(answer, Unknown):
            raise answer

    monkeypatch.setattr(module, "digest_of", digest_of)
    line = lines(deployed())["Base image"]
    assert line.state == "warning" and ("does not answer" in line.found or "has no public.ecr.aws" in line.found)


@pytest.mark.parametrize(
    ("service", "line", "operation"),
    [
        ("codebuild", "Image", "batch_get_projects"),
        ("ecr", "Image", "describe_images"),
        ("secretsmanager", "Hub token", "describe_secret"),
        ("service-quotas", "Quota: ml.c7i.large for training job usage", "list_service_quotas"),
    ],
)
def test_a_denied_look_up_is_a_line_of_its_own_and_hides_no_other(service: str, line: str, operation: str) -> None:
    denied = Denied() if service != "service-quotas" else SimpleNamespace(get_paginator=lambda name: getattr(Denied(), name)())
    found = lines(deployed(**{service: denied}))
    assert (found[line].state, found[line].found) == ("warning", "AccessDeniedException: no")
    assert operation in found[line].fix
    others = {name: other.state for name, other in found.items() if not name.startswith(line.split(":")[0])}
    assert set(others.values()) == {"good"}
    assert {"Data", "Budget"} <= others.keys()


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (INPUT | {"data": {"source": "/home/me/text"}}, "Data"),
        (INPUT | {"data": {"source": "source/nothing/"}}, "Data"),
        (INPUT | {"compute": {"instance_type": "ml.c7i.larg"}}, "Instance types"),
        (INPUT | {"compute": {"instance_count": 65}}, "Quota: ml.c7i.large for training job usage"),
        ({"recipe": "local", "budget": {"max_usd": 0.001}}, "Budget"),
        ({"recipe": "llama3_8b", "training": {"processes_per_host": 4}}, "Devices"),
        ({"recipe": "llama3_8b"}, "Hub token"),
    ],
    ids=["a path", "empty", "type", "quota", "money", "ranks", "token"],
)
def test_doctor_is_red_where_admit_refuses_in_the_same_words(value: Any, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(module, "check", lambda facts: seen.extend(check(facts)) or seen)
    found = lines(deployed(), value)
    assert found[line].state == "bad"
    red = " ".join(each.found for each in found.values() if each.state == "bad")
    assert seen
    assert [finding.problem.message for finding in seen if finding.problem.message not in red] == []


def test_plan_says_what_a_profiler_records() -> None:
    chosen = spec({"training": {"profile": {"steps": [10, 12], "ranks": [0, 3], "memory": True}}})
    said = ["Profiled (main): steps 10 to 12, a trace and the memory's history of ranks 0, 3; they count for no speed."]
    assert profile_lines(chosen) == said and profile_lines(spec()) == []
