"""Ordered faults of API calls: each service's own code and status, for the callers and the calls that they are ordered for."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import botocore.config
import botocore.exceptions
import botocore.session
import pytest
from example_machine import BUCKET, ROLE, Example

from local_aws.injected_faults import Fault
from local_aws.services import api_faults
from local_aws.services.scheduler import soon


@pytest.mark.parametrize(
    ("service", "operation", "expected"),
    [
        ("sagemaker", "DescribeTrainingJob", ("ThrottlingException", 400)),
        ("service-quotas", "ListServiceQuotas", ("TooManyRequestsException", 400)),
        ("stepfunctions", "StartExecution", ("ThrottlingException", 400)),
        ("codebuild", "StartBuild", ("ThrottlingException", 400)),
        ("lambda", "Invoke", ("TooManyRequestsException", 429)),
        ("scheduler", "CreateSchedule", ("ThrottlingException", 429)),
        ("s3", "GetObject", ("SlowDown", 503)),
        ("sns", "Publish", ("Throttled", 429)),
        ("sts", "GetCallerIdentity", ("Throttling", 400)),
    ],
)
def test_each_service_throttles_in_its_own_way(service: str, operation: str, expected: tuple[str, int]) -> None:
    assert api_faults.throttling(service, operation) == expected


@pytest.mark.parametrize(
    ("method", "path", "query", "operation"),
    [
        ("GET", "/b", "list-type=2&prefix=x", "ListObjectsV2"),
        ("POST", "/b", "delete", "DeleteObjects"),
        ("GET", "/b/a/long/key", "", "GetObject"),
        ("PUT", "/b/key", "x-id=PutObject", "PutObject"),
        ("PUT", "/b/key", "partNumber=1&uploadId=x", "UploadPart"),
        ("POST", "/b/key", "uploads", "CreateMultipartUpload"),
    ],
)
def test_operation_of_a_rest_request_is_found_by_its_route(method: str, path: str, query: str, operation: str) -> None:
    assert api_faults._operation("s3", method, path, query, {}, b"") == operation


def once(example: Example, service: str) -> Any:
    """A client that never tries again."""
    ignored = {"profile": (None, None, None, None), "config_file": (None, None, "/dev/null", None)}
    return botocore.session.Session(session_vars=ignored).create_client(
        service,
        region_name="us-east-1",
        endpoint_url=example.aws.endpoint,
        aws_access_key_id="000000000000",
        aws_secret_access_key="x",
        config=botocore.config.Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("service", "call", "arguments", "code", "status"),
    [
        ("sagemaker", "list_training_jobs", {}, "ThrottlingException", 400),
        ("s3", "list_objects_v2", {"Bucket": BUCKET}, "SlowDown", 503),
        ("lambda", "list_functions", {}, "TooManyRequestsException", 429),
        ("sns", "list_topics", {}, "Throttled", 429),
        ("cloudwatch", "list_metrics", {}, "ThrottlingException", 400),
        ("service-quotas", "list_service_quotas", {"ServiceCode": "sagemaker"}, "TooManyRequestsException", 400),
    ],
)
def test_every_second_call_over_http_is_throttled(
    example: Example, service: str, call: str, arguments: dict[str, str], code: str, status: int
) -> None:
    example.aws.inject(Fault(id=f"second {service}", on="*", service=service, error="throttled", every=2, times=-1))
    client, seen = once(example, service), []
    for _ in range(4):
        try:
            getattr(client, call)(**arguments)
            seen.append(("", 200))
        except botocore.exceptions.ClientError as error:
            seen.append((error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]))
    assert seen == [("", 200), (code, status)] * 2


@pytest.mark.embedded
def test_functions_are_throttled_apart_from_clients(example: Example) -> None:
    example.aws.inject(Fault(id="functions", on="ListServiceQuotas", caller="function", error="throttled", times=-1))
    once(example, "service-quotas").list_service_quotas(ServiceCode="sagemaker")
    ended = example.wait(example.start())
    assert (ended["status"], ended["error"]) == ("FAILED", "TooManyRequestsException")


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault(id="1", on="Invoke", error="throttled"), "Lambda.TooManyRequestsException", "Status Code: 429"),
        (
            Fault(
                id="2",
                on="StartBuild",
                error="AccountLimitExceededException",
                message="Cannot have more than 0 builds in queue for the account",
            ),
            "CodeBuild.AccountLimitExceededException",
            "Cannot have more than 0 builds in queue",
        ),
        (Fault(id="3", on="StartBuild", error="throttled"), "CodeBuild.AWSCodeBuildException", "Error Code: ThrottlingException"),
        (Fault(id="4", on="CreateProcessingJob", error="throttled"), "SageMaker.AmazonSageMakerException", "ThrottlingException"),
        (
            Fault(id="5", on="CreateProcessingJob", unsupported_field="ProcessingOutputConfig"),
            "States.Runtime",
            "The field 'ProcessingOutputConfig' is not supported by Step Functions",
        ),
    ],
)
def test_a_task_of_the_state_machine_fails_by_the_integrations_name(example: Example, fault: Fault, error: str, words: str) -> None:
    example.aws.inject(Fault(**{**fault.__dict__, "id": f"{fault.id}-{uuid.uuid4().hex}", "caller": "state machine"}))
    ended = example.wait(example.start({"name": "main", "behaviour": "go"}))
    assert (ended["status"], ended["error"]) == ("FAILED", error)
    assert words in ended["cause"]


@pytest.mark.embedded
def test_a_field_that_the_request_lacks_is_not_refused(example: Example) -> None:
    example.aws.inject(Fault(id="absent field", on="CreateTrainingJob", unsupported_field="InfraCheckConfig", times=-1))
    assert example.wait(example.start({"name": "main", "behaviour": "go"}, start_at="train"))["status"] == "SUCCEEDED"


@pytest.mark.embedded
def test_deleted_objects_can_be_reported_as_errors_and_stay(example: Example) -> None:
    s3 = example.aws.client("s3")
    for key in ("deleted/a", "deleted/b", "deleted/c"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    example.aws.inject(Fault(id="kept", on="DeletedObject", match="/b$", error="AccessDenied"))
    doomed = {"Objects": [{"Key": f"deleted/{name}"} for name in "abc"]}
    first = s3.delete_objects(Bucket=BUCKET, Delete=doomed)
    assert [item["Key"] for item in first["Deleted"]] == ["deleted/a", "deleted/c"]
    assert [(item["Key"], item["Code"]) for item in first["Errors"]] == [("deleted/b", "AccessDenied")]
    assert set(example.objects("deleted/")) == {"b"}
    assert "Errors" not in s3.delete_objects(Bucket=BUCKET, Delete=doomed)  # once
    assert example.objects("deleted/") == {}


@pytest.mark.embedded
@pytest.mark.parametrize("missing", [False, True])
def test_a_schedule_that_cannot_start_its_target_leaves_a_dead_letter(example: Example, missing: bool) -> None:
    sqs, steps = example.aws.client("sqs"), example.aws.client("stepfunctions")
    name = f"lost-{uuid.uuid4().hex[:8]}"
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    definition = {"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}}
    machine = steps.create_state_machine(name=name, definition=json.dumps(definition), roleArn=ROLE)["stateMachineArn"]
    target = f"{machine}-gone" if missing else machine
    if not missing:
        example.aws.inject(Fault(id=name, on="StartExecution", caller="schedule", error="throttled", times=-1))
    example.aws.client("scheduler").create_schedule(
        Name=name,
        ScheduleExpression=soon(1.0, "UTC"),
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": target,
            "RoleArn": ROLE,
            "Input": json.dumps({"time": "<aws.scheduler.scheduled-time>"}),
            "RetryPolicy": {"MaximumRetryAttempts": 1},
            "DeadLetterConfig": {"Arn": queue_arn},
        },
    )
    deadline = time.monotonic() + 30
    while not (messages := sqs.receive_message(QueueUrl=queue, MessageAttributeNames=["All"]).get("Messages")):
        assert time.monotonic() < deadline, "no dead letter within 30 s"
        time.sleep(0.1)
    said = {key: value["StringValue"] for key, value in messages[0]["MessageAttributes"].items()}
    assert said["ERROR_CODE"] == ("StateMachineDoesNotExist" if missing else "ThrottlingException")
    assert (said["RETRY_ATTEMPTS"], said["TARGET_ARN"]) == ("1", target)
    assert json.loads(messages[0]["Body"])["Input"] == json.dumps({"time": said["SCHEDULED_TIME"]})
    assert steps.list_executions(stateMachineArn=machine)["executions"] == []
