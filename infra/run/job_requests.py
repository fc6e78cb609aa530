"""RunSpec -> CreateProcessingJob and CreateTrainingJob requests, as values. Pure.

Admit builds each request once; the state machine passes it on and merges in what is known only then: the
image digest, the attempt's job name and number, and the time limit that the budget still allows.
Fields newer than SageMaker's first years appear only when a setting asks for them: Step Functions'
optimised integration has lagged behind new fields before.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from contracts.config import Json
from contracts.files import CHECKPOINT_CHANNEL, INITIAL_CHANNEL
from contracts.metric_line import metric_definitions
from contracts.mixture import SourceTokens
from infra.run.compute import CapacitySource
from infra.run.deployment import Deployment
from infra.run.layout import JOBS_PREFIX, RunLayout, split_uri, uri
from infra.run.run_spec import Leg, RunSpec
from infra.sagemaker.instance_types import has_nvme

MAX_JOB_NAME = 63  # CreateTrainingJob and CreateProcessingJob; [a-zA-Z0-9](-*[a-zA-Z0-9])*
ATTEMPT_DIGITS = 4  # "-" and up to three digits follow the name that job_name makes
DIGEST_DIGITS = 6
JOB_WORDS = MAX_JOB_NAME - ATTEMPT_DIGITS - DIGEST_DIGITS - 1  # letters of run and stage that a job's name holds
FILE_MODE_BYTES = 50 << 30  # up to here copying the shards first costs less than FastFile's random reads
DEPLOYMENT_TAG = "pretrain:deployment"
JOB_STAGES = {"Prepare corpus": "corpus", "Prepare data": "prepare"}
"""State -> the word for it in the names of its jobs."""
HUGGING_FACE_ENV = "HF_TOKEN_SECRET_ARN"


def job_name(stage: str, run_id: str, execution: str) -> str:
    """The part of a job's name that all attempts of one execution share; the machine adds ``-<attempt>``.

    Job names are unique for ever in an account and region, and one run may be executed again: six hex digits
    of the execution's ARN tell the executions apart, and stand in for whatever had to be cut.
    """
    digest = execution_digest(stage, run_id, execution)
    words = re.sub(r"[^a-zA-Z0-9]+", "-", f"{run_id}-{stage}").strip("-")
    return f"{words[:JOB_WORDS].strip('-')}-{digest}"


def execution_digest(stage: str, run_id: str, execution: str) -> str:
    """Six hex digits that tell the executions of one run apart, in the names of jobs and of attempts' folders."""
    return hashlib.sha256(f"{execution}/{run_id}/{stage}".encode()).hexdigest()[:DIGEST_DIGITS]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """A processing job that a run may need before its training."""

    stage: str
    """The state that runs it."""
    image: str
    """Target of the Dockerfile; its program is ``python -m <image>.job``."""
    record: str
    """Where the report finds its description."""
    instance_type: str
    instance_count: int
    volume_size_gb: int
    max_runtime_seconds: int
    path: str
    """Its settings, in the input."""


def preparations(spec: RunSpec, *, cleaned: bool = False, prepared: bool = False) -> tuple[Preparation, ...]:
    """The processing jobs that the run needs, in order.

    Args:
        cleaned: every corpus that data.corpus asks for is complete.
        prepared: the tokens exist, so that nothing before them is needed.
    """
    if prepared:
        return ()
    data, corpus = spec.data, spec.data.corpus
    found = []
    if corpus is not None and not cleaned:
        found.append(
            Preparation(
                stage="Prepare corpus", image="corpus", record="corpus_job", instance_type=corpus.instance_type, instance_count=1,
                volume_size_gb=corpus.volume_size_gb, max_runtime_seconds=corpus.max_runtime_seconds, path="data.corpus",
            )
        )  # fmt: skip
    found.append(
        Preparation(
            stage="Prepare data", image="data_prep", record="job", instance_type=data.instance_type, instance_count=data.instance_count,
            volume_size_gb=data.volume_size_gb, max_runtime_seconds=data.max_runtime_seconds, path="data",
        )
    )  # fmt: skip
    return tuple(found)


def preparation_request(job: Preparation, spec: RunSpec, layout: RunLayout, deployment: Deployment, *, token: bool) -> Json:
    """CreateProcessingJob without job name and image. ``token``: a Hugging Face token is set; the job gets its secret's ARN."""
    environment = {"PYTHONUNBUFFERED": "1"}
    if token and hub_references(spec):
        environment[HUGGING_FACE_ENV] = deployment.secret_arn
    return {
        "RoleArn": deployment.prepare_role_arn,
        "AppSpecification": {"ContainerEntrypoint": ["python", "-m", f"{job.image}.job"]},
        "ProcessingInputs": [_run_input(layout, deployment)],
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceType": job.instance_type,
                "InstanceCount": job.instance_count,
                "VolumeSizeInGB": job.volume_size_gb,
                **({} if has_nvme(job.instance_type) else {"VolumeKmsKeyId": deployment.key_arn}),
            }
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": job.max_runtime_seconds},
        "Environment": environment,
        # The job reads hf:// sources and Secrets Manager, so it cannot be isolated from the network.
        "NetworkConfig": {"EnableNetworkIsolation": False, **_vpc(deployment)},
        "Tags": _tags(layout, deployment),
    }


def _tags(layout: RunLayout, deployment: Deployment) -> list[dict[str, str]]:
    """Cost allocation: by deployment and by run."""
    tags = {**deployment.tags, DEPLOYMENT_TAG: deployment.name, "pretrain:run": layout.run_id}
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _run_input(layout: RunLayout, deployment: Deployment) -> Json:
    return {
        "InputName": "run",
        "S3Input": {
            "S3Uri": uri(deployment.bucket, layout.run_json),
            "LocalPath": "/opt/ml/processing/input/run",
            "S3DataType": "S3Prefix",
            "S3InputMode": "File",  # processing jobs know no FastFile
            "S3DataDistributionType": "FullyReplicated",
        },
    }


def hub_references(spec: RunSpec) -> list[str]:
    """The ``hf://`` URIs that data preparation reads for the run, where a token may be asked for."""
    evaluated = spec.evaluation.uris if spec.evaluation is not None else ()
    named = (*spec.data.uris.values(), *(leg.training.initial for leg in spec.legs), *evaluated)
    return list(dict.fromkeys(value for value in named if value is not None and value.startswith("hf://")))


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The data sets, as the training job's channels need them."""

    sources: tuple[SourceTokens, ...]
    """Each source's channel and folder in S3."""
    bytes: int
    """About the size of all."""
    imported: bool = False
    """Whether the file system, where there is one, has had the time to import them."""


def training_request(spec: RunSpec, layout: RunLayout, deployment: Deployment, tokens: Tokens) -> Json:
    """CreateTrainingJob, the part that all legs, sources and attempts share.

    The state machine merges into it: a capacity source's part, a leg's part, then image digest, job name, attempt number, time
    limit, the attempt's folder and, as a channel, the checkpoint to go on from. Merging keeps the plan small: a state holds
    256 KiB, and a run has up to 16 legs.
    """
    from_lustre = deployment.file_system_id is not None and tokens.imported
    shared = shared_request(layout, deployment, entry="training.job", role_arn=deployment.training_role_arn)
    return {
        **shared,
        "AlgorithmSpecification": {**shared["AlgorithmSpecification"], "MetricDefinitions": metric_definitions()},
        "InputDataConfig": [
            channel("run", uri(deployment.bucket, layout.run_json), "File"),
            *(_lustre_channel(deployment, source) if from_lustre else _s3_channel(tokens, source) for source in tokens.sources),
        ],
        "EnableInterContainerTrafficEncryption": spec.compute.encrypt_inter_container_traffic,
        **({"InfraCheckConfig": {"EnableInfraCheck": True}} if spec.compute.infra_check else {}),
        **_vpc(deployment, only=deployment.file_system_subnet if from_lustre else None),
    }


def shared_request(layout: RunLayout, deployment: Deployment, *, entry: str, role_arn: str) -> Json:
    """What the CreateTrainingJob requests of both stages have: an isolated job of this run that starts with the module ``entry``."""
    return {
        "RoleArn": role_arn,
        "AlgorithmSpecification": {"TrainingInputMode": "File", "ContainerEntrypoint": ["python", "-m", entry]},
        "OutputDataConfig": {"S3OutputPath": uri(deployment.bucket, JOBS_PREFIX), "KmsKeyId": deployment.key_arn},
        "Environment": {"PYTHONUNBUFFERED": "1"},
        "Tags": _tags(layout, deployment),
        "EnableNetworkIsolation": True,
        **_vpc(deployment),
    }


def training_source(spec: RunSpec, source: CapacitySource, deployment: Deployment) -> Json:
    """The part of CreateTrainingJob that a capacity source decides."""
    return {
        "ResourceConfig": _resources(spec, source, deployment),
        "StoppingCondition": _stopping(spec, source),
        "EnableManagedSpotTraining": source.kind == "spot",
    }


def training_leg(leg: Leg, layout: RunLayout, deployment: Deployment, *, attempt_stem: str, tensorboard: bool = False) -> Json:
    """The part of CreateTrainingJob that a leg decides.

    ``CheckpointConfig.S3Uri`` is what the folders of this execution's attempts begin with; the machine adds ``<number>/``.
    SageMaker adds ``<job>/tensorboard-output/`` to the path of ``tensorboard``; were it not to, the files' own names keep attempts apart.
    """
    events = {"LocalPath": "/opt/ml/output/tensorboard", "S3OutputPath": uri(deployment.bucket, layout.events_prefix(leg.name))}
    return {
        "HyperParameters": {"run_id": layout.run_id, "leg": leg.name},
        "CheckpointConfig": {"S3Uri": uri(deployment.bucket, attempt_stem), "LocalPath": "/opt/ml/checkpoints"},
        **({"TensorBoardOutputConfig": events} if tensorboard else {}),
    }


def checkpoint_channel() -> Json:
    """The channel of the checkpoint that an attempt goes on from, without its S3 URI.

    FastFile: each host reads its own parts only. File mode would bring every part of all hosts to every host.
    """
    return channel(CHECKPOINT_CHANNEL, "", "FastFile")


def initial_channel(s3_uri: str) -> Json:
    """The channel of weights to begin from. FastFile: each host reads the rows that its ranks keep."""
    return channel(INITIAL_CHANNEL, s3_uri, "FastFile")


def channel(name: str, s3_uri: str, mode: str) -> Json:
    """One channel; ``mode`` is File or FastFile."""
    source = {"S3DataType": "S3Prefix", "S3Uri": s3_uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "InputMode": mode, "DataSource": {"S3DataSource": source}}


def _s3_channel(tokens: Tokens, source: SourceTokens) -> Json:
    return channel(source.channel, source.uri, "File" if tokens.bytes <= FILE_MODE_BYTES else "FastFile")


def _lustre_channel(deployment: Deployment, source: SourceTokens) -> Json:
    _, key = split_uri(source.uri)
    place = {
        "FileSystemId": deployment.file_system_id,
        "FileSystemType": "FSxLustre",
        "FileSystemAccessMode": "ro",
        "DirectoryPath": f"/{deployment.file_system_mount}/{key.rstrip('/')}",
    }
    return {"ChannelName": source.channel, "InputMode": "File", "DataSource": {"FileSystemDataSource": place}}


def _resources(spec: RunSpec, source: CapacitySource, deployment: Deployment) -> Json:
    compute = spec.compute
    instance_type = compute.instance_type_of(source)
    resources: Json = {"InstanceType": instance_type, "InstanceCount": compute.instance_count, "VolumeSizeInGB": compute.volume_size_gb}
    if not has_nvme(instance_type):
        resources["VolumeKmsKeyId"] = deployment.key_arn
    if source.training_plan_arn is not None:
        resources["TrainingPlanArn"] = source.training_plan_arn
    if compute.keep_alive_seconds and source.kind == "on_demand":  # spot and plans keep no warm pool
        resources["KeepAlivePeriodInSeconds"] = compute.keep_alive_seconds
    return resources


def _stopping(spec: RunSpec, source: CapacitySource) -> Json:
    compute = spec.compute
    stopping: Json = {"MaxRuntimeInSeconds": compute.max_runtime_seconds}
    if source.kind == "spot":
        # Waiting and running together; SageMaker wants at least MaxRuntimeInSeconds.
        stopping["MaxWaitTimeInSeconds"] = compute.max_runtime_seconds + (compute.max_pending_seconds or compute.max_runtime_seconds)
    elif compute.max_pending_seconds is not None:
        stopping["MaxPendingTimeInSeconds"] = compute.max_pending_seconds
    return stopping


def _vpc(deployment: Deployment, *, only: str | None = None) -> Json:
    """``only``: the one subnet of a job that reads a file system, which lies in one zone."""
    if not deployment.subnets:
        return {}
    return {"VpcConfig": {"Subnets": [only] if only else list(deployment.subnets), "SecurityGroupIds": list(deployment.security_groups)}}
