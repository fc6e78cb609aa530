"""Synthetic runs for the report's tests, in the format that Admit, the training job and the state machine write."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from io import BytesIO
from typing import Any

from botocore.exceptions import ClientError

from contracts.checkpoint_manifest import CheckpointFile, CheckpointManifest, manifest_bytes
from contracts.metric_line import format_line
from infra.run.run_spec import as_input, resolve

ATTEMPT = "attempts/20260921T141320-aaaaaa-1/"
START = 1_790_000_000.0
WRITTEN = dt.datetime.fromtimestamp(START, dt.UTC)


def run_json(run_id: str = "evening", **given: Any) -> dict[str, Any]:
    """run.json as Admit writes it, from an execution's input."""
    spec = resolve({"run_id": run_id, **given}, default_recipe="local")
    return {
        **as_input(dataclasses.replace(spec, run_id=run_id)),
        "tokens": {"fingerprint": "f" * 32, "uri": f"s3://bucket/tokens/{'f' * 32}/"},
        "image": {"tag": "training-0123456789ab"},
        "admitted": {
            "execution_arn": "arn:aws:states:us-east-1:111122223333:execution:pretrain:evening",
            "time": "2026-09-21T14:13:20Z",
            "estimate": {"usd_per_hour": {"ml.c7i.large": 0.1, "ml.p5.48xlarge": 63.296}},
            "source": {"uri": "s3://bucket/source/botocore/", "objects": 3, "bytes": 12_345_678},
        },
    }


def metrics_lines(steps: int, every: int = 1, start: int = 1, at: float = START, speed: float = 9000.0, shift: float = 0.0) -> list[str]:
    """Lines of a smoothly falling loss; validation every tenth of the way, and a checkpoint whose seconds stand in the next line."""
    lines, saved = [], False
    for step in range(start, steps + 1):
        if step % every and step != 1:
            continue
        loss = 2.6 + shift + 6.0 * math.exp(-4 * step / steps) + 0.05 * math.sin(step * 1.7)
        values: dict[str, float | int | None] = {
            "loss": loss, "grad_norm": 1 + math.cos(step), "lr": 3e-4 * min(1, step / 20), "tokens": step * 4096,
            "tokens_per_second_per_device": speed * (0.5 if step <= 2 else 1) + math.sin(step) * 40, "mfu": 41.0 + math.sin(step),
            "step_seconds": 0.5, "data_wait_seconds": 0.004, "memory_gib": 61.5,
        }  # fmt: skip
        if saved:
            values["checkpoint_seconds"] = 1.5
        saved = step % max(1, steps // 10) == 0
        if saved:
            values["validation_loss"] = loss + 0.1
        lines.append(format_line(step, at + step * 0.5, values))
    return lines


def result_json(**changes: Any) -> dict[str, Any]:
    """result.json of a finished leg."""
    return {
        "steps": 150, "tokens": 614_400, "parameters": 5_000_000, "devices": 2, "device_name": "cpu", "loss_first": 8.4, "loss_last": 2.71,
        "validation_loss": 2.81, "unigram_entropy": 6.25, "tokens_per_second_per_device": 9001.0, "mfu": None, "memory_gib": 61.5,
        "sample": {"prompt": "The name of the", "text": " bucket that <b>holds</b> the object & its tags."},
        "environment": {"torch": "2.14.1", "torchtitan": "0.3.0"},
        "startup_seconds": {"checks": 3.0, "ranks": 9.5, "model": 2.0, "checkpoint": 0.1, "first_step": 75.0}, **changes,
    }  # fmt: skip


def training_job(name: str, seconds: float = 180.0, status: str = "Completed", **changes: Any) -> dict[str, Any]:
    """What DescribeTrainingJob says, with Step Functions' epoch milliseconds."""
    return {
        "TrainingJobName": name, "TrainingJobStatus": status,
        "TrainingStartTime": START * 1000, "TrainingEndTime": (START + seconds) * 1000,
        "BillableTimeInSeconds": seconds, "ResourceConfig": {"InstanceType": "ml.c7i.large", "InstanceCount": 1}, **changes,
    }  # fmt: skip


def event(run_id: str = "evening", **changes: Any) -> dict[str, Any]:
    """What the state machine hands to Report."""
    return {
        "run_id": run_id,
        "execution_arn": "arn:aws:states:us-east-1:111122223333:execution:pretrain:evening",
        "outcome": "succeeded",
        "started": "2026-09-21T14:13:20.000Z",
        "image": {"built": True, "build": {"Id": "build:1", "StartTime": START * 1000, "EndTime": (START + 9) * 1000}},
        "data": {"prepared": False},
        "legs": [{"name": "main", "attempts": [training_job("evening-main-1")]}],
        **changes,
    }


class FolderS3:
    """The S3 calls that the report makes, over a dictionary of keys."""

    class exceptions:
        from botocore.exceptions import ClientError
        from botocore.exceptions import ClientError as NoSuchKey

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": "no such key"}}, "GetObject")
        return {"Body": BytesIO(self.objects[Key])}

    def get_paginator(self, name: str) -> Any:
        objects = self.objects

        class Listing:
            @staticmethod
            def paginate(*, Bucket: str, Prefix: str, Delimiter: str = "") -> list[dict[str, Any]]:
                if not Delimiter:
                    found = [key for key in sorted(objects) if key.startswith(Prefix)]
                    return [{"Contents": [{"Key": key, "Size": len(objects[key]), "LastModified": WRITTEN} for key in found]}]
                folders = {Prefix + key.removeprefix(Prefix).split("/")[0] + "/" for key in objects if key.startswith(Prefix)}
                return [{"CommonPrefixes": [{"Prefix": folder} for folder in sorted(folders)]}]

        return Listing()

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:
        self.objects[Key] = Body


def put_checkpoint(s3: FolderS3, run_id: str, step: int, *, leg: str = "main", whole: bool = True) -> None:
    """A checkpoint of the leg's attempt; without its manifest it is not whole."""
    folder = f"runs/{run_id}/{leg}/{ATTEMPT}checkpoints/step-{step}/"
    names = ("0.distcp", ".metadata", "checksums.json")
    s3.objects |= {folder + name: b"x" * 1000 for name in names}
    if whole:
        files = tuple(CheckpointFile(name=name, bytes=1000, checksum="0" * 32) for name in names)
        s3.objects[f"{folder}manifest.json"] = manifest_bytes(
            CheckpointManifest(format_version=1, step=step, world_size=1, leg={}, files=files)
        )


def stored(run: dict[str, Any], legs: dict[str, tuple[list[str], dict[str, Any] | None]]) -> FolderS3:
    """S3 with run.json and each leg's metrics lines and result.json."""
    prefix = f"runs/{run['run_id']}/"
    objects = {prefix + "run.json": json.dumps(run).encode()}
    for name, (lines, result) in legs.items():
        objects[f"{prefix}{name}/{ATTEMPT}metrics/metrics.jsonl"] = "\n".join(lines).encode()
        if result is not None:
            objects[f"{prefix}{name}/{ATTEMPT}metrics/result.json"] = json.dumps(result).encode()
    return FolderS3(objects)
