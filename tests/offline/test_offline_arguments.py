"""Argument checks against botocore's models, and the table of rules beside them."""

import copy

import pytest
from aws_models import patterns, rules
from aws_models.arguments import check_api, check_result, check_task

TRAIN = "arn:aws:states:::sagemaker:createTrainingJob.sync"
DIGEST = "111111111111.dkr.ecr.us-east-1.amazonaws.com/images@sha256:" + "0" * 64
REQUEST = {
    "TrainingJobName": "run-train-1",
    "RoleArn": "arn:aws:iam::111111111111:role/train",
    "AlgorithmSpecification": {"TrainingImage": DIGEST, "TrainingInputMode": "File"},
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/jobs/", "KmsKeyId": "arn:aws:kms:us-east-1:111111111111:key/0"},
    "ResourceConfig": {"InstanceType": "ml.p5.48xlarge", "InstanceCount": 1, "VolumeSizeInGB": 100},
    "CheckpointConfig": {"S3Uri": "s3://bucket/runs/r/main/", "LocalPath": "/opt/ml/checkpoints"},
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    "EnableNetworkIsolation": True,
}


def changed(path, value):
    request = copy.deepcopy(REQUEST)
    *folders, last = path.split(".")
    target = request
    for folder in folders:
        target = target.setdefault(folder, {})
    target[last] = value
    return request


def test_a_good_request_passes():
    assert check_task(TRAIN, REQUEST, "Train") == []
    assert rules.problems("CreateTrainingJob", REQUEST, "Train") == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("TrainingJobname", "x", "Unknown parameter"),
        ("trainingJobName", "x", "PascalCase"),
        ("TrainingJobName", "has_underscore", "does not match"),
        ("TrainingJobName", "x" * 64, "64 characters is above 63|does not match"),
        ("ResourceConfig.InstanceType", "ml.p9.large", "is not one of"),
        ("ResourceConfig.InstanceCount", "1", "Invalid type"),
        ("ResourceConfig.KeepAlivePeriodInSeconds", 21_601, "above 21600"),
        ("StoppingCondition.MaxPendingTimeInSeconds", 60, "valid min value: 1800"),
        ("Environment", {"KEY": "x" * 513}, "above 512"),
        ("HyperParameters", {f"k{i}": "v" for i in range(101)}, "101 entries is above 100"),
        ("RoleArn", "train", "valid min length|does not match"),
    ],
)
def test_what_the_model_forbids_is_found(path, value, message):
    found = check_task(TRAIN, changed(path, value), "Train")
    assert found
    assert any(__import__("re").search(message, problem) for problem in found), found


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("ResourceConfig.VolumeKmsKeyId", "arn:aws:kms:us-east-1:1:key/0", "nvme-no-key"),
        ("StoppingCondition.MaxWaitTimeInSeconds", 7200, "spot"),
        ("EnableManagedSpotTraining", True, "spot"),
        ("Environment", {"HF_TOKEN": "value"}, "no-secret"),
        ("HyperParameters", {"note": "hf_" + "a" * 30}, "no-secret-hyperparameter"),
        ("CheckpointConfig.LocalPath", "/opt/ml/model", "checkpoint-path"),
        ("AlgorithmSpecification.TrainingImage", DIGEST.split("@")[0] + ":latest", "train-digest"),
        ("EnableNetworkIsolation", False, "isolation"),
        ("OutputDataConfig.KmsKeyId", "", "train-encrypted"),
        ("ResourceConfig.InstanceType", None, "train-required"),
        ("AlgorithmSpecification.MetricDefinitions", [{"Name": "loss", "Regex": "loss=(.*"}], "metric-regex"),
        ("InputDataConfig", [{"ChannelName": "a"}, {"ChannelName": "a"}], "channels"),
        ("Tags", [{"Key": "aws:x", "Value": "y"}], "tags"),
    ],
)
def test_what_only_the_service_knows_is_found_by_its_rule(path, value, rule):
    found = rules.problems("CreateTrainingJob", changed(path, value), "Train")
    assert any(f"[{rule}]" in problem for problem in found), found


def test_a_secret_by_its_arn_is_no_secret():
    request = changed("Environment", {"HF_TOKEN_SECRET_ARN": "arn:aws:secretsmanager:us-east-1:111111111111:secret:token"})
    assert rules.problems("CreateTrainingJob", request, "Train") == []


def test_a_job_name_used_twice_is_found():
    assert list(rules.job_name_problems(["a", "b", "a"])) == [
        "the job name 'a' is used twice, and SageMaker refuses it the second time [unique-job-name]"
    ]


@pytest.mark.parametrize(
    "resource",
    [
        "arn:aws:states:::sagemaker:createTrainingJob.sync:2",
        "arn:aws:states:::sagemaker:createTrainJob.sync",
        "arn:aws:states:::aws-sdk:sagemaker:createTrainingJob.sync",
        "arn:aws:states:::aws-sdk:s3:HeadObject",
        "arn:aws:states:::aws-sdk:s4:headObject",
        "arn:aws:lambda:us-east-1:111111111111:function:f",
    ],
)
def test_integrations_that_do_not_exist_are_found(resource):
    assert check_task(resource, {}, "Do") != []


def test_codebuild_takes_pascal_case_from_step_functions():
    arguments = {"ProjectName": "build", "EnvironmentVariablesOverride": [{"Name": "TAG", "Value": "x", "Type": "PLAINTEXT"}]}
    assert check_task("arn:aws:states:::codebuild:startBuild.sync", arguments, "Build") == []
    assert check_api("codebuild", "StartBuild", {"projectName": "build"}) == []


def test_a_scripted_result_cannot_hold_what_the_service_does_not_return():
    assert check_result(TRAIN, {"TrainingJobStatus": "Completed"}, "Train") == []
    assert check_result(TRAIN, {"TrainingJobState": "Completed"}, "Train") == ["Train.TrainingJobState: the service returns no such member"]


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        (r"[\p{L}\p{M}\p{N} ]+", "Zürich 2", True),
        (r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\t]*", "a😀", True),
        (r"[a-z&&[^x]]+", "abx", False),
        (r"(?!aws:)[\w ]++", "aws:x", False),
        (r"[\x{61}-c]", "b", True),
    ],
)
def test_java_patterns_mean_the_same_in_python(pattern, value, fits):
    assert patterns.compiled(pattern) is not None
    assert patterns.agrees(pattern, value) is fits
