"""The template resolver on two small stacks."""

import pytest
from aws_models.template import Environment, TemplateError, Templates, machine_definitions

FOUNDATION = {
    "Resources": {
        "Key": {"Type": "AWS::KMS::Key", "Properties": {}},
        "Data": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": {"Fn::If": ["Named", "own-name", {"Ref": "AWS::NoValue"}]}}},
    },
    "Conditions": {"Named": {"Fn::Not": [{"Fn::Equals": [{"Ref": "AWS::Partition"}, "aws"]}]}},
    "Outputs": {"Exported": {"Value": {"Fn::GetAtt": ["Key", "Arn"]}, "Export": {"Name": "foundation:key"}}},
}
PIPELINE = {
    "Parameters": {"Bootstrap": {"Type": "String", "Default": "/cdk-bootstrap/version"}, "Asked": {"Type": "String"}},
    "Resources": {
        "Function": {"Type": "AWS::Lambda::Function", "Properties": {"KmsKeyArn": {"Fn::ImportValue": "foundation:key"}}},
        "Machine": {
            "Type": "AWS::StepFunctions::StateMachine",
            "Properties": {
                "DefinitionString": {
                    "Fn::Join": ["", ['{"StartAt":"', "${First}", '","States":{},"Comment":"', {"Fn::Sub": "${AWS::Region}"}, '"}']]
                },
                "DefinitionSubstitutions": {"First": "Admit"},
            },
        },
    },
}


def templates(**environment):
    return Templates({"foundation": FOUNDATION, "pipeline": PIPELINE}, Environment(**environment))


def test_import_from_another_stack_is_the_exporting_resource():
    resolved = templates()
    function = resolved.resource("AWS::Lambda::Function")
    assert function.properties["KmsKeyArn"] == resolved.arn(resolved.resource("AWS::KMS::Key"))


def test_conditions_and_no_value_follow_the_partition():
    assert "BucketName" not in templates().resource("AWS::S3::Bucket").properties
    assert templates(partition="aws-cn").resource("AWS::S3::Bucket").properties["BucketName"] == "own-name"


def test_arns_carry_the_partition():
    assert templates(partition="aws-cn").resolve("foundation", {"Fn::GetAtt": ["Data", "Arn"]}) == "arn:aws-cn:s3:::own-name"


def test_machine_definition_has_its_substitutions():
    assert machine_definitions(templates()) == {"Machine": {"StartAt": "Admit", "States": {}, "Comment": "us-east-1"}}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"Fn::GetAtt": ["Key", "Arnn"]}, "no attribute 'Arnn'"),
        ({"Ref": "Kee"}, "no resource 'Kee'"),
        ({"Fn::ImportValue": "foundation:nothing"}, "no stack exports"),
        ({"Fn::Cidr": ["10.0.0.0/16", 2, 8]}, "Fn::Cidr is not known"),
        ({"Ref": "Asked"}, "has no default"),
    ],
)
def test_what_cannot_be_resolved_is_an_error(node, message):
    stack = "pipeline" if "Asked" in str(node) else "foundation"
    with pytest.raises(TemplateError, match=message):
        templates().resolve(stack, node)
