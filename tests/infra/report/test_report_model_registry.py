"""Exported models in SageMaker Model Registry: registered once with metrics and lineage, and never at the cost of a report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber
from report_runs import ATTEMPT, START, FolderS3, event, metrics_lines, put_checkpoint, result_json, run_json, stored

from infra.report import model_registry
from infra.report.document import build_document
from infra.report.model_registry import APPROVAL, Registry, package_request, register
from infra.report.read import Json, RunFacts, read_run
from infra.report.sinks import with_deliveries
from infra.run.recipes import RECIPES
from infra.run.run_jobs import RunJob
from infra.run.sink_settings import MAX_GROUP_NAME, ModelRegistry, model_group

EXPORT = f"s3://bucket/runs/evening/main/{ATTEMPT}export/"
GROUP = "arn:aws:sagemaker:us-east-1:111122223333:model-package-group/pretrain-local"
PACKAGE = "arn:aws:sagemaker:us-east-1:111122223333:model-package/pretrain-local/1"
JOB = "arn:aws:sagemaker:us-east-1:111122223333:training-job/evening-main-1"
IMAGE = "111122223333.dkr.ecr.us-east-1.amazonaws.com/pretrain@sha256:" + "a" * 64
SERVING = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.33.0-lmi15.0.0-cu128"
MISSING = {"service_error_code": "ValidationException", "service_message": f"ModelPackageGroup {GROUP} does not exist."}


def finished(**changes: Any) -> tuple[RunFacts, Json, FolderS3]:
    """Facts and report document of a run of one finished leg that began from another run's weights."""
    run = run_json() | {"initial": {"main": {"source": "run:trunk/main", "kind": "weights", "uri": "s3://b/w/", "checksum": "ab12"}}}
    s3 = stored(run | changes, {"main": (metrics_lines(150), result_json())})
    put_checkpoint(s3, "evening", 150)
    facts = read_run(event(), bucket="bucket", region="us-east-1", s3=s3, now=START + 400)
    description = {"TrainingJobArn": JOB, "TrainingJobStatus": "Completed", "AlgorithmSpecification": {"TrainingImage": IMAGE}}
    job = RunJob(
        name="evening-main-1", kind="Training", stage="train", leg="main", status="Completed", created=START, billed_seconds=1.0,
        instance_type="ml.c7i.large", instance_count=1, description=description,
    )  # fmt: skip
    facts = dataclasses.replace(facts, jobs=(dataclasses.replace(job, description=description | {"TrainingJobStatus": "Failed"}), job))
    return facts, build_document(facts, lambda kind: 0.1), s3


@pytest.fixture
def sagemaker() -> Any:
    """A real client: botocore checks every request and every scripted answer against the service model."""
    keys = {"aws_access_key_id": "offline", "aws_secret_access_key": "offline"}
    return boto3.client("sagemaker", region_name="us-east-1", config=Config(retries={"max_attempts": 1}), **keys)


def registry(sagemaker: Any, s3: Any, **settings: Any) -> Registry:
    return Registry(settings=ModelRegistry(**settings), deployment="pretrain", tags={"team": "llm"}, sagemaker=sagemaker, s3=s3)


def listed(*descriptions: str) -> Json:
    return {
        "ModelPackageSummaryList": [
            {"ModelPackageArn": PACKAGE, "ModelPackageDescription": text, "CreationTime": START, "ModelPackageStatus": "Completed"}
            for text in descriptions
        ]
    }


def test_an_exported_leg_becomes_a_version_with_metrics_and_lineage(sagemaker):
    facts, document, s3 = finished()
    with Stubber(sagemaker) as aws:
        aws.add_client_error("describe_model_package_group", **MISSING)
        tags = [{"Key": "team", "Value": "llm"}, {"Key": "pretrain:deployment", "Value": "pretrain"}]
        made = {"ModelPackageGroupName": "pretrain-local", "ModelPackageGroupDescription": ANY, "Tags": tags}
        aws.add_response("create_model_package_group", {"ModelPackageGroupArn": GROUP}, made)
        wanted = {"ModelPackageGroupName": "pretrain-local", "ModelPackageType": "Versioned", "CreationTimeAfter": START}
        aws.add_response("list_model_packages", listed(), wanted)
        aws.add_response("create_model_package", {"ModelPackageArn": PACKAGE})
        told = register(registry(sagemaker, s3), document, facts)
        aws.assert_no_pending_responses()
    assert told is not None
    assert told.sentence == "Model Registry: 1 of 1 exported models in group pretrain-local, 1 new and pending approval."
    assert (told.complete, told.sent, told.left, told.places) == (True, 1, 0, {"main": PACKAGE})
    body = s3.objects["runs/evening/main/model_metrics/20260921T141320-aaaaaa-1.json"]
    metrics = json.loads(body)
    assert (metrics["figures"]["validation_loss"], metrics["figures"]["steps"]) == (2.81, 150)
    shown = with_deliveries(document, [told])
    assert shown["headline"] == document["headline"]
    assert shown["sinks"][0]["places"] == {"main": PACKAGE}


def test_the_request_holds_what_made_the_model():
    facts, document, _ = finished()
    metrics = {"ContentType": "application/json", "S3Uri": "s3://bucket/m.json", "ContentDigest": "sha256:" + "0" * 64}
    request = package_request(ModelRegistry(), "pretrain-local", document["legs"][0], facts, metrics)
    assert request["ModelApprovalStatus"] == APPROVAL == "PendingManualApproval"
    assert request["SourceUri"] == EXPORT and "InferenceSpecification" not in request
    assert request["MetadataProperties"] == {"GeneratedBy": JOB}
    assert request["ModelMetrics"] == {"ModelQuality": {"Statistics": metrics}}
    assert request["CustomerMetadataProperties"] == {
        "run": "evening", "leg": "main", "recipe": "local", "step": "150", "training_tokens": "614400", "parameters": "5000000",
        "loss": "2.71", "validation_loss": "2.81", "export": EXPORT, "tokens_fingerprint": "f" * 32, "image": IMAGE,
        "checkpoint": f"s3://bucket/runs/evening/main/{ATTEMPT}checkpoints/step-150/", "source_hash": "training-0123456789ab",
        "training_job": JOB, "execution": facts.execution_arn, "settings": "s3://bucket/runs/evening/run.json",
        "began_from": "run:trunk/main", "began_from_files": "s3://b/w/", "began_from_checksum": "ab12",
    }  # fmt: skip


def test_with_a_container_the_version_can_be_deployed_as_it_is():
    facts, document, _ = finished()
    request = package_request(ModelRegistry(inference_image=SERVING), "g", document["legs"][0], facts, {})
    (container,) = request["InferenceSpecification"]["Containers"]
    assert container["Image"] == SERVING and "SourceUri" not in request
    assert container["ModelDataSource"]["S3DataSource"] == {"S3Uri": EXPORT, "S3DataType": "S3Prefix", "CompressionType": "None"}


def test_a_repeated_report_finds_the_version(sagemaker):
    facts, document, s3 = finished()
    with Stubber(sagemaker) as aws:
        aws.add_response("describe_model_package_group", {
            "ModelPackageGroupName": "pretrain-local", "ModelPackageGroupArn": GROUP, "CreationTime": START, "CreatedBy": {},
            "ModelPackageGroupStatus": "Completed",
        })  # fmt: skip
        aws.add_response("list_model_packages", listed(f"Run evening, leg main: {EXPORT}"))
        told = register(registry(sagemaker, s3), document, facts)
    assert told is not None and told.sentence.endswith("1 of 1 exported models in group pretrain-local, 0 new and pending approval.")
    assert not [key for key in s3.objects if "model_metrics" in key]


def test_the_same_export_has_the_same_token_and_another_one_another():
    facts, document, _ = finished()
    leg = document["legs"][0]
    tokens = [package_request(ModelRegistry(), "g", each, facts, {})["ClientToken"] for each in (leg, leg, leg | {"export": EXPORT + "2/"})]
    assert tokens[0] == tokens[1] != tokens[2]
    assert len(tokens[0]) == 36


@pytest.mark.parametrize(
    ("operation", "code", "words"),
    [
        ("describe_model_package_group", "AccessDeniedException", "DescribeModelPackageGroup: AccessDeniedException not yours"),
        ("list_model_packages", "ThrottlingException", "ListModelPackages: ThrottlingException not yours"),
        ("create_model_package", "ResourceLimitExceeded", "CreateModelPackage: ResourceLimitExceeded not yours"),
    ],
)
def test_a_refusal_is_one_sentence(sagemaker, operation, code, words):
    facts, document, s3 = finished()
    with Stubber(sagemaker) as aws:
        for name in ("describe_model_package_group", "list_model_packages", "create_model_package"):
            if name == operation:
                aws.add_client_error(name, service_error_code=code, service_message="not yours.")
                break
            aws.add_response(name, listed() if name.startswith("list") else {
                "ModelPackageGroupName": "pretrain-local", "ModelPackageGroupArn": GROUP, "CreationTime": START, "CreatedBy": {},
                "ModelPackageGroupStatus": "Completed",
            })  # fmt: skip
        told = register(registry(sagemaker, s3), document, facts)
    assert told is not None
    rest = "0 of 1 exported models in group pretrain-local; pretrain report evening --again registers the rest."
    assert (told.sentence, told.complete, told.left) == (f"Model Registry: {words}; {rest}", False, 1)
    assert told.sentence in with_deliveries(document, [told])["headline"]


def test_two_reports_that_make_the_group_at_once(sagemaker):
    facts, document, s3 = finished()
    with Stubber(sagemaker) as aws:
        aws.add_client_error("describe_model_package_group", **MISSING)
        said = f"Model Package Group already exists: {GROUP}"
        aws.add_client_error("create_model_package_group", service_error_code="ValidationException", service_message=said)
        aws.add_response("list_model_packages", listed())
        aws.add_response("create_model_package", {"ModelPackageArn": PACKAGE})
        told = register(registry(sagemaker, s3), document, facts)
    assert told is not None and told.complete


def test_the_metrics_cannot_be_written(sagemaker, monkeypatch):
    facts, document, s3 = finished()

    def refused(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    monkeypatch.setattr(s3, "put_object", refused)
    monkeypatch.setattr(model_registry, "_make_group", lambda *_: None)
    monkeypatch.setattr(model_registry, "_registered", lambda *_: {})
    told = register(registry(sagemaker, s3), document, facts)
    assert told is not None and told.sentence.startswith("Model Registry: PutObject: AccessDenied no;")


def test_a_run_without_an_export_registers_nothing(sagemaker):
    s3 = stored(run_json(), {"main": (metrics_lines(20), None)})
    facts = read_run(
        event(outcome="failed", explanation={"stage": "Train", "sentence": "x"}), bucket="bucket", region="r", s3=s3, now=START
    )
    assert register(registry(sagemaker, s3), build_document(facts, lambda kind: 0.1), facts) is None


def test_values_that_the_api_cannot_hold_are_left_out():
    facts, document, _ = finished(initial={"main": {"source": "s3://b/" + "x" * 300, "uri": "s3://b/a,b/", "checksum": "ab12"}})
    request = package_request(ModelRegistry(), "g", document["legs"][0], facts, {})
    assert {key for key in request["CustomerMetadataProperties"] if key.startswith("began")} == {"began_from_checksum"}


def test_the_metrics_digest_is_that_of_the_file(sagemaker):
    facts, document, s3 = finished()
    made: list[Json] = []
    client = type(
        "Client", (), {"create_model_package": staticmethod(lambda **request: made.append(request) or {"ModelPackageArn": PACKAGE})}
    )
    model_registry._create(registry(client, s3), "g", document["legs"][0], facts)
    source = made[0]["ModelMetrics"]["ModelQuality"]["Statistics"]
    body = s3.objects[source["S3Uri"].removeprefix("s3://bucket/")]
    assert source["ContentDigest"] == f"sha256:{hashlib.sha256(body).hexdigest()}"


def test_every_recipe_has_a_group_of_its_own():
    groups = [model_group("a" * 40, recipe) for recipe in RECIPES]
    assert len(set(groups)) == len(RECIPES)
    assert all(len(group) <= MAX_GROUP_NAME for group in groups)
    assert model_group("LLM-team", "llama3_8b") == "llm-team-llama3-8b"
