"""The functions' edge: one environment variable, clients once, transient faults by one name, one JSON line for each thing said."""

from __future__ import annotations

import ast
import json
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
)

from contracts.config import SpecError
from contracts.failure import BadInput
from infra.constructs.assets import ROOT, lambda_files
from infra.edge import log
from infra.edge.function import CALLS, Container, forget_clients, lambda_function
from infra.edge.transient import TransientFault, is_transient
from infra.run.deployment import ReportDeployment

Json = Any
CONTEXT = SimpleNamespace(aws_request_id="request-1")
EVENT = {"run_id": "evening", "execution_arn": "arn:execution", "stage": "Train"}


def refused(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "DescribeTrainingJob")


@pytest.fixture(autouse=True)
def deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYMENT", '{"bucket": "data", "dashboard": "d"}')
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    forget_clients()


def lines(capsys: pytest.CaptureFixture[str]) -> list[Json]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def failing(error: Exception) -> Any:
    @lambda_function("Report", ReportDeployment)
    def handler(event: Json, container: Container[ReportDeployment]) -> Json:
        raise error

    return handler


# -- transient faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        refused("ThrottlingException"), refused("TooManyRequestsException"), refused("RequestLimitExceeded"), refused("SlowDown", 503),
        refused("InternalFailure", 500), refused("ServiceUnavailable", 503), refused("Whatever", 502), refused("RequestTimeout"),
        EndpointConnectionError(endpoint_url="https://x"), ConnectTimeoutError(endpoint_url="https://x"),
        ReadTimeoutError(endpoint_url="https://x"), IncompleteReadError(actual_bytes=1, expected_bytes=2),
    ],
    ids=str,
)  # fmt: skip
def test_what_another_try_can_heal_is_one_class_for_step_functions(error: Exception) -> None:
    assert is_transient(error)
    with pytest.raises(TransientFault, match=r"^TransientFault \(retry\): Report: .*may work in a moment$"):
        failing(error)(EVENT, CONTEXT)


@pytest.mark.parametrize("error", [refused("AccessDeniedException"), refused("ValidationException"), refused("NoSuchKey", 404)], ids=str)
def test_what_aws_refuses_for_good_keeps_its_name(error: Exception) -> None:
    with pytest.raises(ClientError):
        failing(error)(EVENT, CONTEXT)


def test_missing_credentials_are_no_transient_fault() -> None:
    assert not is_transient(NoCredentialsError())


def test_a_throttled_call_inside_another_error_is_found() -> None:
    outer = BadInput("listing failed")
    outer.__cause__ = refused("SlowDown", 503)
    with pytest.raises(TransientFault, match="SlowDown"):
        failing(outer)(EVENT, CONTEXT)


# -- lines -----------------------------------------------------------------------------------------------


def test_every_line_names_function_run_execution_stage_and_request(capsys: pytest.CaptureFixture[str]) -> None:
    @lambda_function("Triage", ReportDeployment)
    def handler(event: Json, container: Container[ReportDeployment]) -> Json:
        log.info("decided", again=True)
        return {}

    handler(EVENT, CONTEXT)
    (line,) = lines(capsys)
    assert line.pop("time").endswith("+00:00")
    about = {"function": "Triage", "stage": "Train", "run_id": "evening", "execution": "arn:execution", "request_id": "request-1"}
    assert line == {"level": "INFO", "message": "decided", "again": True, **about}


def test_one_invocation_leaves_nothing_to_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    @lambda_function("Admit", ReportDeployment)
    def handler(event: Json, container: Container[ReportDeployment]) -> Json:
        if event:
            log.about(run_id="found")
        log.info("said")
        return {}

    handler({"execution": {"arn": "arn:a"}}, None)
    handler({}, None)
    first, second = lines(capsys)
    assert (first["run_id"], first["execution"], first["stage"]) == ("found", "arn:a", "Admit")
    assert not {"run_id", "execution", "request_id"} & second.keys()


@pytest.mark.parametrize("error", [KeyError("legs"), refused("ThrottlingException")], ids=["defect", "throttled"])
def test_an_error_is_logged_once_with_its_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match=r"legs|Throttling"):
        failing(error)(EVENT, CONTEXT)
    (line,) = lines(capsys)
    assert (line["level"], line["run_id"]) == ("ERROR", "evening")
    assert "Traceback (most recent call last)" in line["traceback"]
    assert type(error).__name__ in line["traceback"]


# -- container -------------------------------------------------------------------------------------------


def test_clients_are_made_once_for_a_container_and_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Json] = []
    monkeypatch.setattr(boto3, "client", lambda service, **options: made.append((service, options)) or SimpleNamespace())

    @lambda_function("Report", ReportDeployment)
    def handler(event: Json, container: Container[ReportDeployment]) -> Json:
        container.client("s3")
        container.client("logs")
        return {"bucket": container.deployment.bucket}

    assert [handler({}, None) for _ in range(3)] == [{"bucket": "data"}] * 3
    assert made == [(service, {"region_name": "us-west-2", "config": CALLS}) for service in ("s3", "logs")]


def test_a_call_that_hangs_ends_within_the_shortest_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triage's minute: else Lambda ends it, and the error is none that names a cause."""
    attempts = CALLS.retries["total_max_attempts"]
    assert attempts * CALLS.read_timeout + sum(2**n for n in range(attempts - 1)) < 60


def test_a_deployment_value_is_read_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYMENT", '{"bucket": "data", "dashbord": "d"}')
    with pytest.raises(SpecError, match='dashbord: unknown key, did you mean "dashboard"'):
        failing(AssertionError())({}, None)


def test_only_the_edge_reads_the_environment() -> None:
    def reads(path: Any) -> bool:
        tree = ast.walk(ast.parse((ROOT / path).read_text()))
        return any(isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") for node in tree)

    packed = [path for path in lambda_files() if path.suffix == ".py" and path.parts[0] == "infra"]
    assert [str(path) for path in packed if reads(path)] == ["infra/edge/function.py"]
