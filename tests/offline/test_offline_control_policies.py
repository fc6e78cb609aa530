"""Service control policies that organisations lay over SageMaker: what a deployment's requests must hold to pass them.

The conditions are SageMaker's own ("Actions, resources, and condition keys for Amazon SageMaker" in the service authorization
reference), decided by the simulator on requests that Admit built.
"""

import dataclasses

import pytest
from aws_models.needs import Names
from aws_models.pipeline import Pipeline, Scenario
from aws_models.scenarios import LOCAL
from aws_models.simulator import Request, decide
from aws_models.synthesis import settings_of, synthesise

from infra.settings import ExistingNetworkSettings

CREATE = ["sagemaker:CreateTrainingJob", "sagemaker:CreateProcessingJob"]
EVERYTHING = {"Effect": "Allow", "Action": "*", "Resource": "*"}


def denied_without(key):
    return {"Effect": "Deny", "Action": CREATE, "Resource": "*", "Condition": {"Null": {key: "true"}}}


POLICIES = {
    "network": [denied_without("sagemaker:VpcSubnets"), denied_without("sagemaker:VpcSecurityGroupIds")],
    "encryption": [denied_without("sagemaker:VolumeKmsKeyArn")],
    "tags": [denied_without("aws:RequestTag/cost-center")],
}


@pytest.fixture(scope="module")
def governed(tmp_path_factory):
    """A deployment in an existing network with a tag of one's own."""
    network = ExistingNetworkSettings(subnet_ids=("subnet-0000000a",), security_group_ids=("sg-0000000b",))
    return synthesise(tmp_path_factory.mktemp("governed"), settings_of(existing_network=network, tags={"cost-center": "42"}))


def requests(synthesis):
    """CreateProcessingJob and CreateTrainingJob of one run, as IAM sees them."""
    run = Pipeline(synthesis).run(Scenario(input=LOCAL))
    assert run.execution.status == "SUCCEEDED" and run.problems == ()
    names = Names(synthesis.templates)
    for call in run.execution.calls:
        given = call.arguments
        if "RoleArn" not in given:
            continue
        kind = "Training" if "TrainingJobName" in given else "Processing"
        vpc = given.get("VpcConfig") or given.get("NetworkConfig", {}).get("VpcConfig") or {}
        resources = given.get("ResourceConfig") or given["ProcessingResources"]["ClusterConfig"]
        context = {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in given["Tags"]}
        context |= {"sagemaker:VpcSubnets": vpc["Subnets"], "sagemaker:VpcSecurityGroupIds": vpc["SecurityGroupIds"]} if vpc else {}
        context |= {"sagemaker:VolumeKmsKeyArn": resources["VolumeKmsKeyId"]} if "VolumeKmsKeyId" in resources else {}
        job = names.arn("sagemaker", f"{kind.lower()}-job/{given[f'{kind}JobName']}")
        yield Request(principal=names.role("Machine"), action=f"sagemaker:Create{kind}Job", resource=job, context=context)


def allowed(synthesis, statements):
    policies = dataclasses.replace(synthesis).policies
    policies.control = [EVERYTHING, *statements]
    found = list(requests(synthesis))
    assert {request.action for request in found} == set(CREATE)
    decisions = decide([(policies, request) for request in found])
    policies.control = []
    return all(decision.allowed for decision in decisions)


@pytest.mark.parametrize("demand", POLICIES)
def test_requests_of_a_governed_deployment_pass(governed, demand):
    assert allowed(governed, POLICIES[demand])


@pytest.mark.parametrize("demand", ["network", "tags"])
def test_the_policy_denies_what_lacks_the_setting(synthesised, demand):
    assert not allowed(synthesised, POLICIES[demand])


def test_the_encryption_policy_denies_types_whose_own_storage_takes_no_key(synthesised):
    """ml.p5 and other NVMe types refuse VolumeKmsKeyId, so an organisation has to except them from such a policy."""
    policies = synthesised.policies
    policies.control = [EVERYTHING, *POLICIES["encryption"]]
    names = Names(synthesised.templates)
    job = names.arn("sagemaker", "training-job/j")
    (decision,) = decide([(policies, Request(principal=names.role("Machine"), action=CREATE[0], resource=job))])
    policies.control = []
    assert not decision.allowed
