"""IAM decisions on a small stack: each kind of policy is evaluated."""

import pytest
from aws_models.simulator import OTHER_ACCOUNT, Policies, Request, decide
from aws_models.template import Templates

ROLE = "arn:aws:iam::111111111111:role/app-Job"
STRANGER = f"arn:aws:iam::{OTHER_ACCOUNT}:role/somebody"


def statement(effect, action, resource, principal=None, condition=None):
    found = {"Effect": effect, "Action": action, "Resource": resource}
    return {**found, **({"Principal": principal} if principal else {}), **({"Condition": condition} if condition else {})}


def policy(*statements):
    return {"Version": "2012-10-17", "Statement": list(statements)}


BUCKET = {"Fn::GetAtt": ["Data", "Arn"]}
OBJECTS = {"Fn::Join": ["", [BUCKET, "/runs/*"]]}
INSECURE = {"Bool": {"aws:SecureTransport": "false"}}
TEMPLATE = {
    "Resources": {
        "Job": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": policy(
                    {
                        "Effect": "Allow",
                        "Action": "sts:AssumeRole",
                        "Principal": {"Service": "sagemaker.amazonaws.com"},
                        "Condition": {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}},
                    }
                )
            },
        },
        "Allows": {
            "Type": "AWS::IAM::Policy",
            "Properties": {
                "Roles": [{"Ref": "Job"}],
                "PolicyDocument": policy(
                    statement("Allow", "s3:PutObject", OBJECTS), statement("Allow", "kms:Decrypt", {"Fn::GetAtt": ["Key", "Arn"]})
                ),
            },
        },
        "Data": {"Type": "AWS::S3::Bucket"},
        "DataPolicy": {
            "Type": "AWS::S3::BucketPolicy",
            "Properties": {
                "Bucket": {"Ref": "Data"},
                "PolicyDocument": policy(statement("Deny", "s3:*", [BUCKET, OBJECTS], {"AWS": "*"}, INSECURE)),
            },
        },
        "Key": {
            "Type": "AWS::KMS::Key",
            "Properties": {"KeyPolicy": policy(statement("Allow", "kms:*", "*", {"AWS": "arn:aws:iam::111111111111:root"}))},
        },
    }
}


@pytest.fixture(scope="module")
def policies():
    return Policies(Templates({"app": TEMPLATE}))


@pytest.fixture(scope="module")
def named(policies):
    bucket = next(arn for arn in policies.on_resource if ":s3:::" in arn)
    key = next(arn for arn in policies.on_resource if ":kms:" in arn)
    return {"object": f"{bucket}/runs/r/run.json", "source": f"{bucket}/source/x", "key": key, "role": ROLE}


@pytest.mark.parametrize(
    ("principal", "action", "resource", "context", "allowed"),
    [
        (ROLE, "s3:PutObject", "object", {}, True),
        (ROLE, "s3:PutObject", "object", {"aws:SecureTransport": "false"}, False),
        (ROLE, "s3:PutObject", "source", {}, False),
        (ROLE, "s3:GetObject", "object", {}, False),
        (STRANGER, "s3:PutObject", "object", {}, False),
        (ROLE, "kms:Decrypt", "key", {}, True),
        (ROLE, "kms:Encrypt", "key", {}, False),
        (STRANGER, "kms:Decrypt", "key", {}, False),
        ("sagemaker.amazonaws.com", "sts:AssumeRole", "role", {"aws:SourceAccount": "111111111111"}, True),
        ("sagemaker.amazonaws.com", "sts:AssumeRole", "role", {"aws:SourceAccount": OTHER_ACCOUNT}, False),
        ("ec2.amazonaws.com", "sts:AssumeRole", "role", {"aws:SourceAccount": "111111111111"}, False),
        (STRANGER, "sts:AssumeRole", "role", {}, False),
    ],
)
def test_decision(policies, named, principal, action, resource, context, allowed):
    (decision,) = decide([(policies, Request(principal=principal, action=action, resource=named[resource], context=context))])
    assert decision.allowed is allowed, decision


def test_a_misspelt_action_is_an_error(policies, named):
    with pytest.raises(ValueError, match="PutObjekt"):
        decide([(policies, Request(principal=ROLE, action="s3:PutObjekt", resource=named["object"]))])


def test_a_context_key_that_does_not_apply_is_reported(policies, named):
    (decision,) = decide(
        [(policies, Request(principal=ROLE, action="s3:PutObject", resource=named["object"], context={"iam:PassedToService": "x"}))]
    )
    assert decision.ignored == ("iam:PassedToService",)
