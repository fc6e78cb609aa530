"""RunSpec -> what the stage Evaluate needs: its instance type, and the part of CreateTrainingJob that all legs share. Pure.

A training job, not a processing job: it is isolated like the one that trained, its types and quotas are those that the run has
anyway (ml.p5 is no processing type), FastFile reads the validation split without its training shards, and the folder that
SageMaker syncs keeps what was measured when a job is cut off.
"""

from __future__ import annotations

from contracts.config import Json
from contracts.mixture import SourceTokens
from infra.run.deployment import Deployment
from infra.run.job_requests import channel, shared_request
from infra.run.layout import RunLayout, uri
from infra.run.run_spec import RunSpec
from infra.sagemaker.instance_types import has_nvme

MODEL_CHANNEL = "model"
COPIES_CHANNEL = "evaluation"


def evaluation_type(spec: RunSpec) -> str:
    """The instance type of the evaluation."""
    own = spec.evaluation.instance_type if spec.evaluation is not None else None
    return own or spec.compute.instance_type_of(spec.compute.capacity[0])


def evaluation_request(
    spec: RunSpec, layout: RunLayout, deployment: Deployment, tokens: tuple[SourceTokens, ...], copies_uri: str | None
) -> Json:
    """CreateTrainingJob, the part that all legs share; the machine merges in image, job name, leg, folder and time limit.

    Args:
        spec: the run, with an evaluation.
        layout: its keys.
        deployment: where it runs.
        tokens: each source's shards, of which the validation split is read.
        copies_uri: folder of the copies; None when the settings name no data.
    """
    evaluation, kind = spec.evaluation, evaluation_type(spec)
    if evaluation is None:
        raise ValueError("the run evaluates nothing")
    channels = [channel("run", uri(deployment.bucket, layout.run_json), "File")]
    if evaluation.validation:
        channels += [channel(source.channel, source.uri, "FastFile") for source in tokens]
    if copies_uri is not None:
        channels.append(channel(COPIES_CHANNEL, copies_uri, "File"))
    resources = {"InstanceType": kind, "InstanceCount": 1, "VolumeSizeInGB": evaluation.volume_size_gb}
    return {
        **shared_request(layout, deployment, entry="training.evaluation.job", role_arn=deployment.evaluate_role_arn),
        "InputDataConfig": channels,
        "ResourceConfig": resources | ({} if has_nvme(kind) else {"VolumeKmsKeyId": deployment.key_arn}),
    }


def model_channel() -> Json:
    """The channel of the export, without its S3 URI. File mode: safetensors are mapped into memory, which FastFile does not promise."""
    return channel(MODEL_CHANNEL, "", "File")
