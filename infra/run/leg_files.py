"""What a leg's attempts left in S3, joined: whole checkpoints, metrics, the result. The only module that knows how.

Every attempt writes a folder of its own (infra/run/layout.py). Admit and Triage choose the checkpoint to go on from here,
Monitor what may be deleted, the report and the command line which metrics, result and export are the leg's.
"""

from __future__ import annotations

import datetime
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.checkpoint_manifest import CheckpointManifest, DamagedManifest, parse_manifest
from contracts.config import Json
from contracts.files import (
    ATTEMPTS,
    CHECKPOINT_MANIFEST,
    CHECKPOINTS,
    DIAGNOSTICS,
    EXPORT,
    EXPORT_MANIFEST,
    METRICS,
    METRICS_FILE,
    RESULT_FILE,
)
from infra.run.expected import COUNT, TEXT, fitting
from infra.run.layout import RUNS_PREFIX, RunLayout, attempt_order
from infra.run.stored import Unreadable, read_bytes, read_json

_READ_OF_RESULT = {"steps": COUNT, "export": {"files": COUNT, "bytes": COUNT, "manifest_sha256": TEXT, "dtype": TEXT}}
"""What Admit, Triage and `pretrain export` take from result.json."""
_PROFILER_FILE = re.compile(rf"{RUNS_PREFIX}[^/]+/([^/]+)/{ATTEMPTS}/([^/]+)/{DIAGNOSTICS}/([^/]+)")
_STEP_FILE = re.compile(r"step-(\d+)/([^/]+)")


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One object of a checkpoint."""

    bytes: int
    """Its size."""
    written: datetime.datetime
    """LastModified."""


@dataclass(frozen=True, kw_only=True)
class ProfilerFile:
    """One file that torch's profiler left."""

    leg: str
    attempt: str
    """Name of the attempt's folder."""
    name: str
    key: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class StepFolder:
    """A checkpoint, or what there is of one."""

    attempt: str
    """Folder of the attempt, as a key prefix."""
    step: int
    files: Mapping[str, StoredFile]
    """By name."""

    @property
    def prefix(self) -> str:
        """Its folder, as a key prefix."""
        return f"{self.attempt}{CHECKPOINTS}/step-{self.step}/"

    @property
    def written(self) -> datetime.datetime:
        """When its newest file was."""
        return max(file.written for file in self.files.values())

    @property
    def age_order(self) -> tuple[tuple[str, int], int]:
        """Older checkpoints sort first: by attempt, then by step. An attempt that had to go back further counts as newer."""
        return attempt_order(self.attempt), self.step


def attempt_folders(s3: Any, bucket: str, layout: RunLayout, leg: str) -> list[str]:
    """Key prefixes of a leg's attempts, oldest first."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=layout.attempts_prefix(leg), Delimiter="/")
    return sorted((item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])), key=attempt_order)


def step_folders(s3: Any, bucket: str, attempt: str) -> list[StepFolder]:
    """What lies in an attempt's folder of checkpoints, whole or not, oldest first."""
    prefix = f"{attempt}{CHECKPOINTS}/"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return folders_of((item for page in pages for item in page.get("Contents", [])), attempt)


def folders_of(objects: Iterable[Json], attempt: str) -> list[StepFolder]:
    """Step folders among the ``objects`` of a listing."""
    prefix = f"{attempt}{CHECKPOINTS}/"
    steps: dict[int, dict[str, StoredFile]] = defaultdict(dict)
    for item in objects:
        match = _STEP_FILE.fullmatch(str(item["Key"]).removeprefix(prefix))
        if match is not None:
            steps[int(match[1])][match[2]] = StoredFile(bytes=item["Size"], written=item["LastModified"])
    return [StepFolder(attempt=attempt, step=step, files=files) for step, files in sorted(steps.items())]


def manifest_of(s3: Any, bucket: str, folder: StepFolder) -> CheckpointManifest | None:
    """The manifest of a checkpoint that is whole: it is there, and so is every file that it lists, with its size. Else None."""
    if CHECKPOINT_MANIFEST not in folder.files:
        return None
    try:
        manifest = parse_manifest(read_bytes(s3, bucket, folder.prefix + CHECKPOINT_MANIFEST) or b"")
    except DamagedManifest:
        return None
    lacking = manifest.missing({name: file.bytes for name, file in folder.files.items()})
    return manifest if lacking is None and manifest.step == folder.step else None


def whole_checkpoints(s3: Any, bucket: str, layout: RunLayout, leg: str) -> Iterator[StepFolder]:
    """A leg's whole checkpoints, the newest attempt's newest first. Reads only as far as it is asked."""
    for attempt in reversed(attempt_folders(s3, bucket, layout, leg)):
        for folder in reversed(step_folders(s3, bucket, attempt)):
            if manifest_of(s3, bucket, folder) is not None:
                yield folder


def profiler_files(s3: Any, bucket: str, prefixes: Iterable[str]) -> list[ProfilerFile]:
    """What torch's profiler left below key prefixes: those of attempts, or of a whole run."""
    found = []
    for prefix in prefixes:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                match = _PROFILER_FILE.fullmatch(str(item["Key"]))
                if match is not None:
                    leg, attempt, name = match.groups()
                    found.append(ProfilerFile(leg=leg, attempt=attempt, name=name, key=str(item["Key"]), bytes=int(item["Size"])))
    return found


def diagnostics_prefix(attempt: str) -> str:
    """Folder of what torch's profiler left of an attempt."""
    return f"{attempt}{DIAGNOSTICS}/"


def metrics_keys(attempts: Iterable[str]) -> list[str]:
    """The metrics files of attempts, in the same order. Of a step that is in several, the last one's line counts."""
    return [f"{attempt}{METRICS}/{METRICS_FILE}" for attempt in attempts]


def result_key(attempt: str) -> str:
    """The result of an attempt."""
    return f"{attempt}{METRICS}/{RESULT_FILE}"


def newest_result(s3: Any, bucket: str, attempts: Iterable[str]) -> tuple[str, Json] | None:
    """The newest attempt that reached its last step, and its result.json; None while there is none."""
    for attempt in sorted(attempts, key=attempt_order, reverse=True):
        result = result_of(s3, bucket, attempt)
        if result is not None:
            return attempt, result
    return None


def result_of(s3: Any, bucket: str, attempt: str) -> Json | None:
    """result.json of an attempt, or None when it has none that can be read."""
    try:
        return fitting(read_json(s3, bucket, result_key(attempt)), _READ_OF_RESULT, []) or None
    except Unreadable:
        return None


def finished_result(s3: Any, bucket: str, attempt: str) -> Json | None:
    """result.json of an attempt that left it and the whole export that it names: whatever ended it came after the last step. Else None."""
    result = result_of(s3, bucket, attempt)
    export = (result or {}).get("export")
    if not isinstance(export, dict):
        return result  # training.export.enabled is false
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{attempt}{EXPORT}/")
    sizes = {item["Key"].rpartition("/")[2]: item["Size"] for page in pages for item in page.get("Contents", [])}
    weights = [size for name, size in sizes.items() if name.endswith(".safetensors")]
    # Headers come on top of the weights' bytes, so a file that lacks its end is shorter than they are.
    whole = len(weights) == export.get("files") and sum(weights) >= export.get("bytes", 0)
    return result if whole and (EXPORT_MANIFEST in sizes or export.get("manifest_sha256") is None) else None


@dataclass(frozen=True, kw_only=True)
class ExportFolder:
    """A leg's exported model, or where it would lie."""

    prefix: str
    """Its folder, as a key prefix."""
    manifest_sha256: str | None
    """Of its manifest.json, by result.json; None where the model was exported before there were manifests."""


def export_of(s3: Any, bucket: str, layout: RunLayout, leg: str) -> ExportFolder | None:
    """A leg's exported model: that of the newest attempt that reached its last step."""
    found = newest_result(s3, bucket, attempt_folders(s3, bucket, layout, leg))
    if found is None:
        return None
    attempt, result = found
    exported = result.get("export")
    return ExportFolder(
        prefix=f"{attempt}{EXPORT}/", manifest_sha256=exported.get("manifest_sha256") if isinstance(exported, dict) else None
    )
