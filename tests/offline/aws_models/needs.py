"""What IAM must allow: from the calls that were made on the recorded paths to the requests IAM sees.

Sources, so that every need is observed: calls of the functions' code (World.calls), Task states' evaluated arguments
with the companions that `.sync` makes, and what SageMaker, CodeBuild and CloudWatch do on a role's behalf by their
own documentation for exactly the fields that the requests hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aws_models.arguments import operation
from aws_models.execution import Call
from aws_models.simulator import Policies, Request
from aws_models.template import Environment, Templates
from aws_models.world import ApiCall

Json = Any


@dataclass(frozen=True, kw_only=True)
class Need:
    """One request that must be allowed, and the call it comes from."""

    request: Request
    because: str


IAM_PREFIX = {"service-quotas": "servicequotas", "stepfunctions": "states"}
S3_ACTION = {
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
    "DeleteObjects": "DeleteObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
}
# What `.sync` does beside the call itself. Source: "IAM policies for ..." pages of the Step Functions developer guide.
SYNC_COMPANIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "CreateTrainingJob": (
        ("DescribeTrainingJob", "StopTrainingJob", "ListTags", "AddTags"),
        "StepFunctionsGetEventsForSageMakerTrainingJobsRule",
    ),
    "CreateProcessingJob": (
        ("DescribeProcessingJob", "StopProcessingJob", "ListTags", "AddTags"),
        "StepFunctionsGetEventsForSageMakerProcessingJobsRule",
    ),
    "StartBuild": (("StopBuild", "BatchGetBuilds"), "StepFunctionsGetEventForCodeBuildStartBuildRule"),
}
PULL = ("BatchCheckLayerAvailability", "GetDownloadUrlForLayer", "BatchGetImage")
PUSH = ("InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload", "PutImage")
LOG_DELIVERY = (
    *(f"{verb}LogDelivery" for verb in ("Create", "Get", "Update", "Delete")),
    *("ListLogDeliveries", "PutResourcePolicy", "DescribeResourcePolicies", "DescribeLogGroups"),
)


class Names:
    """ARNs of one deployment."""

    def __init__(self, templates: Templates) -> None:
        self.templates = templates
        self.where: Environment = templates.environment
        foundation = next(name for name in templates.templates if name.endswith("-foundation"))
        outputs = templates.outputs(foundation)
        self.bucket, self.key = outputs["BucketName"], outputs["KeyArn"]
        self.bucket_arn = f"arn:{self.where.partition}:s3:::{self.bucket}"
        self.secret = outputs["SecretArn"]
        self.project = self._one("AWS::CodeBuild::Project")
        self.machine = self._one("AWS::StepFunctions::StateMachine")
        self.images = next(a for a in self._all("AWS::ECR::Repository") if outputs["RepositoryUri"].endswith(a.split("/", 1)[1]))
        self.topic = self._one("AWS::SNS::Topic")

    def _all(self, type: str) -> list[str]:
        return [self.templates.arn(resource) for resource in self.templates.resources(type)]

    def _one(self, type: str) -> str:
        (arn,) = self._all(type)
        return arn

    def role(self, word: str) -> str:
        """ARN of the one role with this word in its name."""
        found = [arn for arn in self._all("AWS::IAM::Role") if word.lower() in arn.rsplit("/", 1)[-1].lower()]
        if len(found) != 1:
            raise ValueError(f"{len(found)} roles are named like {word!r}: {found}")
        return found[0]

    def arn(self, service: str, rest: str) -> str:
        """An ARN in the deployment's own account and region."""
        return f"arn:{self.where.partition}:{service}:{self.where.region}:{self.where.account}:{rest}"

    def object(self, key: str) -> str:
        """ARN of an object of the data bucket."""
        return f"{self.bucket_arn}/{key}"

    def via(self, service: str) -> dict[str, str]:
        """Context of a key's use through a service."""
        return {"kms:ViaService": f"{service}.{self.where.region}.{self.where.url_suffix}"}


def of_api_calls(names: Names, calls: Iterable[ApiCall], missing: Iterable[ApiCall]) -> Iterator[Need]:
    """Requests behind the functions' own calls."""
    for call in calls:
        because = f"{call.role.rsplit('/', 1)[-1]}'s code: {call.service}.{call.operation}"
        for action, resource, context in _requests(names, call.service, call.operation, call.parameters):
            yield Need(request=Request(principal=call.role, action=action, resource=resource, context=context), because=because)
    for call in missing:
        # "If the object doesn't exist and you have s3:ListBucket, S3 returns 404; otherwise 403." The request carries no s3:prefix.
        request = Request(
            principal=call.role, action="s3:ListBucket", resource=f"arn:{names.where.partition}:s3:::{call.parameters['Bucket']}"
        )
        yield Need(request=request, because=f"{call.service}.{call.operation} expects 404 for a missing {call.parameters['Key']}")


def _requests(names: Names, service: str, name: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, str]]]:
    prefix, arn = IAM_PREFIX.get(service, service), names.arn
    resources: dict[str, Callable[[], str]] = {
        "DescribeImages": lambda: arn("ecr", f"repository/{given['repositoryName']}"),
        "DescribeExecution": lambda: str(given["executionArn"]),
        "GetExecutionHistory": lambda: str(given["executionArn"]),
        "Publish": lambda: str(given["TopicArn"]),
        "DescribeTrainingJob": lambda: arn("sagemaker", f"training-job/{given['TrainingJobName']}"),
        "StopTrainingJob": lambda: arn("sagemaker", f"training-job/{given['TrainingJobName']}"),
        "StopProcessingJob": lambda: arn("sagemaker", f"processing-job/{given['ProcessingJobName']}"),
        "UpdateTrainingJob": lambda: arn("sagemaker", f"training-job/{given['TrainingJobName']}"),
        "DescribeProcessingJob": lambda: arn("sagemaker", f"processing-job/{given['ProcessingJobName']}"),
        "PutRetentionPolicy": lambda: arn("logs", f"log-group:{given['logGroupName']}:log-stream:"),
        "DescribeLogStreams": lambda: arn("logs", f"log-group:{given['logGroupName']}:log-stream:"),
        "GetLogEvents": lambda: arn("logs", f"log-group:{given['logGroupName']}:log-stream:{given['logStreamName']}"),
        "DescribeSecret": lambda: str(given["SecretId"]),
        "GetSecretValue": lambda: str(given["SecretId"]),
        "DescribeStacks": lambda: str(given["StackName"]),
        "DescribeTrainingPlan": lambda: arn("sagemaker", f"training-plan/{given['TrainingPlanName']}"),
        "DescribeModelPackageGroup": lambda: arn("sagemaker", f"model-package-group/{given['ModelPackageGroupName']}"),
        "CreateModelPackageGroup": lambda: arn("sagemaker", f"model-package-group/{given['ModelPackageGroupName']}"),
        "CreateModelPackage": lambda: arn("sagemaker", f"model-package/{given['ModelPackageGroupName']}/1"),
    }
    if service == "s3":
        yield from _s3(names, name, given)
        return
    if name == "PutEvents":
        for entry in given["Entries"]:
            told = {"events:source": [str(entry["Source"])], "events:detail-type": [str(entry["DetailType"])]}
            yield "events:PutEvents", arn("events", "event-bus/default"), told
        return
    if name == "Invoke":
        yield "lambda:InvokeFunction", str(given["FunctionName"]), {}
        return
    context = {"cloudwatch:namespace": str(given["Namespace"])} if name == "PutMetricData" else {}
    if name == "CreateModelPackage":
        context = {"sagemaker:ModelApprovalStatus": str(given["ModelApprovalStatus"])}
    yield f"{prefix}:{name}", resources[name]() if name in resources else "*", context
    if name == "Publish":
        yield from (("kms:GenerateDataKey", names.key, names.via("sns")), ("kms:Decrypt", names.key, names.via("sns")))
    if name == "GetSecretValue" and given["SecretId"] == names.secret:  # any other secret's key is a setting of its own
        yield "kms:Decrypt", names.key, names.via("secretsmanager")
    if name == "CreateModelPackageGroup" and given.get("Tags"):
        yield "sagemaker:AddTags", resources[name](), {}


def _s3(names: Names, name: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, str]]]:
    action, bucket = f"s3:{S3_ACTION.get(name, name)}", f"arn:{names.where.partition}:s3:::{given['Bucket']}"
    if action == "s3:ListBucket":
        yield action, bucket, {"s3:prefix": str(given.get("Prefix", ""))}
        return
    if name == "DeleteObjects":
        yield from ((action, f"{bucket}/{item['Key']}", {}) for item in given["Delete"]["Objects"])
        return
    yield action, f"{bucket}/{given['Key']}", {}
    if given["Bucket"] == names.bucket and action in ("s3:GetObject", "s3:PutObject"):
        yield {"s3:GetObject": "kms:Decrypt", "s3:PutObject": "kms:GenerateDataKey"}[action], names.key, names.via("s3")
        if name in ("UploadPart", "CompleteMultipartUpload"):  # parts are decrypted again when they are put together
            yield "kms:Decrypt", names.key, names.via("s3")


def of_tasks(names: Names, machine_role: str, calls: Iterable[Call]) -> Iterator[Need]:
    """Requests behind Task states, and what the services then do in the job roles' names."""
    for call in calls:
        _, model = operation(call.resource)
        because, given = f"state {call.state}: {call.resource.split(':::')[1]}", call.arguments
        for action, resource, context in _task(names, model.name, given, sync=":aws-sdk:" not in call.resource):
            yield Need(request=Request(principal=machine_role, action=action, resource=resource, context=context), because=because)
        if "RoleArn" in given:
            for action, resource, context in _job(names, model.name, given):
                request = Request(principal=given["RoleArn"], action=action, resource=resource, context=context)
                yield Need(request=request, because=f"SageMaker for {call.state}'s job")


def _task(names: Names, name: str, given: Json, *, sync: bool) -> Iterator[tuple[str, str, dict[str, str]]]:
    if name == "Invoke":
        yield "lambda:InvokeFunction", given["FunctionName"], {}
    elif name == "Publish":
        yield "sns:Publish", given["TopicArn"], {}
        yield from (("kms:GenerateDataKey", names.key, names.via("sns")), ("kms:Decrypt", names.key, names.via("sns")))
    else:
        resource = names.project
        prefix = "codebuild"
        if name != "StartBuild":
            kind = name.removeprefix("Create").removeprefix("Describe").removesuffix("Job")
            prefix, resource = "sagemaker", names.arn("sagemaker", f"{kind.lower()}-job/{given[f'{kind}JobName']}")
            if "RoleArn" in given:
                yield "iam:PassRole", given["RoleArn"], {"iam:PassedToService": "sagemaker.amazonaws.com"}
            if plan := given.get("ResourceConfig", {}).get("TrainingPlanArn"):
                # "Training plan users" page: the call is checked against the plan and the capacity that it reserves, beside the job.
                yield f"sagemaker:{name}", plan, {}
                yield f"sagemaker:{name}", names.arn("sagemaker", "reserved-capacity/rc-0123456789"), {}
        if not sync:
            yield f"{prefix}:{name}", resource, {}
            if name == "CreateTrainingJob":
                yield f"{prefix}:AddTags", resource, {}
            return
        companions, rule = SYNC_COMPANIONS[name]
        yield from ((f"{prefix}:{action}", resource, {}) for action in (name, *companions))
        yield from ((f"events:{action}", names.arn("events", f"rule/{rule}"), {}) for action in ("PutTargets", "PutRule", "DescribeRule"))


def _job(names: Names, name: str, given: Json) -> Iterator[tuple[str, str, dict[str, str]]]:
    """What SageMaker does with the job's role ("SageMaker roles" in its developer guide), field by field."""
    kind = name.removeprefix("Create").removesuffix("Job")
    yield from _reads(names, [c["DataSource"]["S3DataSource"]["S3Uri"] for c in given.get("InputDataConfig", [])])
    yield from _reads(names, [i["S3Input"]["S3Uri"] for i in given.get("ProcessingInputs", [])])
    written = [given[field]["S3OutputPath"] for field in ("OutputDataConfig", "TensorBoardOutputConfig") if field in given]
    written += [output["S3Output"]["S3Uri"] for output in given.get("ProcessingOutputConfig", {}).get("Outputs", [])]
    if "KmsKeyId" in given.get("OutputDataConfig", {}):
        yield "kms:Encrypt", given["OutputDataConfig"]["KmsKeyId"], {}
    if "CheckpointConfig" in given:
        folder = given["CheckpointConfig"]["S3Uri"]
        yield from _reads(names, [f"{folder}checkpoints/step-1/shard"])
        yield "s3:DeleteObject", names.object(_key(f"{folder}checkpoints/step-1/shard")), {}  # old steps go away locally and in S3
        written.append(f"{folder}checkpoints/")
    for place in written:
        for action in ("PutObject", "CompleteMultipartUpload"):
            yield from _s3(names, action, {"Bucket": names.bucket, "Key": _key(place) + "file"})
        yield "s3:AbortMultipartUpload", names.object(_key(place) + "file"), {}
    yield "ecr:GetAuthorizationToken", "*", {}
    yield from ((f"ecr:{action}", names.images, {}) for action in PULL)
    stream = names.arn("logs", f"log-group:/aws/sagemaker/{kind}Jobs:log-stream:{given[f'{kind}JobName']}/algo-1")
    yield from ((f"logs:{action}", stream, {}) for action in ("CreateLogStream", "PutLogEvents"))
    yield from (
        (f"logs:{action}", stream.split("log-stream:")[0] + "log-stream:", {}) for action in ("CreateLogGroup", "DescribeLogStreams")
    )
    yield "cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": f"/aws/sagemaker/{kind}Jobs"}
    resources = given.get("ResourceConfig") or given["ProcessingResources"]["ClusterConfig"]
    if "VolumeKmsKeyId" in resources:
        yield "kms:CreateGrant", resources["VolumeKmsKeyId"], {"kms:GrantIsForAWSResource": "true"}
        yield "kms:DescribeKey", resources["VolumeKmsKeyId"], {}


def _reads(names: Names, uris: Iterable[str]) -> Iterator[tuple[str, str, dict[str, str]]]:
    for uri in uris:
        key = _key(uri)
        yield "s3:ListBucket", names.bucket_arn, {"s3:prefix": key}
        yield from _s3(names, "GetObject", {"Bucket": names.bucket, "Key": key + "part" if key.endswith("/") else key})


def _key(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[2]


def of_services(names: Names, policies: Policies) -> Iterator[Need]:
    """What AWS services do beside any path: assume roles, deliver logs, start runs, publish alarms."""
    account = {"aws:SourceAccount": names.where.account}
    for role, trust in policies.trust.items():
        for statement in trust["Statement"]:
            service = statement["Principal"]["Service"]
            context = account if "aws:SourceAccount" in str(statement.get("Condition")) else {}
            yield Need(
                request=Request(principal=service, action="sts:AssumeRole", resource=role, context=context), because=f"{service} runs it"
            )
    alarm = {**account, "aws:SourceArn": names.arn("cloudwatch", "alarm:run-failed")}
    cloudwatch = "cloudwatch.amazonaws.com"
    yield Need(
        request=Request(principal=cloudwatch, action="sns:Publish", resource=names.topic, context=alarm), because="an alarm notifies"
    )
    for action in ("kms:Decrypt", "kms:GenerateDataKey"):
        yield Need(request=Request(principal=cloudwatch, action=action, resource=names.key, context=alarm), because="an alarm notifies")
    schedule = names.role("Schedule")
    yield Need(request=Request(principal=schedule, action="states:StartExecution", resource=names.machine), because="a schedule fires")
    (queue,) = names.templates.resources("AWS::SQS::Queue")
    yield Need(
        request=Request(principal=schedule, action="sqs:SendMessage", resource=names.templates.arn(queue)),
        because="a start that was given up",
    )
    machine = names.role("Machine")
    yield from (Need(request=Request(principal=machine, action=f"logs:{a}", resource="*"), because="execution logs") for a in LOG_DELIVERY)
    functions = [function.properties["Role"] for function in names.templates.resources("AWS::Lambda::Function")]
    for role in (machine, *functions):
        for action in ("PutTraceSegments", "PutTelemetryRecords"):
            yield Need(request=Request(principal=role, action=f"xray:{action}", resource="*"), because="tracing")
    for action in ("GetSamplingRules", "GetSamplingTargets"):
        yield Need(request=Request(principal=machine, action=f"xray:{action}", resource="*"), because="tracing")
    for function in names.templates.resources("AWS::Lambda::Function"):
        stream = names.arn("logs", f"log-group:{function.properties['LoggingConfig']['LogGroup']}:log-stream:2026/11/22")
        for action in ("CreateLogStream", "PutLogEvents"):
            yield Need(
                request=Request(principal=function.properties["Role"], action=f"logs:{action}", resource=stream),
                because="the function's log",
            )
    source = {**account, "aws:SourceArn": names.bucket_arn}
    for bucket in names.templates.resources("AWS::S3::Bucket"):
        if "LoggingConfiguration" in bucket.properties:
            logging = bucket.properties["LoggingConfiguration"]
            logged = f"arn:{names.where.partition}:s3:::{logging['DestinationBucketName']}/{logging['LogFilePrefix']}2026-11-22"
            yield Need(
                request=Request(principal="logging.s3.amazonaws.com", action="s3:PutObject", resource=logged, context=source),
                because="access logs",
            )
