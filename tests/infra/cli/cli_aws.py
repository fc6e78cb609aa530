"""A deployment in memory: the calls that the command line makes, over plain values."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from io import BytesIO
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError
from botocore.session import get_session

from infra.settings import Settings

ATTEMPT = "attempts/20260921T140000-aaaaaa-1/"
MACHINE = "arn:aws:states:us-west-2:111122223333:stateMachine:pretrain"
BEGAN = dt.datetime(2026, 9, 21, 14, 0, 0, tzinfo=dt.UTC)


class NoSuchKey(ClientError):
    pass


class Pages:
    def __init__(self, pages: list[dict[str, Any]]) -> None:
        self.pages = pages

    def paginate(self, *, statusFilter: str | None = None, **arguments: Any) -> list[dict[str, Any]]:
        return [{"executions": [one for one in page["executions"] if statusFilter in (None, one["status"])]} for page in self.pages]


class S3:
    class exceptions:
        NoSuchKey, ClientError = NoSuchKey, ClientError

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.ranges: list[str] = []

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, **rest: Any) -> None:
        self.objects[Key] = Body

    def get_object(self, *, Bucket: str, Key: str, Range: str | None = None) -> dict[str, Any]:
        if Key not in self.objects:
            raise NoSuchKey({"Error": {"Code": "NoSuchKey", "Message": "no such key"}}, "GetObject")
        body = self.objects[Key]
        if Range:
            self.ranges.append(Range)
            first, _, last = Range.removeprefix("bytes=").partition("-")
            body = body[int(first) : int(last) + 1 if last else None]
            if not body:
                raise ClientError({"Error": {"Code": "InvalidRange", "Message": "nothing there"}}, "GetObject")
        return {"Body": BytesIO(body)}

    def get_paginator(self, name: str) -> Any:
        objects = self.objects

        class Listing:
            def paginate(self, *, Bucket: str, Prefix: str, Delimiter: str = "") -> list[dict[str, Any]]:
                if Delimiter:
                    folders = {Prefix + key.removeprefix(Prefix).split("/")[0] + "/" for key in objects if key.startswith(Prefix)}
                    return [{"CommonPrefixes": [{"Prefix": folder} for folder in sorted(folders)]}]
                return [
                    {
                        "Contents": [
                            {"Key": k, "Size": len(v), "ETag": hashlib.md5(v).hexdigest(), "LastModified": BEGAN}
                            for k, v in objects.items()
                            if k.startswith(Prefix)
                        ]
                    }
                ]

        return Listing()

    def list_objects_v2(self, *, Bucket: str, Prefix: str, **rest: Any) -> dict[str, Any]:
        return {"KeyCount": sum(key.startswith(Prefix) for key in self.objects)}

    def download_fileobj(self, bucket: str, key: str, stream: Any) -> None:
        stream.write(self.objects[key])


class States:
    def __init__(self) -> None:
        self.executions: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.stopped: list[str] = []

    def add(self, name: str, status: str = "RUNNING", events: list[dict[str, Any]] | None = None, **fields: Any) -> str:
        arn = MACHINE.replace("stateMachine", "execution") + f":{name}"
        start = BEGAN + dt.timedelta(minutes=len(self.executions))
        self.executions[arn] = {"executionArn": arn, "name": name, "status": status, "startDate": start, "input": "{}", **fields}
        self.events[arn] = events or []
        return arn

    def describe_execution(self, *, executionArn: str) -> dict[str, Any]:
        if executionArn not in self.executions:
            raise ClientError({"Error": {"Code": "ExecutionDoesNotExist", "Message": "no"}}, "DescribeExecution")
        return self.executions[executionArn]

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> dict[str, Any]:
        return {"executionArn": self.add(name, input=input)}

    def stop_execution(self, *, executionArn: str, error: str, cause: str) -> None:
        self.stopped.append(executionArn)
        self.executions[executionArn] |= {"status": "ABORTED", "cause": cause}

    def get_execution_history(self, *, executionArn: str, **rest: Any) -> dict[str, Any]:
        return {"events": self.events[executionArn]}

    def get_paginator(self, name: str) -> Any:
        if name == "list_executions":
            return Pages([{"executions": list(self.executions.values())}])
        events = self.events

        class History:
            def paginate(self, *, executionArn: str, **rest: Any) -> list[dict[str, Any]]:
                return [{"events": events[executionArn]}]

        return History()


class Denied:
    """A service that this person's role may not read; what boto3 itself knows of SageMaker it says without a call."""

    meta = SimpleNamespace(service_model=get_session().get_service_model("sagemaker"))

    def __init__(self, code: str = "AccessDeniedException") -> None:
        self._code = code

    def __getattr__(self, operation: str) -> Any:
        def refuse(*arguments: Any, **options: Any) -> None:
            raise ClientError({"Error": {"Code": self._code, "Message": "no"}}, operation)

        return refuse


class Deployed:
    """Stands for infra.cli.target.Target."""

    def __init__(self, *, embedded: bool = False, default_recipe: str = "local", **clients: Any) -> None:
        self.s3, self.states = S3({}), States()
        self.clients = {"s3": self.s3, "stepfunctions": self.states, **clients}
        self.embedded, self.region, self.bucket, self.state_machine = embedded, "us-west-2", "bucket", MACHINE
        self.endpoint = None
        self.settings = Settings(default_recipe=default_recipe)

    def gone(self) -> str | None:
        return None

    def renewed(self) -> Any:
        return None

    def client(self, service: str) -> Any:
        return self.clients.get(service) or Denied()

    def output(self, key: str) -> str:
        return {"BuildProjectName": "build", "RepositoryUri": "1.dkr/images", "SecretArn": "arn:secret"}[key]

    @property
    def outputs(self) -> dict[str, str]:
        return {"BucketName": self.bucket}


def entered(state: str, second: float) -> dict[str, Any]:
    """A history event."""
    when = BEGAN + dt.timedelta(seconds=second)
    return {"type": "TaskStateEntered", "timestamp": when, "stateEnteredEventDetails": {"name": state}}


def put_run(aws: Deployed, run: dict[str, Any], lines: dict[str, list[str]]) -> None:
    """run.json and metrics in S3."""
    aws.s3.objects[f"runs/{run['run_id']}/run.json"] = json.dumps(run).encode()
    for leg, text in lines.items():
        aws.s3.objects[f"runs/{run['run_id']}/{leg}/{ATTEMPT}metrics/metrics.jsonl"] = ("\n".join(text) + "\n").encode()
