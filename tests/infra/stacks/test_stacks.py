"""Properties of the synthesised templates; resources are found by type and property, never by generated names."""

from __future__ import annotations

import fnmatch
import json
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Match
from synthesised import Synthesised, settings, synthesise

from contracts.config import SpecError
from infra.constructs.alarms import OTHER_ALARMS, alarms, section
from infra.constructs.policy import allow, new_role
from infra.settings import AlarmSettings, load_settings

Json = Any


def resources(template: Any, kind: str) -> list[Json]:
    return [resource["Properties"] for resource in template.find_resources(kind).values()]


def statements(synthesised: Synthesised) -> list[tuple[str, Json]]:
    found = []
    for stack in ("foundation", "pipeline", "monitoring"):
        for name, role in synthesised.template(stack).find_resources("AWS::IAM::Role").items():
            for policy in role["Properties"].get("Policies", []):
                found += [(name, statement) for statement in policy["PolicyDocument"]["Statement"]]
    return found


def test_nothing_is_found_by_cdk_nag_and_cloudformations_own_rules(default: Synthesised, example: Synthesised) -> None:
    assert default.findings == []
    assert example.findings == []


def test_the_key_rotates_and_outlives_the_stack(default: Synthesised) -> None:
    default.template("foundation").has_resource("AWS::KMS::Key", {"Properties": {"EnableKeyRotation": True}, "DeletionPolicy": "Retain"})


def test_buckets_are_private_versioned_encrypted_and_speak_tls_only(default: Synthesised) -> None:
    template = default.template("foundation")
    for bucket in resources(template, "AWS::S3::Bucket"):
        assert all(bucket["PublicAccessBlockConfiguration"].values())
        assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
        assert bucket["BucketEncryption"]
    for policy in resources(template, "AWS::S3::BucketPolicy"):
        denied = [s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Deny"]
        assert any(s.get("Condition", {}).get("Bool") == {"aws:SecureTransport": "false"} for s in denied)
    template.has_resource_properties("AWS::S3::Bucket", {"LoggingConfiguration": Match.any_value()})


def test_image_tags_cannot_be_moved_and_images_are_scanned(default: Synthesised) -> None:
    default.template("foundation").has_resource_properties(
        "AWS::ECR::Repository", {"ImageTagMutability": "IMMUTABLE", "ImageScanningConfiguration": {"ScanOnPush": True}}
    )


def test_the_secret_is_created_without_a_value(default: Synthesised) -> None:
    (secret,) = resources(default.template("foundation"), "AWS::SecretsManager::Secret")
    assert "SecretString" not in secret
    assert "GenerateSecretString" not in secret


def test_no_stack_needs_a_custom_resource_but_the_quota_check_of_a_setting(default: Synthesised, example: Synthesised) -> None:
    def custom(synthesised: Synthesised) -> list[str]:
        every = [synthesised.template(stack).to_json()["Resources"].values() for stack in ("foundation", "pipeline", "monitoring")]
        kinds = [resource["Type"] for stack in every for resource in stack]
        return [kind for kind in kinds if kind.startswith("Custom::") or "CustomResource" in kind]

    assert custom(default) == []
    assert custom(example) == ["Custom::QuotaCheck"]


def test_roles_are_passed_to_sagemaker_only(default: Synthesised) -> None:
    passed = [s for _, s in statements(default) if s["Action"] == "iam:PassRole"]
    assert len(passed) == 1
    assert passed[0]["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_services_assume_roles_on_behalf_of_this_account_only(default: Synthesised) -> None:
    for stack in ("pipeline", "monitoring"):
        for role in resources(default.template(stack), "AWS::IAM::Role"):
            (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
            if statement["Principal"]["Service"] != "lambda.amazonaws.com":  # Lambda sends no source account
                assert "aws:SourceAccount" in statement["Condition"]["StringEquals"]


def test_no_action_is_a_wildcard_and_no_managed_policy_is_used(default: Synthesised) -> None:
    for _, statement in statements(default):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not [action for action in actions if "*" in action]
    for stack in ("pipeline", "monitoring"):
        assert not [role for role in resources(default.template(stack), "AWS::IAM::Role") if role.get("ManagedPolicyArns")]
        default.template(stack).resource_count_is("AWS::IAM::Policy", 0)  # nothing outside infra/roles.py


def test_a_wildcard_without_a_reason_does_not_synthesise() -> None:
    stack = cdk.Stack(cdk.App(), "stack")
    with pytest.raises(ValueError, match="needs a reason"):
        new_role(stack, "Role", "sagemaker.amazonaws.com", [allow("s3:GetObject", on="arn:aws:s3:::other/*")])


def test_only_the_preparation_may_read_the_token(default: Synthesised) -> None:
    readers = {name for name, s in statements(default) if "secretsmanager:GetSecretValue" in s["Action"]}
    assert len(readers) == 1
    assert next(iter(readers)).startswith("PrepareRole")


def test_training_writes_attempts_folders_and_nothing_else_of_a_run(default: Synthesised) -> None:
    writes = [s for name, s in statements(default) if name.startswith("TrainingRole") and "s3:PutObject" in s["Action"]]
    patterns = [json.dumps(resource).rpartition("/runs/")[2].rstrip('"]}') for s in writes for resource in s["Resource"]]
    patterns = [f"runs/{pattern}" for pattern in patterns if pattern]
    assert any(
        fnmatch.fnmatchcase("runs/r/main/attempts/20261122T000000-aaaaaa-1/checkpoints/step-8/.metadata", pattern) for pattern in patterns
    )
    for kept in ("run.json", "lock.json", "report.json", "report.html"):
        assert not any(fnmatch.fnmatchcase(f"runs/r/{kept}", pattern) for pattern in patterns)


def test_schedules_ship_disabled_with_the_scheduled_time_in_their_input(default: Synthesised) -> None:
    (schedule,) = resources(default.template("pipeline"), "AWS::Scheduler::Schedule")
    assert schedule["State"] == "DISABLED"
    given = json.loads(schedule["Target"]["Input"])
    assert given["schedule"] == {"name": "weekly", "time": "<aws.scheduler.scheduled-time>", "concurrency": "skip", "resume": "new"}


def test_every_alarm_tells_the_topic_and_links_its_section(default: Synthesised) -> None:
    names = [alarm.name for alarm in alarms(AlarmSettings())] + list(OTHER_ALARMS)
    found = resources(default.template("monitoring"), "AWS::CloudWatch::Alarm")
    assert len(found) == len(names)
    for alarm in found:
        assert alarm["AlarmActions"]
        assert any(f"#{section(name)}" in alarm["AlarmDescription"] for name in names)


def test_what_a_schedule_cannot_start_is_kept_and_alarms(default: Synthesised) -> None:
    template = default.template("pipeline")
    ((queue, found),) = template.find_resources("AWS::SQS::Queue").items()
    assert found["Properties"]["SqsManagedSseEnabled"] is True
    (schedule,) = resources(template, "AWS::Scheduler::Schedule")
    assert schedule["Target"]["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": [queue, "Arn"]}}
    alarms = [a for a in resources(default.template("monitoring"), "AWS::CloudWatch::Alarm") if a.get("Namespace") == "AWS/SQS"]
    assert [(a["MetricName"], a["Threshold"], a["DatapointsToAlarm"]) for a in alarms] == [("ApproximateNumberOfMessagesVisible", 0, 1)]


def test_one_empty_period_resets_no_alarm(default: Synthesised) -> None:
    for alarm in resources(default.template("monitoring"), "AWS::CloudWatch::Alarm"):
        assert alarm["DatapointsToAlarm"] == alarm["EvaluationPeriods"] - 1 >= 1


def test_the_end_of_every_execution_calls_triage(default: Synthesised) -> None:
    template = default.template("pipeline")
    (rule,) = [r for r in resources(template, "AWS::Events::Rule") if r["EventPattern"]["source"] == ["aws.states"]]
    ((machine, _),) = template.find_resources("AWS::StepFunctions::StateMachine").items()
    assert rule["EventPattern"]["detail"] == {
        "stateMachineArn": [{"Ref": machine}],
        "status": ["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"],
    }
    (function,) = template.find_resources("AWS::Lambda::Function", {"Properties": {"Handler": "infra.triage.handler.handler"}})
    assert [target["Arn"] for target in rule["Targets"]] == [{"Fn::GetAtt": [function, "Arn"]}]


def test_the_training_output_is_encrypted_with_the_key(default: Synthesised) -> None:
    assert [name for name, s in statements(default) if "kms:Encrypt" in s["Action"] and name.startswith("TrainingRole")]


def test_a_customer_key_of_the_bootstrap_is_the_builds_to_decrypt_with(tmp_path: Any) -> None:
    import dataclasses

    key = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    synthesised = synthesise(tmp_path, dataclasses.replace(settings("default"), bootstrap_key_arn=key), checked=False)
    granted = [(name, s) for name, s in statements(synthesised) if s["Resource"] == key]
    assert [(name.startswith("BuildBuildRole"), s["Action"]) for name, s in granted] == [(True, "kms:Decrypt")]


def test_schedules_whose_inputs_outgrow_the_monitor_are_refused_with_the_number() -> None:
    leg = {"name": "a", "training": {"steps": 1000}}
    schedule = {
        "name": "s",
        "expression": "rate(1 day)",
        "enabled": True,
        "input": {"legs": [leg | {"name": f"leg-{n}"} for n in range(16)]},
    }
    block = {"schedules": [schedule | {"name": f"s{n}"} for n in range(4)]}
    with pytest.raises(SpecError, match=r"the inputs of the 4 enabled schedules are \d{4} bytes, more than the 3000"):
        load_settings({"default": block}, "default")
    load_settings({"default": {"schedules": [each | {"enabled": False} for each in block["schedules"]]}}, "default")


def test_the_execution_log_and_tracing_are_on(default: Synthesised) -> None:
    (machine,) = resources(default.template("pipeline"), "AWS::StepFunctions::StateMachine")
    assert machine["LoggingConfiguration"]["Level"] == "ALL"
    assert machine["TracingConfiguration"] == {"Enabled": True}
    assert "DefinitionString" in machine


def test_options_are_absent_until_a_setting_names_them(default: Synthesised, example: Synthesised) -> None:
    assert default.stacks.network is None
    for kind in ("AWS::Budgets::Budget", "AWS::SNS::Subscription"):
        assert not resources(default.template("monitoring"), kind) + resources(default.template("foundation"), kind)
    assert len(resources(example.template("foundation"), "AWS::SNS::Subscription")) == 1
    assert len(resources(example.template("monitoring"), "AWS::Budgets::Budget")) == 1
    network = example.template("network")
    network.resource_count_is("AWS::FSx::FileSystem", 1)
    network.resource_count_is("AWS::FSx::DataRepositoryAssociation", 1)


def test_the_jobs_security_group_admits_itself_whole_as_efa_needs(example: Synthesised) -> None:
    network = example.template("network")
    inside = [rule for rule in resources(network, "AWS::EC2::SecurityGroupIngress") if rule["IpProtocol"] == "-1"]
    outside = [rule for rule in resources(network, "AWS::EC2::SecurityGroupEgress") if rule["IpProtocol"] == "-1"]
    assert inside
    assert outside
    assert inside[0]["GroupId"] == inside[0]["SourceSecurityGroupId"]
    assert outside[0]["GroupId"] == outside[0]["DestinationSecurityGroupId"]


def test_jobs_join_the_network_through_the_deployment_value(example: Synthesised) -> None:
    functions = resources(example.template("pipeline"), "AWS::Lambda::Function")
    (admit,) = [function for function in functions if function["Handler"] == "infra.admit.handler.handler"]
    value = json.dumps(admit["Environment"]["Variables"]["DEPLOYMENT"])
    assert "subnets" in value
    assert "file_system_id" in value


def test_a_function_has_one_variable(example: Synthesised) -> None:
    for stack in ("pipeline", "monitoring"):
        functions = resources(example.template(stack), "AWS::Lambda::Function")
        assert functions
        assert [list(function["Environment"]["Variables"]) for function in functions] == [["DEPLOYMENT"]] * len(functions)


@pytest.mark.parametrize(("region", "partition"), [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")])
def test_no_arn_names_a_partition(region: str, partition: str, tmp_path: Any) -> None:
    import dataclasses

    chosen = dataclasses.replace(settings("default"), account="111122223333", region=region)
    synthesised = synthesise(tmp_path, chosen, checked=False)
    for stack in ("foundation", "pipeline", "monitoring"):
        text = json.dumps(synthesised.template(stack).to_json())
        assert "arn:aws:" not in text
        assert f"arn:{partition}:" in text or "AWS::Partition" in text


def test_a_new_image_tag_follows_from_another_device_alone(default: Synthesised, tmp_path: Any) -> None:
    import dataclasses

    other = synthesise(tmp_path, dataclasses.replace(settings("default"), device="cpu"), checked=False)
    assert default.stacks.pipeline.build.tag != other.stacks.pipeline.build.tag
