"""Every role of the deployment and every statement in it: one file to audit.

Each function makes one role that can do exactly what its stage calls; ``because`` is the reason beside each wildcard.
The data bucket is granted by prefix (infra/run/layout.py), other buckets only where a setting names them.
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

from contracts.files import ATTEMPTS, CHECKPOINTS, EVALUATION, METRICS, RESULT_FILE, TENSORBOARD
from infra.constructs.policy import Conditions, Statement, allow, new_role
from infra.monitor.published_metrics import NAMESPACE
from infra.report.model_registry import APPROVAL
from infra.run.layout import (
    CORPUS_PREFIX,
    EVALUATION_PREFIX,
    IMAGES_PREFIX,
    JOBS_PREFIX,
    MODEL_METRICS,
    RUNS_PREFIX,
    TOKENS_PREFIX,
    WEIGHTS_PREFIX,
)
from infra.run.recipes import RECIPES
from infra.run.run_event import DETAIL_TYPE, SOURCE
from infra.run.sink_settings import model_group
from infra.settings import BuildSettings, Settings

PREFIX = "objects below a prefix of infra/run/layout.py"
ANY_TEXT = "text and tokenizers may lie anywhere in the bucket"
JOB_NAMES = "job names are made per run, so there is no narrower prefix"
WHOSE_EVER_JOB = "the quota is used up by every job of the account, whoever started it"
NO_RESOURCES = "the action has no resources to name"
ACCOUNT_TOKEN = "the token is the account's; ECR offers no resource for it"
CHECKPOINTS_OF_ATTEMPTS = f"{RUNS_PREFIX}*/{ATTEMPTS}/*/{CHECKPOINTS}/*"
RESULTS_OF_ATTEMPTS = f"{RUNS_PREFIX}*/{ATTEMPTS}/*/{METRICS}/{RESULT_FILE}"
READ_BY_TRIAGE = (f"{CHECKPOINTS_OF_ATTEMPTS}manifest.json", RESULTS_OF_ATTEMPTS)
PUBLIC_TOKEN = "a login to the public registry (API reference of ECR Public); neither action has a resource"
WRITTEN_BY_ADMIT = ("run.json", "lock.json", "executions/*.json")
READ_IMAGE = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What outlives a redeploy, as the roles refer to it."""

    bucket: s3.IBucket
    bucket_arn: str
    """Its ARN as an explicit import, so that policies and acknowledgements spell it alike."""
    key: kms.IKey
    images: ecr.IRepository
    cache: ecr.IRepository
    secret_arn: str

    def objects(self, *patterns: str) -> list[str]:
        """ARNs of objects in the data bucket."""
        return [f"{self.bucket_arn}/{pattern}" for pattern in patterns]


def _arn(scope: Construct, service: str, resource: str, name: str, *, colon: bool = False) -> str:
    form = cdk.ArnFormat.COLON_RESOURCE_NAME if colon else cdk.ArnFormat.SLASH_RESOURCE_NAME
    return cdk.Stack.of(scope).format_arn(service=service, resource=resource, resource_name=name, arn_format=form)


def _jobs(scope: Construct) -> tuple[str, str]:
    return _arn(scope, "sagemaker", "training-job", "*"), _arn(scope, "sagemaker", "processing-job", "*")


def _job_log_groups(scope: Construct) -> list[str]:
    return [_arn(scope, "logs", "log-group", f"/aws/sagemaker/{kind}Jobs:*", colon=True) for kind in ("Training", "Processing")]


def _plans(scope: Construct) -> list[str]:
    """What CreateTrainingJob is checked against beside the job when it names a training plan (docs: training-plan-iam-permissions)."""
    return [_arn(scope, "sagemaker", kind, "*") for kind in ("training-plan", "reserved-capacity")]


def _through(scope: Construct, service: str) -> dict[str, dict[str, object]]:
    stack = cdk.Stack.of(scope)
    return {"StringEquals": {"kms:ViaService": f"{service}.{stack.region}.{stack.url_suffix}"}}


def _key_through_s3(scope: Construct, shared: Shared, *actions: str) -> Statement:
    return allow(*actions, on=shared.key.key_arn, when=_through(scope, "s3"))


def _read_sources(scope: Construct, buckets: Sequence[str]) -> list[Statement]:
    """Read text from other buckets that a setting names."""
    if not buckets:
        return []
    arns = [f"arn:{cdk.Stack.of(scope).partition}:s3:::{bucket}" for bucket in buckets]
    return [allow("s3:ListBucket", on=arns), allow("s3:GetObject", on=[f"{arn}/*" for arn in arns], because=ANY_TEXT)]


def _function(scope: Construct, name: str, log_group_arn: str, statements: Sequence[Statement]) -> iam.Role:
    logs = allow("logs:CreateLogStream", "logs:PutLogEvents", on=log_group_arn)
    trace = allow("xray:PutTraceSegments", "xray:PutTelemetryRecords", on="*", because=NO_RESOURCES)
    # Lambda passes no aws:SourceAccount when it assumes an execution role.
    return new_role(scope, name, "lambda.amazonaws.com", [*statements, logs, trace], from_this_account=False)


def _see_quotas(scope: Construct) -> list[Statement]:
    return [
        allow("servicequotas:ListServiceQuotas", "servicequotas:ListAWSDefaultServiceQuotas", on="*", because=NO_RESOURCES),
        allow("sagemaker:ListTrainingJobs", "sagemaker:ListProcessingJobs", on="*", because=NO_RESOURCES),
        allow("sagemaker:DescribeTrainingJob", on=_jobs(scope)[0], because=WHOSE_EVER_JOB),
        allow("sagemaker:DescribeProcessingJob", on=_jobs(scope)[1], because=WHOSE_EVER_JOB),
    ]


def _tell(scope: Construct) -> Statement:
    """Send the run's events to the account's default bus; one call may hold many, each of which must be ours."""
    when: Conditions = {"ForAllValues:StringEquals": {"events:source": SOURCE, "events:detail-type": DETAIL_TYPE}}
    return allow("events:PutEvents", on=_arn(scope, "events", "event-bus", "default"), when=when)


def admit_role(scope: Construct, shared: Shared, source_buckets: Sequence[str], log_group_arn: str) -> iam.Role:
    """Admit: reads sources, image, quotas, prices; writes run.json and the lock."""
    return _function(
        scope,
        "AdmitRole",
        log_group_arn,
        [
            allow("s3:ListBucket", on=shared.bucket_arn),
            allow("s3:GetObject", on=shared.objects("*"), because=ANY_TEXT),
            *_read_sources(scope, source_buckets),
            allow(
                "s3:PutObject",
                on=shared.objects(*(f"{RUNS_PREFIX}*/{name}" for name in ("run.json", "lock.json", "executions/*.json"))),
                because=PREFIX,
            ),
            _key_through_s3(scope, shared, "kms:Decrypt", "kms:GenerateDataKey"),
            allow("ecr:DescribeImages", on=shared.images.repository_arn),
            allow("secretsmanager:DescribeSecret", on=shared.secret_arn),  # whether a value is set; never the value
            *_see_quotas(scope),
            allow("pricing:GetProducts", on="*", because=NO_RESOURCES),
            _tell(scope),
            allow(
                "sagemaker:DescribeTrainingPlan",
                on=_arn(scope, "sagemaker", "training-plan", "*"),
                because="the run's input names the plan",
            ),
            allow(
                "states:DescribeExecution",
                on=_arn(scope, "states", "execution", "*", colon=True),
                because="the lock of a run names the execution that holds it; the machine is made after this role",
            ),
        ],
    )


def triage_role(
    scope: Construct,
    shared: Shared,
    log_group_arn: str,
    *,
    build_log_group_arn: str,
    topic_arns: Sequence[str],
    report_function_arn: str,
) -> iam.Role:
    """Triage and Explain: read jobs, logs and checkpoints' manifests; confirm a run's lock; report an execution's end for it."""
    written = shared.objects(f"{RUNS_PREFIX}*/ended-*.json", f"{RUNS_PREFIX}*/lock.json")
    groups = _job_log_groups(scope)
    training, processing = _jobs(scope)
    return _function(
        scope,
        "TriageRole",
        log_group_arn,
        [
            # Update: to end the warm pool of a job whose hosts are at fault.
            allow("sagemaker:DescribeTrainingJob", "sagemaker:UpdateTrainingJob", on=training, because=JOB_NAMES),
            allow("sagemaker:DescribeProcessingJob", on=processing, because=JOB_NAMES),
            # Of an execution that was stopped, where no `.sync` does.
            allow("sagemaker:StopTrainingJob", on=training, because=JOB_NAMES),
            allow("sagemaker:StopProcessingJob", on=processing, because=JOB_NAMES),
            allow("logs:DescribeLogStreams", on=groups, because="the streams of SageMaker's two log groups"),
            allow("logs:GetLogEvents", on=build_log_group_arn),
            allow(
                "states:DescribeExecution",
                "states:GetExecutionHistory",
                on=_arn(scope, "states", "execution", "*", colon=True),
                because="an event names the execution; the machine is made after this role",
            ),
            # No prefix condition: see report_role.
            allow("s3:ListBucket", on=shared.bucket_arn),
            allow("s3:GetObject", on=shared.objects(*READ_BY_TRIAGE), because=PREFIX),
            allow("s3:GetObject", "s3:PutObject", on=written, because=PREFIX),
            allow("lambda:InvokeFunction", on=report_function_arn),
            _tell(scope),
            _key_through_s3(scope, shared, "kms:Decrypt", "kms:GenerateDataKey"),
            allow("sns:Publish", on=topic_arns),
            allow("kms:Decrypt", "kms:GenerateDataKey", on=shared.key.key_arn, when=_through(scope, "sns")),
        ],
    )


def _see_jobs(scope: Construct) -> list[Statement]:
    training, processing = _jobs(scope)
    return [
        allow("sagemaker:ListTrainingJobs", "sagemaker:ListProcessingJobs", on="*", because=NO_RESOURCES),
        allow("sagemaker:DescribeTrainingJob", on=training, because=JOB_NAMES),
        allow("sagemaker:DescribeProcessingJob", on=processing, because=JOB_NAMES),
    ]


TRACKER_CALLS = ("GetExperimentByName", "CreateExperiment", "SearchRuns", "CreateRun", "LogBatch", "UpdateRun")


def report_role(scope: Construct, shared: Shared, settings: Settings, log_group_arn: str) -> iam.Role:
    """Report: reads the run's folder, its jobs and the token index, writes two files, sends the run on where settings name a place."""
    return _function(
        scope,
        "ReportRole",
        log_group_arn,
        [
            # No prefix condition: S3 answers "no such key" only to callers who may list without one, else "access denied".
            allow("s3:ListBucket", on=shared.bucket_arn),
            allow("s3:GetObject", on=shared.objects(f"{RUNS_PREFIX}*", f"{TOKENS_PREFIX}*/index.json"), because=PREFIX),
            allow("s3:PutObject", on=shared.objects(f"{RUNS_PREFIX}*/report.html", f"{RUNS_PREFIX}*/report.json"), because=PREFIX),
            allow(
                "states:DescribeExecution",
                on=_arn(scope, "states", "execution", "*", colon=True),
                because="the event names the execution; the machine is made after this role",
            ),
            *_see_jobs(scope),
            *_trackers(scope, settings),
            *(_model_registry(scope, shared, settings.name) if settings.model_registry else []),
            _key_through_s3(scope, shared, "kms:Decrypt", "kms:GenerateDataKey"),
        ],
    )


def _trackers(scope: Construct, settings: Settings) -> list[Statement]:
    """One tracking server; the secret of one API key."""
    server, wandb, found = settings.mlflow_tracking_server_arn, settings.wandb, list[Statement]()
    if server is not None:
        found.append(allow(*(f"sagemaker-mlflow:{call}" for call in TRACKER_CALLS), on=server))
    if wandb is not None:
        found.append(allow("secretsmanager:GetSecretValue", on=wandb.api_key_secret_arn))
        if wandb.api_key_key_arn is not None:
            found.append(allow("kms:Decrypt", on=wandb.api_key_key_arn, when=_through(scope, "secretsmanager")))
    return found


def _model_registry(scope: Construct, shared: Shared, deployment: str) -> list[Statement]:
    """Groups of the deployment's recipes and versions in them, of which none is approved."""
    names = [model_group(deployment, recipe) for recipe in RECIPES]
    groups = [_arn(scope, "sagemaker", "model-package-group", name) for name in names]
    versions = [_arn(scope, "sagemaker", "model-package", f"{name}/*") for name in names]
    pending = {"StringEquals": {"sagemaker:ModelApprovalStatus": APPROVAL}}
    calls = ("sagemaker:DescribeModelPackageGroup", "sagemaker:CreateModelPackageGroup", "sagemaker:AddTags")
    return [
        allow(*calls, on=groups),
        allow("sagemaker:CreateModelPackage", on=versions, when=pending, because="versions are numbered by the service"),
        allow("sagemaker:ListModelPackages", on="*", because=NO_RESOURCES),
        allow("s3:PutObject", on=shared.objects(f"{RUNS_PREFIX}*/{MODEL_METRICS}/*.json"), because=PREFIX),
    ]


def monitor_role(scope: Construct, shared: Shared, log_group_arn: str, *, keeps_logs: bool) -> iam.Role:
    """Monitor: reads jobs, runs and quotas, publishes metrics, deletes checkpoints that are not kept; limits jobs' logs by setting."""
    groups = _job_log_groups(scope)
    retain = [allow("logs:PutRetentionPolicy", on=groups, because="SageMaker's two log groups")] if keeps_logs else []
    publish = {"StringEquals": {"cloudwatch:namespace": NAMESPACE}}
    return _function(
        scope,
        "MonitorRole",
        log_group_arn,
        [
            allow("s3:ListBucket", on=shared.bucket_arn),
            allow("s3:GetObject", on=shared.objects(f"{RUNS_PREFIX}*"), because=PREFIX),
            allow("s3:DeleteObject", on=shared.objects(CHECKPOINTS_OF_ATTEMPTS), because=PREFIX),
            *retain,
            _key_through_s3(scope, shared, "kms:Decrypt"),
            *_see_quotas(scope),
            allow("cloudwatch:PutMetricData", on="*", when=publish, because="metrics have no resources; the condition names our namespace"),
        ],
    )


def quotas_role(scope: Construct, log_group_arn: str) -> iam.Role:
    """The quota check of a deployment: reads quotas, what is in use, and whether its own stack is being rolled back."""
    stack = allow("cloudformation:DescribeStacks", on=cdk.Stack.of(scope).stack_id)
    return _function(scope, "QuotasRole", log_group_arn, [*_see_quotas(scope), stack])


def build_role(
    scope: Construct,
    shared: Shared,
    settings: BuildSettings,
    *,
    context_arn: str,
    asset_bucket_arn: str,
    asset_key_arn: str | None,
    log_group_arn: str,
) -> iam.Role:
    """Build image: reads the build context, pulls the base, pushes the two images and the cache."""
    push = ("ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart")
    stack = cdk.Stack.of(scope)
    bases = [f"arn:{stack.partition}:ecr:{stack.region}:*:repository/{name}" for name in ("pytorch-training", "base")]
    return new_role(
        scope,
        "BuildRole",
        "codebuild.amazonaws.com",
        [
            allow("s3:GetObject", "s3:GetObjectVersion", on=context_arn),
            allow("s3:GetBucketLocation", "s3:ListBucket", on=asset_bucket_arn),
            allow("ecr:GetAuthorizationToken", on="*", because=ACCOUNT_TOKEN),
            allow("ecr-public:GetAuthorizationToken", "sts:GetServiceBearerToken", on="*", because=PUBLIC_TOKEN),
            allow(*READ_IMAGE, "ecr:DescribeImages", *push, on=[shared.images.repository_arn, shared.cache.repository_arn]),
            allow(*READ_IMAGE, on=bases, because="AWS's deep-learning images lie in an account that differs by partition and region"),
            allow("s3:PutObject", on=shared.objects(f"{IMAGES_PREFIX}*"), because=PREFIX),
            allow("kms:Decrypt", "kms:GenerateDataKey", "kms:DescribeKey", on=shared.key.key_arn),
            *([allow("kms:Decrypt", on=asset_key_arn, when=_through(scope, "s3"))] if asset_key_arn else []),
            allow("logs:CreateLogStream", "logs:PutLogEvents", on=log_group_arn),
            *([allow("secretsmanager:GetSecretValue", on=settings.pip_config_secret_arn)] if settings.pip_config_secret_arn else []),
            *(
                [allow("kms:Decrypt", on=settings.pip_config_key_arn, when=_through(scope, "secretsmanager"))]
                if settings.pip_config_key_arn
                else []
            ),
            *(_build_interfaces(scope, settings) if settings.vpc_id else []),
        ],
    )


def _build_interfaces(scope: Construct, settings: BuildSettings) -> list[Statement]:
    """CodeBuild joins a VPC under the build's role ("Create a CodeBuild service role": statements for builds in a VPC)."""
    looks = tuple(f"ec2:Describe{what}" for what in ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs"))
    because = "the interfaces do not exist yet; CodeBuild documents this list for builds in a VPC"
    subnets = [_arn(scope, "ec2", "subnet", subnet) for subnet in settings.subnet_ids]
    when: Conditions = {"StringEquals": {"ec2:AuthorizedService": "codebuild.amazonaws.com"}, "ArnEquals": {"ec2:Subnet": subnets}}
    return [
        allow("ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", *looks, on="*", because=because),
        allow("ec2:CreateNetworkInterfacePermission", on=_arn(scope, "ec2", "network-interface", "*"), when=when, because=because),
    ]


def prepare_role(scope: Construct, shared: Shared, source_buckets: Sequence[str], *, in_vpc: bool) -> iam.Role:
    """Prepare corpus and Prepare data: read text, run.json and the token; write cleaned text, shards, copies of models and tasks' data."""
    made, copied = (f"{CORPUS_PREFIX}*", f"{TOKENS_PREFIX}*"), (f"{WEIGHTS_PREFIX}*", f"{EVALUATION_PREFIX}*")
    return new_role(
        scope,
        "PrepareRole",
        "sagemaker.amazonaws.com",
        [
            *_job_basics(scope, shared, "/aws/sagemaker/ProcessingJobs", in_vpc=in_vpc),
            allow("s3:GetObject", on=shared.objects("*"), because=ANY_TEXT),
            *_read_sources(scope, source_buckets),
            allow("s3:PutObject", "s3:AbortMultipartUpload", on=shared.objects(*made, *copied), because=PREFIX),
            allow("s3:DeleteObject", on=shared.objects(*made), because=PREFIX),
            _key_through_s3(scope, shared, "kms:Decrypt", "kms:GenerateDataKey"),
            allow("secretsmanager:GetSecretValue", on=shared.secret_arn),
            allow("kms:Decrypt", on=shared.key.key_arn, when=_through(scope, "secretsmanager")),
        ],
    )


def training_role(scope: Construct, shared: Shared, source_buckets: Sequence[str], *, in_vpc: bool) -> iam.Role:
    """Train: SageMaker itself reads the channels and syncs the checkpoints for the job; the isolated container calls nothing.

    It writes attempts' folders and TensorBoard's events only: run.json, lock.json and the report lie two levels higher.
    """
    return _isolated_role(
        scope,
        "TrainingRole",
        shared,
        reads=(f"{TOKENS_PREFIX}*", f"{RUNS_PREFIX}*", f"{WEIGHTS_PREFIX}*"),
        source_buckets=source_buckets,  # weights to begin from
        syncs=f"{RUNS_PREFIX}*/*/{ATTEMPTS}/*",
        writes=(f"{RUNS_PREFIX}*/*/{TENSORBOARD}/*",),
        in_vpc=in_vpc,
    )


def evaluate_role(scope: Construct, shared: Shared, *, in_vpc: bool) -> iam.Role:
    """Evaluate: as Train, but it writes results beside the export and nothing else: what tasks bring along cannot change a model."""
    return _isolated_role(
        scope,
        "EvaluateRole",
        shared,
        reads=(f"{TOKENS_PREFIX}*", f"{RUNS_PREFIX}*", f"{EVALUATION_PREFIX}*"),
        syncs=f"{RUNS_PREFIX}*/*/{ATTEMPTS}/*/{EVALUATION}/*",
        in_vpc=in_vpc,
    )


def _isolated_role(
    scope: Construct,
    name: str,
    shared: Shared,
    *,
    reads: Sequence[str],
    source_buckets: Sequence[str] = (),
    syncs: str,
    writes: Sequence[str] = (),
    in_vpc: bool,
) -> iam.Role:
    return new_role(
        scope,
        name,
        "sagemaker.amazonaws.com",
        [
            *_job_basics(scope, shared, "/aws/sagemaker/TrainingJobs", in_vpc=in_vpc),
            allow("s3:GetObject", on=shared.objects(*reads), because=PREFIX),
            *_read_sources(scope, source_buckets),
            allow("s3:PutObject", "s3:AbortMultipartUpload", on=shared.objects(syncs, *writes, f"{JOBS_PREFIX}*"), because=PREFIX),
            allow("s3:DeleteObject", on=shared.objects(syncs), because=PREFIX),
            # For a key in OutputDataConfig ("CreateTrainingJob API: execution role permissions"); S3 itself needs the other two.
            allow("kms:Encrypt", on=shared.key.key_arn),
            _key_through_s3(scope, shared, "kms:Decrypt", "kms:GenerateDataKey"),
        ],
    )


def _job_basics(scope: Construct, shared: Shared, log_group: str, *, in_vpc: bool) -> list[Statement]:
    """What SageMaker needs for any job: pull the image, encrypt the volume, write logs and metrics, join the VPC."""
    publish = {"StringLike": {"cloudwatch:namespace": "/aws/sagemaker/*"}}
    return [
        allow("s3:ListBucket", "s3:GetBucketLocation", on=shared.bucket_arn),
        allow(*READ_IMAGE, on=shared.images.repository_arn),
        allow("ecr:GetAuthorizationToken", on="*", because=ACCOUNT_TOKEN),
        # SageMaker encrypts the job's EBS volume with the key through a grant of its own.
        allow("kms:CreateGrant", on=shared.key.key_arn, when={"Bool": {"kms:GrantIsForAWSResource": "true"}}),
        allow("kms:DescribeKey", on=shared.key.key_arn),
        allow(
            "logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams",
            on=_arn(scope, "logs", "log-group", f"{log_group}*", colon=True), because="SageMaker's own log group and its streams",
        ),
        allow("cloudwatch:PutMetricData", on="*", when=publish, because="metrics have no resources; the namespaces are SageMaker's"),
        *(_network_interfaces() if in_vpc else []),
    ]  # fmt: skip


def _network_interfaces() -> list[Statement]:
    """SageMaker puts a job's network interfaces into the VPC under the job's role."""
    changes = tuple(f"ec2:{verb}NetworkInterface{what}" for verb in ("Create", "Delete") for what in ("", "Permission"))
    looks = tuple(f"ec2:Describe{what}" for what in ("NetworkInterfaces", "Vpcs", "DhcpOptions", "Subnets", "SecurityGroups"))
    return [allow(*changes, *looks, on="*", because="the interfaces do not exist yet; SageMaker documents this list for jobs in a VPC")]


def machine_role(
    scope: Construct, *, functions: Sequence[str], project_arn: str, topic_arn: str, topic_key: kms.IKey, job_roles: Sequence[str]
) -> iam.Role:
    """The state machine: invoke, build, run jobs, publish, and what the .sync integrations need beside it."""
    rules = (
        "StepFunctionsGetEventsForSageMakerTrainingJobsRule",
        "StepFunctionsGetEventsForSageMakerProcessingJobsRule",
        "StepFunctionsGetEventForCodeBuildStartBuildRule",
    )
    training, processing = _jobs(scope)
    verbs = ("Create", "Describe", "Stop")
    delivery = tuple(f"logs:{verb}LogDelivery" for verb in ("Create", "Get", "Update", "Delete"))
    policies = ("logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups")
    trace = ("xray:PutTraceSegments", "xray:PutTelemetryRecords", "xray:GetSamplingRules", "xray:GetSamplingTargets")
    return new_role(
        scope,
        "MachineRole",
        "states.amazonaws.com",
        [
            allow("lambda:InvokeFunction", on=functions),
            allow("codebuild:StartBuild", "codebuild:StopBuild", "codebuild:BatchGetBuilds", on=project_arn),
            allow(*(f"sagemaker:{verb}TrainingJob" for verb in verbs), on=training, because=JOB_NAMES),
            allow(*(f"sagemaker:{verb}ProcessingJob" for verb in verbs), on=processing, because=JOB_NAMES),
            allow("sagemaker:CreateTrainingJob", on=_plans(scope), because="the run names the plan, SageMaker the capacity"),
            allow("sagemaker:AddTags", "sagemaker:ListTags", on=[training, processing], because=JOB_NAMES),
            allow("iam:PassRole", on=job_roles, when={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}),
            allow("events:PutTargets", "events:PutRule", "events:DescribeRule", on=[_arn(scope, "events", "rule", rule) for rule in rules]),
            allow("sns:Publish", on=topic_arn),
            allow("kms:Decrypt", "kms:GenerateDataKey", on=topic_key.key_arn, when=_through(scope, "sns")),
            allow(*delivery, *policies, on="*", because="log delivery is set up per account and has no resources to name"),
            allow(*trace, on="*", because=NO_RESOURCES),
        ],
    )  # fmt: skip


def chat_role(scope: Construct) -> iam.Role:
    """Amazon Q in a chat channel: what the graph beside an alarm needs, of the Describe*, Get* and List* that its guide grants."""
    looks = ("DescribeAlarms", "DescribeAlarmHistory", "GetMetricData", "GetMetricStatistics", "GetMetricWidgetImage", "ListMetrics")
    reads = allow(
        *(f"cloudwatch:{look}" for look in looks), on="*", because="alarms and metrics of any name may be shown; none are changed"
    )
    return new_role(scope, "ChatRole", "chatbot.amazonaws.com", [reads], from_this_account=False)


def schedule_role(scope: Construct, machine_arn: str, lost_arn: str) -> iam.Role:
    """A schedule: start executions of the one machine; leave what could not be started in the queue."""
    starts = [allow("states:StartExecution", on=machine_arn), allow("sqs:SendMessage", on=lost_arn)]
    return new_role(scope, "ScheduleRole", "scheduler.amazonaws.com", starts)
