"""A small pipeline of what the launcher adds to ministack: a build, a processing job, a Map of training jobs.

Made by API calls in a second, where the project's stacks need the CDK; tests of the launcher use it.
"""

import io
import json
import time
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_aws.embedded import Embedded
from local_aws.images.image_store import ImageConfig, ImageStore

IMAGE = Path(__file__).with_name("example_image")
BUCKET = "example"
TOKENS = "{% 's3://example/tokens/' & $states.context.Execution.Name & '/' %}"
ROLE = "arn:aws:iam::000000000000:role/example"
FUNCTION = """
import boto3, os
def handler(event, context):
    pages = boto3.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    names = [quota["QuotaName"] for page in pages for quota in page["Quotas"]]
    return {"p5": "ml.p5.48xlarge for training job usage" in names, "given": event}
"""
BUILDSPEC = {
    "version": "0.2",
    "env": {"exported-variables": ["ANSWER"]},
    "phases": {
        "pre_build": {"commands": ["export HALF=21", "mkdir work && cd work"]},
        "build": {
            "commands": ['if [ "$FAIL" = yes ]; then echo "compile error" && exit 3; fi', "basename $PWD", "export ANSWER=$((HALF * 2))"]
        },
        "post_build": {"commands": ['echo "succeeding: $CODEBUILD_BUILD_SUCCEEDING"']},
    },
}


def training() -> dict[str, object]:
    checkpoints = "{% 's3://example/runs/' & $states.context.Execution.Name & '/' & $states.input.leg.name & '/' %}"
    return {
        "TrainingJobName": "{% $states.context.Execution.Name & '-' & $states.input.leg.name %}",
        "RoleArn": ROLE,
        "AlgorithmSpecification": {
            "TrainingImage": "example:latest",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python", "train.py"],
            "ContainerArguments": ["{% $states.input.leg.behaviour %}"],
            "MetricDefinitions": [{"Name": "train:loss", "Regex": '"loss": ([0-9.]+)'}],
        },
        "InputDataConfig": [
            {
                "ChannelName": "tokens",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": "{% $tokens %}",
                    }
                },
            }
        ],
        "OutputDataConfig": {"S3OutputPath": "s3://example/jobs/"},
        "ResourceConfig": {
            "InstanceType": "ml.c7i.large",
            "InstanceCount": "{% $exists($states.input.leg.hosts) ? $states.input.leg.hosts : 1 %}",
            "VolumeSizeInGB": 1,
        },
        "CheckpointConfig": {"S3Uri": checkpoints},
        "StoppingCondition": {"MaxRuntimeInSeconds": "{% $exists($states.input.leg.limit) ? $states.input.leg.limit : 600 %}"},
        "HyperParameters": {"leg": "{% $states.input.leg.name %}"},
        "EnableNetworkIsolation": True,
    }


def processing() -> dict[str, object]:
    return {
        "ProcessingJobName": "{% $states.context.Execution.Name & '-prepare' %}",
        "RoleArn": ROLE,
        "AppSpecification": {"ImageUri": "example:latest", "ContainerEntrypoint": ["python", "prepare.py"]},
        "ProcessingResources": {"ClusterConfig": {"InstanceCount": 2, "InstanceType": "ml.c7i.large", "VolumeSizeInGB": 1}},
        "ProcessingInputs": [
            {
                "InputName": "raw",
                "S3Input": {
                    "S3Uri": "s3://example/source/",
                    "LocalPath": "/opt/ml/processing/input/raw",
                    "S3DataType": "S3Prefix",
                    "S3InputMode": "File",
                    "S3DataDistributionType": "ShardedByS3Key",
                },
            }
        ],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": "tokens",
                    "S3Output": {
                        "S3Uri": TOKENS,
                        "LocalPath": "/opt/ml/processing/output",
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ]
        },
    }


def definition(function: str, project: str) -> dict[str, object]:
    failed = {"ErrorEquals": ["States.ALL"], "Output": "{% $states.errorOutput %}", "Next": "Failed"}
    task = {"Type": "Task", "Catch": [failed]}
    states = {
        "Admit": task
        | {
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {"FunctionName": function, "Payload": "{% $states.input %}"},
            "Assign": {"admitted": "{% $states.result.Payload %}", "legs": "{% $states.input.legs %}", "tokens": TOKENS},
            "Output": "{% $states.input %}",
            "Next": "Build image",
        },
        "Build image": task
        | {
            "Resource": "arn:aws:states:::codebuild:startBuild.sync",
            "Arguments": {
                "ProjectName": project,
                "EnvironmentVariablesOverride": [{"Name": "FAIL", "Type": "PLAINTEXT", "Value": "{% $string($states.input.fail) %}"}],
            },
            "Assign": {"answer": "{% $states.result.Build.ExportedEnvironmentVariables[0].Value %}"},
            "Next": "Prepare data",
        },
        "Prepare data": task
        | {
            "Resource": "arn:aws:states:::sagemaker:createProcessingJob.sync",
            "Arguments": processing(),
            "Next": "Train legs",
        },
        "Train legs": {
            "Type": "Map",
            "Items": "{% $legs %}",
            "ItemSelector": {"leg": "{% $states.context.Map.Item.Value %}"},
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "INLINE"},
                "StartAt": "Train",
                "States": {
                    "Train": {
                        "Type": "Task",
                        "Resource": "arn:aws:states:::sagemaker:createTrainingJob.sync",
                        "TimeoutSeconds": "{% $exists($states.input.leg.timeout) ? $states.input.leg.timeout : 600 %}",
                        "Arguments": training(),
                        "Output": "{% {'status': $states.result.TrainingJobStatus, 'started': $states.result.TrainingStartTime} %}",
                        "End": True,
                    }
                },
            },
            "Catch": [failed],
            "Next": "Done",
        },
        "Failed": {"Type": "Fail", "Error": "{% $states.input.Error %}", "Cause": "{% $states.input.Cause %}"},
        "Done": {
            "Type": "Succeed",
            "Output": {
                "legs": "{% $states.input %}",
                "answer": "{% $answer %}",
                "admitted": "{% $admitted %}",
                "role": "{% $states.context.Execution.RoleArn %}",
            },
        },
    }
    return {"QueryLanguage": "JSONata", "StartAt": "Admit", "States": states}


@dataclass(frozen=True, kw_only=True)
class Example:
    """The deployed example."""

    aws: Embedded
    machine: str

    def start(self, *legs: dict[str, object], fail: str = "no", start_at: str | None = None) -> str:
        """Start an execution that trains ``legs``."""
        machine = self.machine if start_at is None else f"{self.machine}-{start_at}"
        value = json.dumps({"fail": fail, "legs": legs})
        name = f"run-{uuid.uuid4().hex[:8]}"
        return str(self.aws.client("stepfunctions").start_execution(stateMachineArn=machine, name=name, input=value)["executionArn"])

    def wait(self, execution: str) -> dict[str, Any]:
        """The execution's description once it has ended."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            described: dict[str, Any] = self.aws.client("stepfunctions").describe_execution(executionArn=execution)
            if described["status"] != "RUNNING":
                return described
            time.sleep(0.05)
        raise AssertionError("still running after 60 s")

    def job(self, execution: str, leg: str) -> dict[str, Any]:
        """The training job of one leg."""
        name = execution.rpartition(":")[2] + f"-{leg}"
        described: dict[str, Any] = self.aws.client("sagemaker").describe_training_job(TrainingJobName=name)
        return described

    def lines(self, execution: str, leg: str, host: str = "algo-1") -> list[str]:
        """What one host of a training job printed."""
        logs, group = self.aws.client("logs"), "/aws/sagemaker/TrainingJobs"
        prefix = execution.rpartition(":")[2] + f"-{leg}/{host}-"
        try:
            streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=prefix)["logStreams"]
        except logs.exceptions.ResourceNotFoundException:
            return []
        events = [
            event
            for stream in streams
            for event in logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True)["events"]
        ]
        return [event["message"] for event in events]

    def wait_for_line(self, execution: str, leg: str, line: str) -> None:
        """Until a training job has printed ``line``."""
        deadline = time.monotonic() + 60
        while line not in self.lines(execution, leg):
            assert time.monotonic() < deadline, f"{line!r} was not printed within 60 s"
            time.sleep(0.05)

    def objects(self, prefix: str) -> dict[str, str]:
        """Keys below a prefix of the bucket and their text."""
        s3 = self.aws.client("s3")
        keys = [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]
        return {key.removeprefix(prefix): s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode(errors="replace") for key in keys}


def deploy_example(aws: Embedded) -> Example:
    """Bucket, image, function, project and state machines; ``-Train legs`` is a second machine that begins there."""
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    for name in ("a", "b"):
        s3.put_object(Bucket=BUCKET, Key=f"source/{name}.txt", Body=f"text {name}".encode())
    store = ImageStore(aws.state_dir)
    image = store.add({path.name: path for path in IMAGE.iterdir() if path.is_file()}, ImageConfig(target="example"))
    store.tag(image.digest, "example:latest")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("index.py", FUNCTION)
    function = aws.client("lambda").create_function(
        FunctionName="example", Runtime="python3.12", Role=ROLE, Handler="index.handler", Code={"ZipFile": archive.getvalue()}, Timeout=60
    )["FunctionArn"]
    aws.client("codebuild").create_project(
        name="example",
        source={"type": "NO_SOURCE", "buildspec": json.dumps(BUILDSPEC)},
        artifacts={"type": "NO_ARTIFACTS"},
        environment={"type": "LINUX_CONTAINER", "image": "aws/codebuild/standard:7.0", "computeType": "BUILD_GENERAL1_SMALL"},
        serviceRole=ROLE,
    )
    steps = aws.client("stepfunctions")
    whole = definition(function, "example")
    machine = steps.create_state_machine(name="example", definition=json.dumps(whole), roleArn=ROLE)["stateMachineArn"]
    begin = {
        "Type": "Pass",
        "Assign": {"legs": "{% $states.input.legs %}", "answer": "", "admitted": "", "tokens": "s3://example/source/"},
        "Next": "Train legs",
    }
    trained = {**whole, "StartAt": "Begin", "States": {**whole["States"], "Begin": begin}}  # type: ignore[dict-item]
    steps.create_state_machine(name="example-train", definition=json.dumps(trained), roleArn=ROLE)
    return Example(aws=aws, machine=machine)
