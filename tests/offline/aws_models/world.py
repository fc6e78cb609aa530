"""A small AWS in memory, behind real boto3 clients: botocore validates and serialises each call, this module answers.

It serves the functions' own code while the interpreter runs the machine, and keeps every call with the role that made
it: the permission matrix is built from these calls, not from a hand-written list.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

import boto3
from botocore.config import Config
from botocore.response import StreamingBody

from aws_models.arguments import check_api
from aws_models.asl import START
from contracts.checkpoint_manifest import CheckpointFile, CheckpointManifest, manifest_bytes

Json = Any


@dataclass(frozen=True)
class ApiCall:
    """One API call of the project's own code."""

    role: str
    """ARN of the role that the code ran under."""
    service: str
    operation: str
    parameters: Json = field(hash=False)


class ApiError(Exception):
    """An error response."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        self.code, self.message, self.status = code, message, status
        super().__init__(code)


@dataclass
class World:
    """What exists in the account. Scenarios change it before and while a run goes on."""

    region: str = "us-east-1"
    objects: dict[tuple[str, str], bytes] = field(default_factory=dict)
    written: dict[tuple[str, str], datetime] = field(default_factory=dict)
    """When an object was written, where that is not now."""
    image_tags: dict[str, str] = field(default_factory=dict)
    """Image tag -> digest."""
    quotas: dict[str, float] = field(default_factory=dict)
    """Applied quotas by name."""
    default_quotas: dict[str, float] = field(default_factory=dict)
    """Quotas that were never raised."""
    secret_set: bool = True
    """Whether the secret has a value."""
    plans: dict[str, Json] = field(default_factory=dict)
    """Training plans by name."""
    jobs: dict[str, Json] = field(default_factory=dict)
    """Training and processing jobs by name, as DescribeTrainingJob and DescribeProcessingJob give them."""
    logs: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Lines by log group and stream."""
    stack_status: str = "UPDATE_IN_PROGRESS"
    """Of every stack."""
    ended: dict[str, Json] = field(default_factory=dict)
    """Executions that ended, by ARN: as DescribeExecution gives them, with their ``events``."""
    models: dict[str, list[Json]] = field(default_factory=dict)
    """Model package groups by name: the requests that made their versions."""
    under_way: dict[str, float] = field(default_factory=dict)
    """Jobs whose creator got no answer, by name: until when they run, in seconds since the execution's start."""
    polled: set[str] = field(default_factory=set)
    """Training jobs whose status was asked for by the machine itself."""
    running: set[str] = field(default_factory=set)
    """ARNs of running executions."""
    refuse: Callable[[ApiCall], ApiError | None] = lambda call: None
    """Injected errors."""
    calls: list[ApiCall] = field(default_factory=list)
    missing: list[ApiCall] = field(default_factory=list)
    """Reads that were answered with 404: S3 says so only to callers that may list the bucket."""
    wrong: list[str] = field(default_factory=list)
    """What the service models say against calls that were made."""
    role: str = ""
    now: float = 0.0
    """Seconds since the execution's start."""

    @contextlib.contextmanager
    def acting_as(self, role: str) -> Iterator[None]:
        """Calls inside are this role's."""
        before, self.role = self.role, role
        try:
            yield
        finally:
            self.role = before

    def time(self, seconds: float = 0.0) -> datetime:
        """The world's time."""
        return START + timedelta(seconds=self.now + seconds)

    def client(self, service: str, **_: Any) -> Any:
        """Stands in for boto3.client. Clients are made once and serve the world that was asked last."""
        _serving[0] = self
        return _client(service, self.region)

    def _remember(self, service: str, params: Json, model: Any) -> None:
        call = ApiCall(self.role, service, model.name, dict(params))
        self.calls.append(call)
        self.wrong.extend(check_api(service, model.name, params))

    def _answer(self) -> tuple[Any, Json]:
        call = self.calls[-1]
        try:
            error = self.refuse(call)
            if error is not None:
                raise error
            parsed = getattr(self, f"_{call.service.replace('-', '_')}_{call.operation}")(**call.parameters)
            status = 200
        except ApiError as error:
            parsed, status = {"Error": {"Code": error.code, "Message": error.message}}, error.status
            if status == 404:
                self.missing.append(call)
        return SimpleNamespace(status_code=status), parsed | {"ResponseMetadata": {"HTTPStatusCode": status}}

    # -- S3 ----------------------------------------------------------------------------------------------

    def put(self, bucket: str, key: str, body: bytes | str) -> None:
        """Put an object without a call."""
        self.objects[bucket, key] = body.encode() if isinstance(body, str) else body

    def put_checkpoint(self, bucket: str, attempt: str, step: int, of: Json | None = None) -> list[str]:
        """A whole checkpoint in an attempt's folder, without a call; its keys. ``of``: what it is a checkpoint of."""
        prefix, names = f"{attempt}checkpoints/step-{step}/", ("__0_0.distcp", ".metadata", "checksums.json")
        files = tuple(CheckpointFile(name=name, bytes=1, checksum="0" * 32) for name in names)
        manifest = CheckpointManifest(format_version=1, step=step, world_size=1, leg=of or {}, files=files)
        for name in names:
            self.put(bucket, prefix + name, "x")
        self.put(bucket, f"{prefix}manifest.json", manifest_bytes(manifest))
        return [prefix + name for name in (*names, "manifest.json")]

    def _object(self, bucket: str, key: str, code: str) -> bytes:
        if (bucket, key) not in self.objects:
            raise ApiError(code, "The specified key does not exist.", 404)
        return self.objects[bucket, key]

    def _s3_HeadObject(self, Bucket: str, Key: str, **_: Any) -> Json:
        body = self._object(Bucket, Key, "404")
        return {"ContentLength": len(body), "ETag": _etag(body), "LastModified": self.written.get((Bucket, Key), self.time())}

    def _s3_GetObject(self, Bucket: str, Key: str, Range: str = "", **_: Any) -> Json:
        body = self._object(Bucket, Key, "NoSuchKey")
        if (span := re.fullmatch(r"bytes=(\d+)-(\d+)", Range)) is not None:
            body = body[int(span[1]) : int(span[2]) + 1]
        return {"ContentLength": len(body), "ETag": _etag(body), "Body": StreamingBody(io.BytesIO(body), len(body))}

    def _s3_PutObject(self, Bucket: str, Key: str, Body: bytes, IfNoneMatch: str = "", IfMatch: str = "", **_: Any) -> Json:
        there = self.objects.get((Bucket, Key))
        if (IfNoneMatch and there is not None) or (IfMatch and (there is None or _etag(there) != IfMatch)):
            raise ApiError("PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412)
        self.objects[Bucket, Key] = Body
        return {"ETag": _etag(Body)}

    def _s3_ListObjectsV2(self, Bucket: str, Prefix: str = "", Delimiter: str = "", **_: Any) -> Json:
        if Delimiter:
            inside = (key[len(Prefix) :] for bucket, key in self.objects if bucket == Bucket and key.startswith(Prefix))
            folders = sorted({Prefix + name.partition(Delimiter)[0] + Delimiter for name in inside if Delimiter in name})
            return {"CommonPrefixes": [{"Prefix": folder} for folder in folders], "KeyCount": len(folders), "IsTruncated": False}
        found = sorted((key, body) for (bucket, key), body in self.objects.items() if bucket == Bucket and key.startswith(Prefix))
        contents = [
            {"Key": key, "Size": len(body), "ETag": _etag(body), "LastModified": self.written.get((Bucket, key), self.time())}
            for key, body in found
        ]
        return (
            {"Contents": contents, "KeyCount": len(contents), "IsTruncated": False} if contents else {"KeyCount": 0, "IsTruncated": False}
        )

    def _s3_DeleteObjects(self, Bucket: str, Delete: Json, **_: Any) -> Json:
        for item in Delete["Objects"]:
            self.objects.pop((Bucket, item["Key"]), None)
        return {}

    # -- the other services ------------------------------------------------------------------------------

    def _ecr_DescribeImages(self, repositoryName: str, imageIds: list[Json], **_: Any) -> Json:
        missing = [image["imageTag"] for image in imageIds if image["imageTag"] not in self.image_tags]
        if missing:
            raise ApiError("ImageNotFoundException", f"no image {missing}")
        return {
            "imageDetails": [{"imageDigest": self.image_tags[image["imageTag"]], "imageTags": [image["imageTag"]]} for image in imageIds]
        }

    def _service_quotas_ListServiceQuotas(self, **_: Any) -> Json:
        return {"Quotas": [{"QuotaName": name, "QuotaCode": "L-00000000", "Value": value} for name, value in self.quotas.items()]}

    def _service_quotas_ListAWSDefaultServiceQuotas(self, **_: Any) -> Json:
        return {"Quotas": [{"QuotaName": name, "QuotaCode": "L-00000000", "Value": value} for name, value in self.default_quotas.items()]}

    def _pricing_GetProducts(self, **_: Any) -> Json:
        return {"PriceList": [], "FormatVersion": "aws_v1"}

    def _sagemaker_ListTrainingJobs(self, StatusEquals: str = "", WarmPoolStatusEquals: str = "", NameContains: str = "", **_: Any) -> Json:
        named = {name: job for name, job in self.jobs.items() if "TrainingJobStatus" in job and NameContains in name}
        found = [name for name, job in named.items() if not StatusEquals or job["TrainingJobStatus"] == StatusEquals]
        if WarmPoolStatusEquals:
            found = [name for name in found if named[name].get("WarmPoolStatus", {}).get("Status") == WarmPoolStatusEquals]
        return {"TrainingJobSummaries": [{"TrainingJobName": name} for name in found]}

    def _sagemaker_DescribeTrainingPlan(self, TrainingPlanName: str) -> Json:
        if TrainingPlanName not in self.plans:
            raise ApiError("ResourceNotFound", "Requested resource not found.")
        return self.plans[TrainingPlanName]

    def _cloudwatch_PutMetricData(self, **_: Any) -> Json:
        return {}

    def _sagemaker_ListProcessingJobs(self, StatusEquals: str = "", NameContains: str = "", **_: Any) -> Json:
        named = {
            name: job["ProcessingJobStatus"] for name, job in self.jobs.items() if "ProcessingJobStatus" in job and NameContains in name
        }
        names = [name for name, status in named.items() if not StatusEquals or status == StatusEquals]
        return {"ProcessingJobSummaries": [{"ProcessingJobName": name} for name in names]}

    def _sagemaker_DescribeTrainingJob(self, TrainingJobName: str) -> Json:
        return self._job(TrainingJobName)

    def _sagemaker_UpdateTrainingJob(self, TrainingJobName: str, ResourceConfig: Json) -> Json:
        job = self._job(TrainingJobName)
        job["ResourceConfig"] = {**job["ResourceConfig"], **ResourceConfig}
        return {"TrainingJobArn": job["TrainingJobArn"]}

    def _sagemaker_DescribeProcessingJob(self, ProcessingJobName: str) -> Json:
        return self._job(ProcessingJobName)

    def _sagemaker_StopTrainingJob(self, TrainingJobName: str) -> Json:
        self._job(TrainingJobName)
        return {}

    def _sagemaker_StopProcessingJob(self, ProcessingJobName: str) -> Json:
        self._job(ProcessingJobName)
        return {}

    def _job(self, name: str) -> Json:
        if name not in self.jobs:
            raise ApiError("ValidationException", "Requested resource not found.")
        if self.now >= self.under_way.get(name, 0.0):
            return self.jobs[name]
        return {key: "InProgress" if key.endswith("JobStatus") else value for key, value in self.jobs[name].items() if "EndTime" not in key}

    def _sagemaker_DescribeModelPackageGroup(self, ModelPackageGroupName: str) -> Json:
        if ModelPackageGroupName not in self.models:
            raise ApiError("ValidationException", f"ModelPackageGroup {ModelPackageGroupName} does not exist.")
        return {"ModelPackageGroupName": ModelPackageGroupName}

    def _sagemaker_CreateModelPackageGroup(self, ModelPackageGroupName: str, **_: Any) -> Json:
        self.models[ModelPackageGroupName] = []
        return {"ModelPackageGroupArn": f"arn:aws:sagemaker:us-east-1:111111111111:model-package-group/{ModelPackageGroupName}"}

    def _sagemaker_ListModelPackages(self, ModelPackageGroupName: str, **_: Any) -> Json:
        keys = ("ModelPackageArn", "ModelPackageDescription")
        return {"ModelPackageSummaryList": [{key: one[key] for key in keys} for one in self.models[ModelPackageGroupName]]}

    def _sagemaker_CreateModelPackage(self, ModelPackageGroupName: str, **request: Any) -> Json:
        versions = self.models[ModelPackageGroupName]
        arn = f"arn:aws:sagemaker:us-east-1:111111111111:model-package/{ModelPackageGroupName}/{len(versions) + 1}"
        versions.append(request | {"ModelPackageArn": arn})
        return {"ModelPackageArn": arn}

    def _logs_DescribeLogStreams(self, logGroupName: str, logStreamNamePrefix: str = "", **_: Any) -> Json:
        streams = [stream for group, stream in self.logs if group == logGroupName and stream.startswith(logStreamNamePrefix)]
        if not any(group == logGroupName for group, _ in self.logs):
            raise ApiError("ResourceNotFoundException", "The specified log group does not exist.")
        return {"logStreams": [{"logStreamName": stream} for stream in streams]}

    def _logs_GetLogEvents(self, logGroupName: str, logStreamName: str, **_: Any) -> Json:
        if (logGroupName, logStreamName) not in self.logs:
            raise ApiError("ResourceNotFoundException", "The specified log stream does not exist.")
        return {"events": [{"message": line, "timestamp": 0} for line in self.logs[logGroupName, logStreamName]]}

    def _logs_PutRetentionPolicy(self, logGroupName: str, **_: Any) -> Json:
        if logGroupName.endswith("ProcessingJobs"):  # no processing job has run yet
            raise ApiError("ResourceNotFoundException", "The specified log group does not exist.")
        return {}

    def _secretsmanager_DescribeSecret(self, SecretId: str) -> Json:
        return {"ARN": SecretId, "VersionIdsToStages": {"1": ["AWSCURRENT"]} if self.secret_set else {}}

    def _secretsmanager_GetSecretValue(self, SecretId: str) -> Json:
        return {"ARN": SecretId, "SecretString": "0123456789abcdef" * 2}

    def _cloudformation_DescribeStacks(self, StackName: str) -> Json:
        return {"Stacks": [{"StackName": StackName.split("/")[1], "CreationTime": START, "StackStatus": self.stack_status}]}

    def _lambda_Invoke(self, **_: Any) -> Json:
        return {"StatusCode": 202}

    def _events_PutEvents(self, Entries: list[Json], **_: Any) -> Json:
        return {"FailedEntryCount": 0, "Entries": [{"EventId": str(number)} for number, _ in enumerate(Entries)]}

    def _sns_Publish(self, **_: Any) -> Json:
        return {"MessageId": "00000000-0000-0000-0000-000000000000"}

    def _stepfunctions_GetExecutionHistory(self, executionArn: str, reverseOrder: bool = False, maxResults: int = 100, **_: Any) -> Json:
        events = self.ended[executionArn]["events"]
        return {"events": (events[::-1] if reverseOrder else events)[:maxResults]}

    def _stepfunctions_DescribeExecution(self, executionArn: str) -> Json:
        if executionArn in self.ended:
            return {key: value for key, value in self.ended[executionArn].items() if key != "events"}
        return {"executionArn": executionArn, "status": "RUNNING" if executionArn in self.running else "SUCCEEDED"}


_serving: list[World] = [World()]
"""The one world that the clients answer from."""


@lru_cache(maxsize=1)
def _session() -> boto3.session.Session:
    """One session, so that service models are read once."""
    return boto3.session.Session(aws_access_key_id="offline", aws_secret_access_key="offline")


@cache
def _client(service: str, region: str) -> Any:
    """A real client whose calls never leave the process (making one takes 50 ms)."""
    client = _session().client(service, region_name=region, config=Config(retries={"max_attempts": 1}), endpoint_url="http://127.0.0.1:9")
    events = client.meta.events
    events.register_first("provide-client-params.*.*", lambda params, model, **_: _serving[0]._remember(service, params, model))
    events.register_first("before-call.*.*", lambda **_: _serving[0]._answer())
    return client


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'
