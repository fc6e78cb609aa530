"""`pretrain export`: a run's model in a folder of its own, whole or not at all.

Files come under temporary names and get their own when all of them are there and verified. EXPORT_FILE, in the same folder, says
whose model it is and holds each file's SHA-256 and S3's ETag: what lies there already is recognised by content, never by size.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.config import Json
from infra.cli.exits import CommandError, Exit
from infra.cli.target import Target

EXPORT_FILE = "pretrain-export.json"
PART = ".part"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The model that is fetched."""

    run_id: str
    leg: str
    prefix: str
    """Its folder in the bucket."""

    @property
    def name(self) -> str:
        """The model in a sentence."""
        return f"leg {self.leg} of run {self.run_id}"


def fetch_model(target: Target, source: Source, folder: Path) -> list[Path]:
    """Every file of the model into ``folder``; [] when there is none. An interrupted fetch goes on where it ended.

    Raises:
        CommandError: the folder holds something else, or a file arrived damaged.
    """
    wanted = _listed(target, source, folder)
    if not wanted:
        return []
    before = _claimed(folder, source)
    known: dict[str, Json] = before.get("files", {})
    files: dict[str, Json] = {}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, source, {**known}, whole=False)
    for name, item in wanted.items():
        final, part = folder / name, folder / (name + PART)
        there = known.get(name)
        if there is not None and there["etag"] == item["ETag"]:
            lies = next((path for path in (part, final) if _sha256(path) == there["sha256"]), None)
            if lies is not None:
                files[name] = there
                if lies == final:
                    part.unlink(missing_ok=True)
                continue
        part.parent.mkdir(parents=True, exist_ok=True)
        target.client("s3").download_file(target.bucket, item["Key"], str(part))
        if part.stat().st_size != item["Size"]:
            raise CommandError(f"{part} has {part.stat().st_size} bytes of {item['Size']}; give the command again", Exit.FAILED)
        files[name] = {"etag": item["ETag"], "sha256": _sha256(part), "bytes": item["Size"]}
        _write(folder, source, {**known, **files}, whole=False)
    for name in known.keys() - wanted.keys():  # the run's older model had it
        (folder / name).unlink(missing_ok=True)
    for name in wanted:
        if (folder / (name + PART)).exists():
            (folder / (name + PART)).replace(folder / name)
    _write(folder, source, files, whole=True)
    return [folder / name for name in wanted]


def _listed(target: Target, source: Source, folder: Path) -> dict[str, Json]:
    """Objects of the model by their names in the folder; a name that leads out of it is passed over."""
    pages = target.client("s3").get_paginator("list_objects_v2").paginate(Bucket=target.bucket, Prefix=source.prefix)
    found: dict[str, Json] = {}
    for item in (item for page in pages for item in page.get("Contents", [])):
        name = str(item["Key"])[len(source.prefix) :]
        if name and not name.endswith("/") and (folder / name).resolve().is_relative_to(folder.resolve()):
            found[name] = item
    return found


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
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CommandError(f"{folder / EXPORT_FILE} cannot be read, so whose model lies there is not known; {fix}") from None
    if owner != (source.run_id, source.leg):
        raise CommandError(f"{folder} holds the model of leg {owner[1]} of run {owner[0]}, not of {source.name}; {fix}")
    return {"files": files}


def _write(folder: Path, source: Source, files: dict[str, Json], *, whole: bool) -> None:
    content: dict[str, Any] = {"run_id": source.run_id, "leg": source.leg, "prefix": source.prefix, "whole": whole, "files": files}
    temporary = folder / (EXPORT_FILE + PART)
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(folder / EXPORT_FILE)


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
