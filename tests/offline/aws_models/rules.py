"""Service rules that botocore's models do not contain, in one table.

Each rule has an id, the operation it is about, its sentence with the source, and a check of the arguments.
``python`` names in the checks are the request's own (PascalCase, as Step Functions and the SageMaker API spell them).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Json = Any
Check = Callable[[Json], Iterable[str]]

NVME_TYPES = re.compile(r"ml\.(p4d|p4de|p5|p5e|p5en|p6[a-z0-9-]*|g4dn|g5|g6|g6e|trn1|trn1n|trn2)\.|ml\.[cmr]\d[a-z]*d[a-z]*\.")
MAX_ASYNC_PAYLOAD = 262_144
SECRET_WORDS = re.compile(r"(?i)(^|_)(token|secret|password|passwd|api_?key|access_?key|credential)s?($|_)")
SECRET_VALUES = re.compile(r"\bhf_[A-Za-z0-9]{20,}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY|\bghp_[A-Za-z0-9]{30,}|\bxox[abp]-")


@dataclass(frozen=True)
class Rule:
    """One rule of one service."""

    id: str
    operations: tuple[str, ...]
    sentence: str
    check: Check


def problems(operation: str, arguments: Json, where: str) -> list[str]:
    """What the rules say about one call, each problem with its rule's id."""
    return [f"{where}: {problem} [{rule.id}]" for rule in RULES if operation in rule.operations for problem in rule.check(arguments)]


def job_name_problems(names: Iterable[str]) -> Iterator[str]:
    """A job name is unique for ever: no two attempts of an execution may share one."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"the job name {name!r} is used twice, and SageMaker refuses it the second time [unique-job-name]"
        seen.add(name)


def _get(arguments: Json, path: str, default: Json = None) -> Json:
    for key in path.split("."):
        if not isinstance(arguments, dict) or key not in arguments:
            return default
        arguments = arguments[key]
    return arguments


def _required(*paths: str) -> Check:
    return lambda arguments: [f"{path} is missing" for path in paths if _get(arguments, path) is None]


def _nvme_key(arguments: Json) -> Iterator[str]:
    config = _get(arguments, "ResourceConfig") or _get(arguments, "ProcessingResources.ClusterConfig", {})
    if "VolumeKmsKeyId" in config and NVME_TYPES.match(config.get("InstanceType", "")):
        yield f"{config['InstanceType']} has local NVMe storage and takes no VolumeKmsKeyId"


def _spot(arguments: Json) -> Iterator[str]:
    spot, stopping = arguments.get("EnableManagedSpotTraining", False), arguments.get("StoppingCondition", {})
    wait, runtime = stopping.get("MaxWaitTimeInSeconds"), stopping.get("MaxRuntimeInSeconds", 0)
    if spot and wait is None:
        yield "managed spot training needs StoppingCondition.MaxWaitTimeInSeconds"
    if not spot and wait is not None:
        yield "MaxWaitTimeInSeconds is for managed spot training only"
    if spot and wait is not None and wait < runtime:
        yield f"MaxWaitTimeInSeconds {wait} is less than MaxRuntimeInSeconds {runtime}"
    if spot and _get(arguments, "ResourceConfig.KeepAlivePeriodInSeconds"):
        yield "managed spot training keeps no warm pool"
    if spot and _get(arguments, "ResourceConfig.TrainingPlanArn"):
        yield "a training plan's capacity is no spot capacity"
    if spot and "CheckpointConfig" not in arguments:
        yield "a spot job without checkpoints loses its work when interrupted"


def _plan(arguments: Json) -> Iterator[str]:
    config = arguments.get("ResourceConfig", {})
    if "TrainingPlanArn" in config and config.get("KeepAlivePeriodInSeconds"):
        yield "a job in a training plan keeps no warm pool"


def _no_secret(path: str) -> Check:
    def check(arguments: Json) -> Iterator[str]:
        values = _get(arguments, path, {})
        pairs = [(item.get("Name"), item.get("Value")) for item in values] if isinstance(values, list) else list(values.items())
        for key, value in pairs:
            if SECRET_VALUES.search(str(value)):
                yield f"{path}.{key} looks like a secret"
            elif SECRET_WORDS.search(str(key)) and not str(value).startswith("arn:"):
                yield f"{path}.{key} is named like a secret and is no ARN"

    return check


def _channels(arguments: Json) -> Iterator[str]:
    names = [channel.get("ChannelName") for channel in arguments.get("InputDataConfig", [])]
    yield from (f"channel {name!r} is given twice" for name in sorted({n for n in names if names.count(n) > 1}))
    for channel in arguments.get("InputDataConfig", []):
        source = _get(channel, "DataSource.S3DataSource", {})
        mode = channel.get("InputMode") or _get(arguments, "AlgorithmSpecification.TrainingInputMode")
        if mode == "FastFile" and source.get("S3DataType") != "S3Prefix":
            yield f"channel {channel.get('ChannelName')}: FastFile mode takes S3Prefix only"


def _checkpoint(arguments: Json) -> Iterator[str]:
    path = _get(arguments, "CheckpointConfig.LocalPath", "/opt/ml/checkpoints")
    if path.rstrip("/") == "/opt/ml" or any(path.startswith(f"/opt/ml/{folder}") for folder in ("input", "model", "output", "code")):
        yield f"CheckpointConfig.LocalPath {path} is a folder that SageMaker keeps for itself"


def _digest(*paths: str) -> Check:
    pattern = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/.+@sha256:[0-9a-f]{64}")
    return lambda arguments: [
        f"{path} {_get(arguments, path)!r} is no ECR image by digest" for path in paths if not pattern.fullmatch(str(_get(arguments, path)))
    ]


def _isolated(arguments: Json) -> Iterator[str]:
    if arguments.get("EnableNetworkIsolation") is not True:
        yield "a training job runs without network (EnableNetworkIsolation)"


def _encrypted(*paths: str) -> Check:
    return lambda arguments: [
        f"{path}: outputs are encrypted with the project's key" for path in paths if not str(_get(arguments, path, "")).startswith("arn:")
    ]


def _tags(arguments: Json) -> Iterator[str]:
    keys = [tag["Key"] for tag in arguments.get("Tags", [])]
    yield from (f"tag {key!r}: the prefix aws: is reserved" for key in keys if key.lower().startswith("aws:"))
    yield from (f"tag {key!r} is given twice" for key in sorted({k for k in keys if keys.count(k) > 1}))


def _metrics(arguments: Json) -> Iterator[str]:
    for definition in _get(arguments, "AlgorithmSpecification.MetricDefinitions", []):
        try:
            groups = re.compile(definition["Regex"]).groups
        except re.error as error:
            yield f"metric {definition['Name']!r}: {error}"
        else:
            if groups != 1:
                yield f"metric {definition['Name']!r} has {groups} groups; SageMaker reads the first and only one"


def _processing_inputs(arguments: Json) -> Iterator[str]:
    for item in arguments.get("ProcessingInputs", []):
        mode = _get(item, "S3Input.S3InputMode")
        if mode not in (None, "File", "Pipe"):
            yield f"input {item.get('InputName')}: processing jobs know File and Pipe, not {mode}"
    paths = [_get(i, "S3Input.LocalPath") for i in arguments.get("ProcessingInputs", [])]
    paths += [_get(o, "S3Output.LocalPath") for o in _get(arguments, "ProcessingOutputConfig.Outputs", [])]
    yield from (
        f"LocalPath {path!r} is not below /opt/ml/processing" for path in paths if path and not path.startswith("/opt/ml/processing/")
    )
    yield from (f"LocalPath {path!r} is used twice" for path in sorted({p for p in paths if p and paths.count(p) > 1}))


def _processing_type(arguments: Json) -> Iterator[str]:
    type = _get(arguments, "ProcessingResources.ClusterConfig.InstanceType", "")
    if re.match(r"ml\.(p4d|p4de|p5|p5e|p5en|p6)", type):
        yield f"{type} is a training type, not a processing one"


def _payload(arguments: Json) -> Iterator[str]:
    size = len(str(arguments).encode())
    if size > MAX_ASYNC_PAYLOAD:
        yield f"payload of {size} bytes; a state passes {MAX_ASYNC_PAYLOAD}"


def _subject(arguments: Json) -> Iterator[str]:
    subject, message = str(arguments.get("Subject", "-")), str(arguments.get("Message", ""))
    if not 1 <= len(subject) <= 100 or not subject.isascii() or any(ord(char) < 32 for char in subject):
        yield f"Subject {subject[:120]!r}: 1 to 100 printable ASCII characters"
    if not message or len(message.encode()) > MAX_ASYNC_PAYLOAD:
        yield f"Message of {len(message.encode())} bytes: 1 to {MAX_ASYNC_PAYLOAD}"


def _overrides(arguments: Json) -> Iterator[str]:
    for item in arguments.get("EnvironmentVariablesOverride", []):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", item.get("Name", "")) or item.get("Name", "").startswith("CODEBUILD_"):
            yield f"variable name {item.get('Name')!r}"


TRAIN, PROCESS = ("CreateTrainingJob",), ("CreateProcessingJob",)
RULES = (
    Rule(
        "train-required",
        TRAIN,
        "the model marks them optional, the service does not [SageMaker API reference]",
        _required(
            "AlgorithmSpecification.TrainingImage",
            "AlgorithmSpecification.TrainingInputMode",
            "ResourceConfig.InstanceType",
            "ResourceConfig.InstanceCount",
            "StoppingCondition.MaxRuntimeInSeconds",
            "OutputDataConfig.S3OutputPath",
        ),
    ),
    Rule(
        "nvme-no-key",
        TRAIN + PROCESS,
        "NVMe types take no VolumeKmsKeyId: their disks are encrypted by hardware [SageMaker, ResourceConfig]",
        _nvme_key,
    ),
    Rule("spot", TRAIN, "spot needs MaxWait >= MaxRuntime, checkpoints, no warm pool, no plan [SageMaker, managed spot training]", _spot),
    Rule("plan", TRAIN, "a training plan's job keeps no warm pool [SageMaker, training plans]", _plan),
    Rule("no-secret", TRAIN + PROCESS, "environments are readable by everyone who may describe a job", _no_secret("Environment")),
    Rule(
        "no-secret-hyperparameter", TRAIN, "hyperparameters are readable by everyone who may describe a job", _no_secret("HyperParameters")
    ),
    Rule(
        "no-secret-build",
        ("StartBuild",),
        "overrides are readable by everyone who may describe a build",
        _no_secret("EnvironmentVariablesOverride"),
    ),
    Rule("channels", TRAIN, "channel names are folders; FastFile takes S3Prefix only [SageMaker, Channel]", _channels),
    Rule("checkpoint-path", TRAIN, "SageMaker's own folders cannot hold checkpoints [SageMaker, checkpoints]", _checkpoint),
    Rule(
        "train-digest",
        TRAIN,
        "an image runs by digest, in the job's own registry (DESIGN.md)",
        _digest("AlgorithmSpecification.TrainingImage"),
    ),
    Rule("process-digest", PROCESS, "an image runs by digest, in the job's own registry (DESIGN.md)", _digest("AppSpecification.ImageUri")),
    Rule("isolation", TRAIN, "training needs no network (DESIGN.md)", _isolated),
    Rule("train-encrypted", TRAIN, "outputs carry the project's key", _encrypted("OutputDataConfig.KmsKeyId")),
    Rule("tags", TRAIN + PROCESS, "tag keys are unique and not aws:", _tags),
    Rule("metric-regex", TRAIN, "a metric's expression compiles and has one group [SageMaker, metric definitions]", _metrics),
    Rule(
        "processing-inputs", PROCESS, "File or Pipe, below /opt/ml/processing, one folder each [SageMaker, processing]", _processing_inputs
    ),
    Rule("processing-type", PROCESS, "p5 and its kin are no processing types", _processing_type),
    Rule("payload", ("Invoke",), "a Lambda task's payload is at most 256 KiB [Step Functions quotas]", _payload),
    Rule("message", ("Publish",), "SNS: subject of 1-100 printable ASCII characters, message up to 256 KiB [SNS API reference]", _subject),
    Rule("overrides", ("StartBuild",), "CODEBUILD_ names are reserved [CodeBuild user guide]", _overrides),
)
