"""The quota check of a deployment: responses to CloudFormation, and which deployments contain it."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from admission_values import Jobs, Json, Quotas
from synthesised import Synthesised, settings

from infra.constructs.quota_check import demands
from infra.edge.function import forget_clients
from infra.quota_check.answer import Clients, Demand, answer, reason
from infra.quota_check.handler import handler
from infra.sagemaker.quotas import QuotaRequest

P5 = Demand(
    who="schedule weekly", request=QuotaRequest(path="compute.instance_count", use="training job", instance_type="ml.p5.48xlarge", count=2)
)


def event(kind: str, *asked: Demand, **more: str) -> Json:
    ids = {"StackId": "arn:stack", "RequestId": "r-1", "LogicalResourceId": "Check", "ResponseURL": "http://127.0.0.1:1/"}
    return {"RequestType": kind, **ids, **more, "ResourceProperties": {"Demands": json.dumps([demand.as_value() for demand in asked])}}


def stack(status: str) -> Any:
    return SimpleNamespace(describe_stacks=lambda StackName: {"Stacks": [{"StackStatus": status}]} if StackName == "arn:stack" else {})


def said(asked: Json, limit: float | None, status: str = "UPDATE_IN_PROGRESS") -> Json:
    quotas = Quotas({} if limit is None else {P5.request.quota: limit}, {})
    return answer(asked, reason(asked, Clients(quotas=quotas, sagemaker=Jobs(), cloudformation=stack(status)), "us-west-2"))


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_a_missing_quota_fails_the_stack_with_who_wants_it_and_where_to_ask(kind: str) -> None:
    given = said(event(kind, P5), 1)
    assert given["Status"] == "FAILED"
    assert given["Reason"].startswith(
        'schedule weekly: 2 x ml.p5.48xlarge needs quota 2 for "ml.p5.48xlarge for training job usage", this account has 1'
    )
    assert "https://us-west-2.console.aws.amazon.com/servicequotas/" in given["Reason"]
    assert said(event(kind, P5), None)["Status"] == "FAILED"  # a quota that does not exist


def test_instances_that_are_in_use_now_do_not_fail_a_deployment() -> None:
    assert said(event("Create", P5), 2)["Status"] == "SUCCESS"  # Jobs: two p5 instances run


def test_a_rollback_is_never_refused() -> None:
    assert said(event("Update", P5), 0, "UPDATE_ROLLBACK_IN_PROGRESS")["Status"] == "SUCCESS"


def test_deleting_always_succeeds_and_looks_at_nothing() -> None:
    asked = event("Delete", PhysicalResourceId="given-on-create") | {"ResourceProperties": {}}
    given = answer(asked, reason(asked, Clients(quotas=None, sagemaker=None, cloudformation=None), "us-west-2"))
    assert given == {
        "Status": "SUCCESS", "Reason": "every quota is large enough", "PhysicalResourceId": "given-on-create",
        "StackId": "arn:stack", "RequestId": "r-1", "LogicalResourceId": "Check",
    }  # fmt: skip


def test_its_physical_id_never_changes_so_that_no_update_is_a_replacement() -> None:
    created = said(event("Create", P5), 2)["PhysicalResourceId"]
    assert said(event("Update", P5, PhysicalResourceId=created), 1)["PhysicalResourceId"] == created


def test_all_demands_share_one_look_up() -> None:
    quotas = Quotas({P5.request.quota: 3}, {})
    small = dataclasses.replace(P5, who="schedule small", request=dataclasses.replace(P5.request, count=4))
    clients = Clients(quotas=quotas, sagemaker=Jobs(), cloudformation=None)
    why = reason(event("Create", *[P5] * 40, small), clients, "us-west-2")
    assert why is not None and why.startswith("schedule small: 4 x ml.p5.48xlarge needs quota 4") and "schedule weekly" not in why
    assert quotas.read == 1


def test_an_error_while_looking_is_answered_too() -> None:
    def denied(name: str) -> Any:
        raise PermissionError("AccessDenied: servicequotas:ListServiceQuotas")

    asked = event("Create", P5)
    clients = Clients(quotas=SimpleNamespace(get_paginator=denied), sagemaker=Jobs(), cloudformation=None)
    given = answer(asked, reason(asked, clients, "us-west-2"))
    assert given["Status"] == "FAILED"
    assert given["Reason"] == "the quotas could not be read: PermissionError: AccessDenied: servicequotas:ListServiceQuotas"


def test_an_answer_fits_what_cloudformation_takes() -> None:
    many = [dataclasses.replace(P5, who=f"schedule {number} of many") for number in range(50)]
    assert len(json.dumps(said(event("Create", *many), 0)).encode()) < 4096


@pytest.fixture
def received() -> Iterator[Any]:
    """A presigned URL's server; ``received.calls`` holds what was put there."""
    calls: list[tuple[str | None, Json]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            calls.append((self.headers["Content-Type"], json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield SimpleNamespace(calls=calls, url=f"http://127.0.0.1:{server.server_port}/answer")
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_function_puts_its_answer_with_the_empty_content_type_that_the_url_is_signed_for(
    received: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = {"service-quotas": Quotas({P5.request.quota: 0}, {}), "sagemaker": Jobs(), "cloudformation": None}
    forget_clients()
    monkeypatch.setattr(boto3, "client", lambda service, **_: clients[service])
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    monkeypatch.setenv("DEPLOYMENT", "{}")
    returned = handler(event("Create", P5) | {"ResponseURL": received.url}, None)
    assert received.calls == [("", returned)]
    assert returned["Status"] == "FAILED"


# -- which deployments ask -----------------------------------------------------------------------------


def test_default_recipe_and_enabled_schedules_claim_their_instances() -> None:
    example = settings("example")
    assert {demand.who for demand in demands(example)} == {"the default recipe", "schedule weekly-8b"}  # "continued" is not enabled
    assert {demand.request.quota for demand in demands(example) if demand.request.scope == "type"} == {
        "ml.c7i.8xlarge for processing job usage",
        "ml.p5.48xlarge for training job usage",
    }
    assert [Demand.from_value(demand.as_value()) for demand in demands(example)] == demands(example)


def test_only_a_setting_brings_the_check_and_schedules_wait_for_it(default: Synthesised, example: Synthesised) -> None:
    default.template("pipeline").resource_count_is("Custom::QuotaCheck", 0)
    template = example.template("pipeline")
    ((name, check),) = template.find_resources("Custom::QuotaCheck").items()
    (function,) = template.find_resources("AWS::Lambda::Function", {"Properties": {"Handler": "infra.quota_check.handler.handler"}})
    assert check["Properties"]["ServiceToken"] == {"Fn::GetAtt": [function, "Arn"]}
    assert [Demand.from_value(value) for value in json.loads(check["Properties"]["Demands"])] == demands(settings("example"))
    for schedule in template.find_resources("AWS::Scheduler::Schedule").values():
        assert name in schedule["DependsOn"]
