"""What platform teams ask for: existing network and key, boundary, role path, tags, a build behind a proxy; each synthesised."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from synthesised import Synthesised, synthesise

from contracts.config import SpecError
from infra.run.recipes import RECIPES
from infra.settings import load_settings

Json = Any
KEY = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
SECRET = "arn:aws:secretsmanager:us-west-2:111122223333:secret:pip-Ab12Cd"
WANDB = "arn:aws:secretsmanager:us-west-2:111122223333:secret:wandb-Ab12Cd"
BOUNDARY = "arn:aws:iam::111122223333:policy/team/boundary"
BLOCK: Json = {
    "account": "111122223333",
    "region": "us-west-2",
    "existing_network": {"subnet_ids": ["subnet-0000000a", "subnet-0000000b"], "security_group_ids": ["sg-0000000c"]},
    "fsx": {"storage_gib": 1200},
    "key_arn": KEY,
    "build": {
        "vpc_id": "vpc-0000000d",
        "subnet_ids": ["subnet-0000000a"],
        "security_group_ids": ["sg-0000000e"],
        "proxy": "http://proxy.example.com:3128",
        "pip_config_secret_arn": SECRET,
    },
    "permissions_boundary_arn": BOUNDARY,
    "role_path": "/ml-platform/",
    "tags": {"cost-center": "42"},
    "job_log_retention_days": 30,
    "chat": {"slack_workspace_id": "T0123ABCD", "slack_channel_id": "C0123ABCD"},
    "mlflow_tracking_server_arn": "arn:aws:sagemaker:us-west-2:111122223333:mlflow-tracking-server/team",
    "wandb": {"project": "llama", "entity": "team", "api_key_secret_arn": WANDB, "api_key_key_arn": KEY},
    "model_registry": {"inference_image": "763104351884.dkr.ecr.us-west-2.amazonaws.com/djl-inference:0.33.0-lmi15.0.0-cu128"},
}
TRACKER = "arn:aws:sagemaker:us-west-2:111122223333:mlflow-tracking-server/team"
STACKS = ("foundation", "network", "pipeline", "monitoring")


@pytest.fixture(scope="module")
def enterprise(tmp_path_factory: pytest.TempPathFactory) -> Synthesised:
    """All of them at once, under the rules of cdk-nag and CloudFormation too."""
    return synthesise(tmp_path_factory.mktemp("enterprise"), load_settings({"enterprise": BLOCK}, "enterprise"))


def of(synthesised: Synthesised, kind: str) -> list[Json]:
    found = [resource for stack in STACKS for resource in synthesised.template(stack).to_json()["Resources"].values()]
    return [resource["Properties"] for resource in found if resource["Type"] == kind]


def statements(synthesised: Synthesised, role: str) -> list[Json]:
    template = synthesised.template("pipeline").to_json()["Resources"].items()
    (found,) = [it["Properties"] for name, it in template if it["Type"] == "AWS::IAM::Role" and role in name]
    return [statement for policy in found["Policies"] for statement in policy["PolicyDocument"]["Statement"]]


def test_nothing_is_found_by_the_rules(enterprise: Synthesised) -> None:
    assert enterprise.findings == []


def test_jobs_join_the_existing_network_and_none_is_made(enterprise: Synthesised) -> None:
    assert of(enterprise, "AWS::EC2::VPC") == [] and of(enterprise, "AWS::EC2::SecurityGroup") == []
    (file_system,) = of(enterprise, "AWS::FSx::FileSystem")
    assert (file_system["SubnetIds"], file_system["SecurityGroupIds"]) == (["subnet-0000000a"], ["sg-0000000c"])
    (deployment,) = [
        json.dumps(function["Environment"]["Variables"]["DEPLOYMENT"])
        for function in of(enterprise, "AWS::Lambda::Function")
        if function["Handler"] == "infra.admit.handler.handler"
    ]
    for words in ("subnet-0000000b", "sg-0000000c", "file_system_subnet", "cost-center"):
        assert words in deployment
    assert any("ec2:CreateNetworkInterface" in s["Action"] for s in statements(enterprise, "TrainingRole"))


def test_the_existing_key_encrypts_everything_and_none_is_made(enterprise: Synthesised) -> None:
    assert of(enterprise, "AWS::KMS::Key") == []
    assert all(KEY in json.dumps(topic["KmsMasterKeyId"]) for topic in of(enterprise, "AWS::SNS::Topic"))
    assert all(KEY in json.dumps(repository["EncryptionConfiguration"]) for repository in of(enterprise, "AWS::ECR::Repository"))
    assert KEY in json.dumps([bucket["BucketEncryption"] for bucket in of(enterprise, "AWS::S3::Bucket")])


def test_every_role_has_the_boundary_and_the_path(enterprise: Synthesised) -> None:
    roles = of(enterprise, "AWS::IAM::Role")
    assert len(roles) > 8
    assert {(role.get("PermissionsBoundary"), role.get("Path")) for role in roles} == {(BOUNDARY, "/ml-platform/")}


def test_stacks_resources_carry_the_tags_beside_the_deployments(enterprise: Synthesised) -> None:
    for kind in ("AWS::S3::Bucket", "AWS::Lambda::Function", "AWS::FSx::FileSystem", "AWS::StepFunctions::StateMachine"):
        for resource in of(enterprise, kind):
            tags = {tag["Key"]: tag["Value"] for tag in resource["Tags"]}
            assert tags.get("cost-center") == "42" and tags.get("pretrain:deployment") == "pretrain", kind


def test_the_build_runs_in_the_vpc_behind_the_proxy_with_its_own_package_index(enterprise: Synthesised) -> None:
    (project,) = of(enterprise, "AWS::CodeBuild::Project")
    assert project["VpcConfig"] == {"VpcId": "vpc-0000000d", "Subnets": ["subnet-0000000a"], "SecurityGroupIds": ["sg-0000000e"]}
    variables = {item["Name"]: item for item in project["Environment"]["EnvironmentVariables"]}
    assert variables["HTTPS_PROXY"]["Value"] == variables["http_proxy"]["Value"] == "http://proxy.example.com:3128"
    assert "169.254.170.2" in variables["NO_PROXY"]["Value"]
    assert (variables["PIP_CONFIG"]["Type"], variables["PIP_CONFIG"]["Value"]) == ("SECRETS_MANAGER", SECRET)
    granted = statements(enterprise, "BuildRole")
    assert [s["Resource"] for s in granted if s["Action"] == "secretsmanager:GetSecretValue"] == [SECRET]
    (join,) = [s for s in granted if s["Action"] == "ec2:CreateNetworkInterfacePermission"]
    assert join["Condition"]["StringEquals"] == {"ec2:AuthorizedService": "codebuild.amazonaws.com"}


def test_only_the_setting_lets_the_monitor_limit_the_jobs_logs(enterprise: Synthesised, default: Synthesised) -> None:
    for synthesised, expected in ((enterprise, True), (default, False)):
        text = json.dumps(synthesised.template("monitoring").to_json())
        assert ("logs:PutRetentionPolicy" in text) is expected


def test_only_the_setting_lets_the_report_send_to_the_tracking_server(enterprise: Synthesised, default: Synthesised) -> None:
    (granted,) = [s for s in statements(enterprise, "ReportRole") if "sagemaker-mlflow:LogBatch" in s["Action"]]
    assert granted["Resource"] == TRACKER
    assert any(TRACKER in json.dumps(function["Environment"]) for function in of(enterprise, "AWS::Lambda::Function"))
    assert "mlflow" not in json.dumps(default.template("pipeline").to_json())


def test_only_the_settings_let_the_report_read_the_key_of_wandb_and_register_models(enterprise: Synthesised, default: Synthesised) -> None:
    granted = statements(enterprise, "ReportRole")
    (key,) = [s for s in granted if s["Action"] == "secretsmanager:GetSecretValue"]
    assert key["Resource"] == WANDB
    assert [s["Resource"] for s in granted if s["Action"] == "kms:Decrypt" and "secretsmanager" in json.dumps(s["Condition"])] == [KEY]
    (create,) = [s for s in granted if s["Action"] == "sagemaker:CreateModelPackage"]
    assert create["Condition"] == {"StringEquals": {"sagemaker:ModelApprovalStatus": "PendingManualApproval"}}
    assert len(create["Resource"]) == len(RECIPES) and "model-package/pretrain-llama3-8b/*" in json.dumps(create["Resource"])
    plain = json.dumps(default.template("pipeline").to_json())
    assert "model-package" not in plain and "wandb" not in plain
    for role in ("AdmitRole", "TriageRole", "TrainingRole"):
        assert WANDB not in json.dumps(statements(enterprise, role))


def test_none_of_it_is_there_without_the_settings(default: Synthesised) -> None:
    assert default.stacks.network is None
    (project,) = default.template("pipeline").find_resources("AWS::CodeBuild::Project").values()
    assert "VpcConfig" not in project["Properties"] and "PROXY" not in json.dumps(project) and "PIP_CONFIG" not in json.dumps(project)
    for role in default.template("pipeline").find_resources("AWS::IAM::Role").values():
        assert not {"Path", "PermissionsBoundary"} & set(role["Properties"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": {"availability_zones": ["us-west-2a"]}}, "goes without network"),
        ({"existing_network": None}, "set network or existing_network too"),
        ({"build": {"vpc_id": "vpc-0000000d"}}, "go together"),
        ({"tags": {"aws:team": "x"}}, "without the prefix aws:"),
        ({"wandb": {"project": "a/b", "api_key_secret_arn": WANDB}}, "none of them a space"),
        ({"wandb": {"project": "a", "api_key_secret_arn": "0123456789abcdef0123456789abcdef01234567"}}, "the ARN of a secret"),
        ({"wandb": {"project": "a", "api_key_secret_arn": WANDB, "base_url": "http://wandb.example.com"}}, "https://api.wandb.ai"),
        ({"model_registry": {"inference_image": "djl-inference:latest"}}, "an ECR image"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: Json, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        load_settings({"x": BLOCK | change}, "x")


def test_a_slack_channel_shows_both_topics_and_may_read_metrics_and_nothing_else(enterprise: Synthesised) -> None:
    (channel,) = of(enterprise, "AWS::Chatbot::SlackChannelConfiguration")
    assert (channel["SlackWorkspaceId"], channel["SlackChannelId"]) == ("T0123ABCD", "C0123ABCD")
    assert len(channel["SnsTopicArns"]) == 2 == len(of(enterprise, "AWS::SNS::Topic"))
    (guardrail,) = channel["GuardrailPolicies"]
    assert str(guardrail).endswith("CloudWatchReadOnlyAccess']]}")  # without one it would be AdministratorAccess
    resources = enterprise.template("foundation").to_json()["Resources"].items()
    (role,) = [it["Properties"] for name, it in resources if it["Type"] == "AWS::IAM::Role" and "ChatRole" in name]
    allowed = [action for policy in role["Policies"] for one in policy["PolicyDocument"]["Statement"] for action in one["Action"]]
    assert allowed and all(re.match(r"cloudwatch:(Describe|Get|List)\w+$", action) for action in allowed)
    published = next(one for one in statements(enterprise, "TriageRole") if one["Action"] == "sns:Publish")
    assert len(published["Resource"]) == 2


def test_without_the_setting_there_is_no_channel() -> None:
    assert load_settings({"plain": {}}, "plain").chat is None
    with pytest.raises(SpecError, match="an id of Slack"):
        load_settings({"bad": {"chat": {"slack_workspace_id": "my-team", "slack_channel_id": "C1"}}}, "bad")
