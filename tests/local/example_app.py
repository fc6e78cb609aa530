"""A small CDK app that uses what the launcher adds to ministack: a build, a processing job, a Map of training jobs."""

import json

import aws_cdk as cdk
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn

FUNCTION = """
import boto3, os
def handler(event, context):
    quotas = boto3.client("service-quotas")
    names = [q["QuotaName"] for page in quotas.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker") for q in page["Quotas"]]
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


def training(bucket: str, role: str) -> dict[str, object]:
    return {
        "TrainingJobName": "{% $states.context.Execution.Name & '-' & $states.input.leg.name %}",
        "RoleArn": role,
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
                        "S3Uri": f"{{% 's3://{bucket}/tokens/' & $states.context.Execution.Name & '/' %}}",
                    }
                },
            }
        ],
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/jobs/"},
        "ResourceConfig": {
            "InstanceType": "ml.c7i.large",
            "InstanceCount": "{% $exists($states.input.leg.hosts) ? $states.input.leg.hosts : 1 %}",
            "VolumeSizeInGB": 1,
        },
        "CheckpointConfig": {
            "S3Uri": f"{{% 's3://{bucket}/runs/' & $states.context.Execution.Name & '/' & $states.input.leg.name & '/' %}}"
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": "{% $exists($states.input.leg.limit) ? $states.input.leg.limit : 600 %}"},
        "HyperParameters": {"leg": "{% $states.input.leg.name %}"},
        "EnableNetworkIsolation": True,
    }


def processing(bucket: str, role: str) -> dict[str, object]:
    return {
        "ProcessingJobName": "{% $states.context.Execution.Name & '-prepare' %}",
        "RoleArn": role,
        "AppSpecification": {"ImageUri": "example:latest", "ContainerEntrypoint": ["python", "prepare.py"]},
        "ProcessingResources": {"ClusterConfig": {"InstanceCount": 2, "InstanceType": "ml.c7i.large", "VolumeSizeInGB": 1}},
        "ProcessingInputs": [
            {
                "InputName": "raw",
                "S3Input": {
                    "S3Uri": f"s3://{bucket}/source/",
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
                        "S3Uri": f"{{% 's3://{bucket}/tokens/' & $states.context.Execution.Name & '/' %}}",
                        "LocalPath": "/opt/ml/processing/output",
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ]
        },
    }


class Example(cdk.Stack):
    def __init__(self, scope: cdk.App) -> None:
        super().__init__(scope, "example", env=cdk.Environment(account="000000000000", region="us-east-1"))
        bucket = s3.Bucket(self, "Bucket", removal_policy=cdk.RemovalPolicy.DESTROY)
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        function = lambda_.Function(
            self,
            "Function",
            runtime=lambda_.Runtime.PYTHON_3_12,
            handler="index.handler",
            code=lambda_.Code.from_inline(FUNCTION),
            timeout=cdk.Duration.seconds(30),
        )
        project = codebuild.Project(self, "Build", build_spec=codebuild.BuildSpec.from_object(BUILDSPEC))
        failed = {"ErrorEquals": ["States.ALL"], "Output": "{% $states.errorOutput %}", "Next": "Failed"}
        task = {"Type": "Task", "Catch": [failed]}
        states = {
            "Admit": task
            | {
                "Resource": "arn:aws:states:::lambda:invoke",
                "Arguments": {"FunctionName": function.function_arn, "Payload": "{% $states.input %}"},
                "Assign": {"admitted": "{% $states.result.Payload %}", "legs": "{% $states.input.legs %}"},
                "Output": "{% $states.input %}",
                "Next": "Build image",
            },
            "Build image": task
            | {
                "Resource": "arn:aws:states:::codebuild:startBuild.sync",
                "Arguments": {
                    "ProjectName": project.project_name,
                    "EnvironmentVariablesOverride": [{"Name": "FAIL", "Type": "PLAINTEXT", "Value": "{% $string($states.input.fail) %}"}],
                },
                "Assign": {"answer": "{% $states.result.Build.ExportedEnvironmentVariables[0].Value %}"},
                "Next": "Prepare data",
            },
            "Prepare data": task
            | {
                "Resource": "arn:aws:states:::sagemaker:createProcessingJob.sync",
                "Arguments": processing(bucket.bucket_name, role.role_arn),
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
                            "Arguments": training(bucket.bucket_name, role.role_arn),
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
        machine_role = iam.Role(self, "MachineRole", assumed_by=iam.ServicePrincipal("states.amazonaws.com"))
        machine = sfn.CfnStateMachine(
            self,
            "Machine",
            role_arn=machine_role.role_arn,
            definition_string=self.to_json_string({"QueryLanguage": "JSONata", "StartAt": "Admit", "States": states}),
        )
        cdk.CfnOutput(self, "BucketName", value=bucket.bucket_name)
        cdk.CfnOutput(self, "MachineArn", value=machine.attr_arn)
        cdk.CfnOutput(self, "RoleArn", value=role.role_arn)
        cdk.CfnOutput(self, "MachineRoleArn", value=machine_role.role_arn)
        cdk.CfnOutput(self, "Definition", value=json.dumps(sorted(states)))


if __name__ == "__main__":
    app = cdk.App()
    Example(app)
    app.synth()
