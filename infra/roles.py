"""Every role of the deployment and every statement in it: one file to audit.

Each function makes one role that can do exactly what its stage calls. A wildcard resource carries its reason.
Trust is limited to this account (``aws:SourceAccount``) where the service passes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import aws_cdk as cdk
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.layout import JOBS_PREFIX, RUNS_PREFIX, TOKENS_PREFIX
from infra.patrol_metrics import NAMESPACE


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What outlives a redeploy, as the roles refer to it."""

    bucket: s3.IBucket
    key: kms.IKey
    images: ecr.IRepository
    cache: ecr.IRepository
    secret_arn: str


def allow(*actions: str, on: str | Sequence[str], when: dict[str, dict[str, object]] | None = None) -> iam.PolicyStatement:
    """An Allow statement."""
    return iam.PolicyStatement(actions=list(actions), resources=[on] if isinstance(on, str) else list(on), conditions=when)


def new_role(
    scope: Construct, name: str, service: str, statements: Sequence[iam.PolicyStatement], *, source_account: bool = True
) -> iam.Role:
    """A role that one service may assume, on behalf of this account only."""
    stack = cdk.Stack.of(scope)
    conditions = {"StringEquals": {"aws:SourceAccount": stack.account}} if source_account else None
    policy = iam.PolicyDocument(statements=list(statements), minimize=True)
    principal = iam.ServicePrincipal(service, conditions=conditions)
    return iam.Role(scope, name, assumed_by=principal, inline_policies={"stage": policy})


def _arn(scope: Construct, service: str, resource: str, name: str, *, colon: bool = False) -> str:
    form = cdk.ArnFormat.COLON_RESOURCE_NAME if colon else cdk.ArnFormat.SLASH_RESOURCE_NAME
    return cdk.Stack.of(scope).format_arn(service=service, resource=resource, resource_name=name, arn_format=form)


def _objects(shared: Shared, *prefixes: str) -> list[str]:
    return [shared.bucket.arn_for_objects(f"{prefix}*") for prefix in prefixes]


def _use_key_through_s3(scope: Construct, shared: Shared, *actions: str) -> iam.PolicyStatement:
    stack = cdk.Stack.of(scope)
    service = f"s3.{stack.region}.{stack.url_suffix}"
    return allow(*actions, on=shared.key.key_arn, when={"StringEquals": {"kms:ViaService": service}})


def _write_logs(scope: Construct, group: str) -> iam.PolicyStatement:
    return allow(
        "logs:CreateLogGroup",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "logs:DescribeLogStreams",
        on=_arn(scope, "logs", "log-group", f"{group}*", colon=True),
    )


def _function(scope: Construct, name: str, statements: Sequence[iam.PolicyStatement], log_group_arn: str) -> iam.Role:
    logs = allow("logs:CreateLogStream", "logs:PutLogEvents", on=f"{log_group_arn}")
    trace = allow("xray:PutTraceSegments", "xray:PutTelemetryRecords", on="*")  # X-Ray has no resources to name
    # Lambda passes no aws:SourceAccount when it assumes an execution role.
    return new_role(scope, name, "lambda.amazonaws.com", [*statements, logs, trace], source_account=False)


def admit_role(scope: Construct, shared: Shared, source_buckets: Sequence[str], log_group_arn: str) -> iam.Role:
    """Admit: looks at everything, writes run.json and the lock."""
    return _function(
        scope,
        "AdmitRole",
        [
            allow("s3:ListBucket", on=shared.bucket.bucket_arn),
            *_read_sources(scope, source_buckets),
            # Sources may lie anywhere in the bucket; listing shows them, HeadObject of a tokenizer needs GetObject.
            allow("s3:GetObject", on=shared.bucket.arn_for_objects("*")),
            allow("s3:PutObject", on=[shared.bucket.arn_for_objects(f"{RUNS_PREFIX}*/{name}") for name in ("run.json", "lock.json")]),
            _use_key_through_s3(scope, shared, "kms:Decrypt", "kms:GenerateDataKey"),
            allow("ecr:DescribeImages", on=shared.images.repository_arn),
            allow("secretsmanager:DescribeSecret", on=shared.secret_arn),  # whether a value is set; never the value
            # Service Quotas, the job lists and the price list have no resources to name.
            allow("servicequotas:ListServiceQuotas", "servicequotas:ListAWSDefaultServiceQuotas", on="*"),
            allow("sagemaker:ListTrainingJobs", "sagemaker:ListProcessingJobs", "pricing:GetProducts", on="*"),
            allow("sagemaker:DescribeTrainingJob", on=_arn(scope, "sagemaker", "training-job", "*")),  # whoever's jobs use up the quota
            allow("sagemaker:DescribeTrainingPlan", on=_arn(scope, "sagemaker", "training-plan", "*")),  # the input names the plan
            allow("sagemaker:DescribeProcessingJob", on=_arn(scope, "sagemaker", "processing-job", "*")),
            # Executions of this deployment's machine; its name is generated after this role (same stack).
            allow("states:DescribeExecution", on=_arn(scope, "states", "execution", "*", colon=True)),
        ],
        log_group_arn,
    )


def triage_role(scope: Construct, log_group_arn: str, build_log_group_arn: str) -> iam.Role:
    """Triage and Explain: read job descriptions and the logs of jobs and builds."""
    jobs = [_arn(scope, "logs", "log-group", f"/aws/sagemaker/{kind}Jobs:*", colon=True) for kind in ("Training", "Processing")]
    return _function(
        scope,
        "TriageRole",
        [
            # Job names are made per run, so there is no narrower prefix.
            allow("sagemaker:DescribeTrainingJob", on=_arn(scope, "sagemaker", "training-job", "*")),
            allow("sagemaker:DescribeProcessingJob", on=_arn(scope, "sagemaker", "processing-job", "*")),
            allow("logs:DescribeLogStreams", "logs:GetLogEvents", on=[*jobs, build_log_group_arn]),
        ],
        log_group_arn,
    )


def report_role(scope: Construct, shared: Shared, log_group_arn: str) -> iam.Role:
    """Report: reads the run's folder, writes two files into it."""
    return _function(
        scope,
        "ReportRole",
        [
            # No prefix condition: S3 answers "no such key" only to callers who may list without one, else "access denied".
            allow("s3:ListBucket", on=shared.bucket.bucket_arn),
            allow("s3:GetObject", on=[*_objects(shared, RUNS_PREFIX), shared.bucket.arn_for_objects(f"{TOKENS_PREFIX}*/index.json")]),
            allow("s3:PutObject", on=[shared.bucket.arn_for_objects(f"{RUNS_PREFIX}*/report.{kind}") for kind in ("html", "json")]),
            _use_key_through_s3(scope, shared, "kms:Decrypt", "kms:GenerateDataKey"),
        ],
        log_group_arn,
    )


def patrol_role(scope: Construct, shared: Shared, log_group_arn: str, *, prunes: bool) -> iam.Role:
    """Patrol: reads jobs, runs and quotas, publishes metrics; deletes old checkpoints only where a setting asks for it."""
    checkpoints = shared.bucket.arn_for_objects(f"{RUNS_PREFIX}*/checkpoints/*")
    return _function(
        scope,
        "PatrolRole",
        [
            allow("s3:ListBucket", on=shared.bucket.bucket_arn),
            allow("s3:GetObject", on=_objects(shared, RUNS_PREFIX)),
            *([allow("s3:DeleteObject", on=checkpoints)] if prunes else []),
            _use_key_through_s3(scope, shared, "kms:Decrypt"),
            # Service Quotas and the job lists have no resources to name.
            allow("servicequotas:ListServiceQuotas", "servicequotas:ListAWSDefaultServiceQuotas", on="*"),
            allow("sagemaker:ListTrainingJobs", "sagemaker:ListProcessingJobs", on="*"),
            allow("sagemaker:DescribeTrainingJob", on=_arn(scope, "sagemaker", "training-job", "*")),  # whoever's jobs use up the quota
            allow("sagemaker:DescribeProcessingJob", on=_arn(scope, "sagemaker", "processing-job", "*")),
            # Metrics have no resources; the namespace is ours.
            allow("cloudwatch:PutMetricData", on="*", when={"StringEquals": {"cloudwatch:namespace": NAMESPACE}}),
        ],
        log_group_arn,
    )


def build_role(scope: Construct, shared: Shared, *, context_arn: str, asset_bucket_arn: str, log_group_arn: str) -> iam.Role:
    """Build image: reads the build context, pulls the base, pushes the two images and the cache."""
    layers = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
    push = ("ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart")
    own = [shared.images.repository_arn, shared.cache.repository_arn]
    stack = cdk.Stack.of(scope)
    # AWS's own deep-learning images lie in an account that differs by partition and region.
    bases = f"arn:{stack.partition}:ecr:{stack.region}:*:repository/pytorch-training"
    return new_role(
        scope,
        "BuildRole",
        "codebuild.amazonaws.com",
        [
            allow("s3:GetObject", "s3:GetObjectVersion", on=context_arn),
            allow("s3:GetBucketLocation", "s3:ListBucket", on=asset_bucket_arn),
            allow("ecr:GetAuthorizationToken", on="*"),  # the token is the account's; ECR offers no resource for it
            allow(*layers, "ecr:DescribeImages", *push, on=own),
            allow(*layers, on=[bases, bases.replace("pytorch-training", "base")]),
            allow("kms:Decrypt", "kms:GenerateDataKey", "kms:DescribeKey", on=shared.key.key_arn),
            allow("logs:CreateLogStream", "logs:PutLogEvents", on=log_group_arn),
        ],
    )


def prepare_role(scope: Construct, shared: Shared, source_buckets: Sequence[str], *, in_vpc: bool) -> iam.Role:
    """Prepare data: reads text, run.json and the token; writes shards and nothing else."""
    return new_role(
        scope,
        "PrepareRole",
        "sagemaker.amazonaws.com",
        [
            *_job_basics(scope, shared, "/aws/sagemaker/ProcessingJobs", in_vpc=in_vpc),
            *_read_sources(scope, source_buckets),
            # Text may lie anywhere in the bucket.
            allow("s3:GetObject", on=shared.bucket.arn_for_objects("*")),
            allow("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", on=_objects(shared, TOKENS_PREFIX)),
            _use_key_through_s3(scope, shared, "kms:Decrypt", "kms:GenerateDataKey"),
            allow("secretsmanager:GetSecretValue", on=shared.secret_arn),
            allow(
                "kms:Decrypt",
                on=shared.key.key_arn,
                when={"StringEquals": {"kms:ViaService": f"secretsmanager.{cdk.Stack.of(scope).region}.{cdk.Stack.of(scope).url_suffix}"}},
            ),
        ],
    )


def training_role(scope: Construct, shared: Shared, *, in_vpc: bool) -> iam.Role:
    """Train: SageMaker itself, on the job's behalf, reads the channels and syncs the checkpoints; the isolated container calls nothing."""
    return new_role(
        scope,
        "TrainingRole",
        "sagemaker.amazonaws.com",
        [
            *_job_basics(scope, shared, "/aws/sagemaker/TrainingJobs", in_vpc=in_vpc),
            allow("s3:GetObject", on=_objects(shared, TOKENS_PREFIX, RUNS_PREFIX)),
            allow("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", on=_objects(shared, RUNS_PREFIX, JOBS_PREFIX)),
            _use_key_through_s3(scope, shared, "kms:Decrypt", "kms:GenerateDataKey"),
        ],
    )


def _read_sources(scope: Construct, buckets: Sequence[str]) -> list[iam.PolicyStatement]:
    """Read text from other buckets that a setting names."""
    if not buckets:
        return []
    arns = [f"arn:{cdk.Stack.of(scope).partition}:s3:::{bucket}" for bucket in buckets]
    return [allow("s3:ListBucket", on=arns), allow("s3:GetObject", on=[f"{arn}/*" for arn in arns])]


def _network_interfaces() -> list[iam.PolicyStatement]:
    """SageMaker puts the job's network interfaces into the VPC under the job's role."""
    changes = (
        "ec2:CreateNetworkInterface",
        "ec2:CreateNetworkInterfacePermission",
        "ec2:DeleteNetworkInterface",
        "ec2:DeleteNetworkInterfacePermission",
    )
    looks = (
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeVpcs",
        "ec2:DescribeDhcpOptions",
        "ec2:DescribeSubnets",
        "ec2:DescribeSecurityGroups",
    )
    # The interfaces do not exist yet and the Describe calls have no resources; SageMaker documents this list for jobs in a VPC.
    return [allow(*changes, *looks, on="*")]


def _job_basics(scope: Construct, shared: Shared, log_group: str, *, in_vpc: bool) -> list[iam.PolicyStatement]:
    """What SageMaker needs for any job: pull the image, encrypt the volume, write logs and metrics."""
    return [
        allow("s3:ListBucket", "s3:GetBucketLocation", on=shared.bucket.bucket_arn),
        allow("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", on=shared.images.repository_arn),
        allow("ecr:GetAuthorizationToken", on="*"),  # the token is the account's; ECR offers no resource for it
        # SageMaker encrypts the job's EBS volume with the key through a grant of its own.
        allow("kms:CreateGrant", on=shared.key.key_arn, when={"Bool": {"kms:GrantIsForAWSResource": "true"}}),
        allow("kms:DescribeKey", on=shared.key.key_arn),
        _write_logs(scope, log_group),
        # CloudWatch metrics have no resources; the namespaces are SageMaker's.
        allow("cloudwatch:PutMetricData", on="*", when={"StringLike": {"cloudwatch:namespace": "/aws/sagemaker/*"}}),
        *(_network_interfaces() if in_vpc else []),
    ]


def machine_role(
    scope: Construct, *, functions: Sequence[str], project_arn: str, topic_arn: str, topic_key: kms.IKey, job_roles: Sequence[str]
) -> iam.Role:
    """The state machine: invoke, build, run jobs, publish, and what the .sync integrations need beside it."""
    rules = (
        "StepFunctionsGetEventsForSageMakerTrainingJobsRule",
        "StepFunctionsGetEventsForSageMakerProcessingJobsRule",
        "StepFunctionsGetEventForCodeBuildStartBuildRule",
    )
    training, processing = _arn(scope, "sagemaker", "training-job", "*"), _arn(scope, "sagemaker", "processing-job", "*")
    return new_role(
        scope,
        "MachineRole",
        "states.amazonaws.com",
        [
            allow("lambda:InvokeFunction", on=functions),
            allow("codebuild:StartBuild", "codebuild:StopBuild", "codebuild:BatchGetBuilds", on=project_arn),
            # Job names are made per run, so there is no narrower prefix.
            allow("sagemaker:CreateTrainingJob", "sagemaker:DescribeTrainingJob", "sagemaker:StopTrainingJob", on=training),
            allow("sagemaker:CreateProcessingJob", "sagemaker:DescribeProcessingJob", "sagemaker:StopProcessingJob", on=processing),
            allow("sagemaker:AddTags", "sagemaker:ListTags", on=[training, processing]),
            allow("iam:PassRole", on=job_roles, when={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}),
            allow("events:PutTargets", "events:PutRule", "events:DescribeRule", on=[_arn(scope, "events", "rule", rule) for rule in rules]),
            allow("sns:Publish", on=topic_arn),
            allow("kms:Decrypt", "kms:GenerateDataKey", on=topic_key.key_arn),
            # Log delivery and X-Ray are set up per account; neither has resources to name.
            allow(
                "logs:CreateLogDelivery",
                "logs:GetLogDelivery",
                "logs:UpdateLogDelivery",
                "logs:DeleteLogDelivery",
                "logs:ListLogDeliveries",
                "logs:PutResourcePolicy",
                "logs:DescribeResourcePolicies",
                "logs:DescribeLogGroups",
                on="*",
            ),
            allow("xray:PutTraceSegments", "xray:PutTelemetryRecords", "xray:GetSamplingRules", "xray:GetSamplingTargets", on="*"),
        ],
    )


def schedule_role(scope: Construct, machine_arn: str) -> iam.Role:
    """A schedule: start executions of the one machine."""
    return new_role(scope, "ScheduleRole", "scheduler.amazonaws.com", [allow("states:StartExecution", on=machine_arn)])
