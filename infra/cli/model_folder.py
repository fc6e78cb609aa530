"""`pretrain export`: a run's model in a folder of its own, whole or not at all.

Files come under temporary names and get their own when all of them are there and verified: each is hashed while it arrives, and compared
with the SHA-256 that the training job wrote into manifest.json. EXPORT_FILE, in the same folder, says whose model it is and holds each
file's SHA-256 and S3's ETag: what lies there already is recognised by content, never by size.
The evaluation's results.json comes along, and its numbers end the model card, README.md: the job that wrote the card did not know them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from boto3.s3.transfer import S3TransferRetriesExceededError

from contracts.checkpoint_manifest import DamagedManifest
from contracts.config import Json
from contracts.export_manifest import ExportedFile, parse_manifest
from contracts.files import EVALUATION, EVALUATION_RESULTS, EXPORT, EXPORT_MANIFEST
from infra.cli.exits import CommandError, Exit
from infra.cli.target import Target
from infra.report.evaluation import card_section
from infra.run.layout import uri
from infra.run.leg_files import ExportFolder
from infra.run.stored import read_bytes

EXPORT_FILE = "pretrain-export.json"
PART = ".part"
CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The model that is fetched."""

    run_id: str
    leg: str
    folder: ExportFolder
    """Where it lies in the bucket."""

    @property
    def name(self) -> str:
        """The model in a sentence."""
        return f"leg {self.leg} of run {self.run_id}"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What lies in the folder now."""

    files: list[Path]
    """The model's, and what its run left beside them."""
    verified: bool
    """Whether the training job's own checksums were compared; a model of before there were some has none."""


def fetch_model(target: Target, source: Source, folder: Path) -> Model | None:
    """Every file of the model into ``folder``; None when there is none. An interrupted fetch goes on where it ended.

    Raises:
        CommandError: the folder holds something else, the model has not arrived whole in S3, or a file is damaged.
    """
    wanted = _listed(target, source, folder)
    if not wanted:
        return None
    written = _written(target, source, wanted)
    before = _claimed(folder, source)
    known: dict[str, Json] = before.get("files", {})
    files: dict[str, Json] = {}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, source, {**known}, whole=False)
    for name, item in wanted.items():
        final, part = folder / name, folder / (name + PART)
        there, expected = known.get(name), (written or {}).get(name)
        if there is not None and there["etag"] == item["ETag"] and expected in (None, there["sha256"]):
            lies = next((path for path in (part, final) if _sha256(path) == there["sha256"]), None)
            if lies is not None:
                files[name] = there
                if lies == final:
                    part.unlink(missing_ok=True)
                continue
        part.parent.mkdir(parents=True, exist_ok=True)
        files[name] = {"etag": item["ETag"], "sha256": _fetch(target, item, part, expected), "bytes": item["Size"]}
        _write(folder, source, {**known, **files}, whole=False)
    for name in known.keys() - wanted.keys():  # the run's older model had it
        (folder / name).unlink(missing_ok=True)
    for name in wanted:
        if (folder / (name + PART)).exists():
            (folder / (name + PART)).replace(folder / name)
    _write(folder, source, files, whole=True)
    if CARD in wanted and EVALUATION_RESULTS in wanted:  # EXPORT_FILE knows it as it was written: each export fetches and ends it anew
        _end_card(folder / CARD, folder / EVALUATION_RESULTS)
    return Model(files=[folder / name for name in wanted], verified=written is not None)


def _fetch(target: Target, item: Json, part: Path, expected: str | None) -> str:
    """One object into ``part``; its SHA-256."""
    place = uri(target.bucket, item["Key"])
    with part.open("wb") as stream:
        hashed = _Hashed(stream)
        try:
            target.client("s3").download_fileobj(target.bucket, item["Key"], hashed)
        except S3TransferRetriesExceededError as error:
            why = f"the connection broke off while {place} was fetched ({error.last_exception}); give the command again, it goes on there"
            raise CommandError(why, Exit.UNREACHABLE) from error
    if hashed.bytes != item["Size"]:
        raise CommandError(f"{part} has {hashed.bytes} bytes of {item['Size']}; give the command again", Exit.FAILED)
    found = hashed.digest.hexdigest()
    if expected is not None and found != expected:
        part.unlink()
        raise CommandError(
            f"{place} is not what the training job wrote: its SHA-256 begins with {found[:12]}, not {expected[:12]}; give the command "
            "again, and if it says the same, restore the object's version before (the bucket keeps versions)"
        )
    return found


class _Hashed:
    """A file that is written front to back, and hashed on the way. It has no seek, so the parts that boto3 gets at once come in order."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest, self.bytes = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """The next bytes."""
        self.digest.update(data)
        self.bytes += len(data)
        return self.stream.write(data)


def _written(target: Target, source: Source, there: dict[str, Json]) -> dict[str, str] | None:
    """SHA-256 of every file of the model by the training job's manifest; None for a model that was exported before there were manifests.

    Raises:
        CommandError: the manifest is lost or damaged, or a file that it lists is not there, or not of its size.
    """
    place = uri(target.bucket, source.folder.prefix)
    body = read_bytes(target.client("s3"), target.bucket, source.folder.prefix + EXPORT_MANIFEST)
    fix = "restore its version before (the bucket keeps versions)"
    if body is None and source.folder.manifest_sha256 is None:
        return None
    if body is None:
        raise CommandError(f"{place}{EXPORT_MANIFEST} is missing, so the model has not arrived whole, or was deleted; {fix}")
    if source.folder.manifest_sha256 not in (None, hashlib.sha256(body).hexdigest()):
        raise CommandError(f"{place}{EXPORT_MANIFEST} is not what the training job wrote (result.json has another SHA-256 of it); {fix}")
    try:
        manifest = parse_manifest(body)
    except DamagedManifest as error:
        raise CommandError(f"{place}{EXPORT_MANIFEST} cannot be used: {error}; {fix}") from None
    wrong = next((words for file in manifest.files if (words := _misses(file, there)) is not None), None)
    if wrong is not None:
        raise CommandError(f"{place}{wrong}, so the model has not arrived whole, or was changed; {fix}")
    own = {EXPORT_MANIFEST: hashlib.sha256(body).hexdigest()}
    return own | {file.name: file.sha256 for file in manifest.files}


def _misses(file: ExportedFile, there: dict[str, Json]) -> str | None:
    """What is wrong with a file by the bucket's listing, in words."""
    if file.name not in there:
        return f"{file.name} is missing"
    size = there[file.name]["Size"]
    return None if size == file.bytes else f"{file.name} has {size} bytes of {file.bytes}"


def _listed(target: Target, source: Source, folder: Path) -> dict[str, Json]:
    """Objects of the model by their names in the folder, and the evaluation's results; a name that leads out of it is passed over."""
    found: dict[str, Json] = {}
    for item in _objects(target, source.folder.prefix):
        name = str(item["Key"])[len(source.folder.prefix) :]
        if name and not name.endswith("/") and (folder / name).resolve().is_relative_to(folder.resolve()):
            found[name] = item
    results = _results(target, source) if found else None
    if results is None:
        return found
    return found | {EVALUATION_RESULTS: results}


def _results(target: Target, source: Source) -> Json | None:
    """What evaluations of this very export measured; None before there is one."""
    key = f"{source.folder.prefix.removesuffix(f'{EXPORT}/')}{EVALUATION}/{EVALUATION_RESULTS}"
    return next((item for item in _objects(target, key) if item["Key"] == key), None)


def _objects(target: Target, prefix: str) -> Iterator[Json]:
    pages = target.client("s3").get_paginator("list_objects_v2").paginate(Bucket=target.bucket, Prefix=prefix)
    return (item for page in pages for item in page.get("Contents", []))


def _end_card(card: Path, results: Path) -> None:
    """Add the evaluation's numbers to the model card; results that cannot be read add nothing."""
    try:
        section = card_section(json.loads(results.read_text()))
    except (ValueError, RecursionError):
        section = ""
    with card.open("a") as file:
        file.write(section)


def _claimed(folder: Path, source: Source) -> Json:
    """What EXPORT_FILE says; {} for a folder that is new or empty.

    Raises:
        CommandError: the folder holds another model, or something that is none.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return {}
    fix = "choose another folder, or empty this one"
    try:
        found = json.loads((folder / EXPORT_FILE).read_text())
        owner = (str(found["run_id"]), str(found["leg"]))
        files = {str(name): {key: file[key] for key in ("etag", "sha256", "bytes")} for name, file in found["files"].items()}
    except FileNotFoundError:
        raise CommandError(f"{folder} holds files that are no model of pretrain export ({EXPORT_FILE} is missing); {fix}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CommandError(f"{folder / EXPORT_FILE} cannot be read, so whose model lies there is not known; {fix}") from None
    if owner != (source.run_id, source.leg):
        raise CommandError(f"{folder} holds the model of leg {owner[1]} of run {owner[0]}, not of {source.name}; {fix}")
    return {"files": files}


def _write(folder: Path, source: Source, files: dict[str, Json], *, whole: bool) -> None:
    content: dict[str, Any] = {"run_id": source.run_id, "leg": source.leg, "prefix": source.folder.prefix, "whole": whole, "files": files}
    temporary = folder / (EXPORT_FILE + PART)
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(folder / EXPORT_FILE)


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
