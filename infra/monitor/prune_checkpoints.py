"""Checkpoints that are no longer kept: ``training.checkpoint.keep_latest`` holds in S3 too, over all attempts of a leg.

A running job deletes its older checkpoints on its own disk, and SageMaker's sync deletes them in the job's own folder. What
ended attempts left, nobody else deletes; S3's lifecycle rules go by prefix, and checkpoints lie between a run's other files.
So the monitor looks once a day at every leg that has no active job.

Whole means: manifest.json is there, and every file that it lists, with its size. The newest whole checkpoint of a leg is never
deleted, nothing is deleted for a checkpoint's sake that is not whole, and what another leg begins from (training.initial) stays
until that leg has a whole checkpoint of its own.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from contracts.checkpoint_manifest import CheckpointManifest
from contracts.config import Json
from contracts.files import ATTEMPTS, CHECKPOINT_MANIFEST, CHECKPOINTS, RUN_FILE
from infra.run.expected import TEXT, Each, fitting
from infra.run.layout import RUNS_PREFIX, split_uri
from infra.run.leg_files import StepFolder, folders_of, manifest_of
from infra.run.stored import Unreadable, read_json

START_KEPT = datetime.timedelta(days=45)
"""After Admit a leg may wait for capacity, and its first job may run for 28 days, SageMaker's limit. A new execution renews run.json."""
_READ_OF_RUN = {"initial": Each({"kind": TEXT, "uri": TEXT})}
KEEP_LATEST = 3  # TrainingSpec's default, for a manifest that does not say


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What one round did."""

    deleted: list[str] = field(default_factory=list)
    """Prefixes of checkpoints that are gone. Their versions stay a while (Foundation)."""
    errors: list[str] = field(default_factory=list)
    """What S3 refused to delete: one sentence each."""


def prune_checkpoints(s3: Any, bucket: str, days: int | None, now: datetime.datetime, active: Collection[str]) -> Pruned:
    """Delete what is older than the newest ``keep_latest`` whole checkpoints of its leg, and, with ``days``, what is older than
    its leg's newest whole checkpoint and all of whose files are older than that. Legs in ``active`` (key prefixes,
    ``runs/<run>/<leg>/``) are left alone.
    """
    pruned = Pruned()
    legs, runs = _stored(s3, bucket)
    begun_from = _begun_from(s3, bucket, runs, legs, now)
    for leg, folders in legs.items():
        for folder in no_longer_kept(s3, bucket, folders, days, now) if leg not in active else ():
            if folder.prefix not in begun_from:
                delete_checkpoint(s3, bucket, folder, pruned)
    return pruned


def _begun_from(
    s3: Any, bucket: str, runs: Mapping[str, datetime.datetime], legs: Mapping[str, list[StepFolder]], now: datetime.datetime
) -> set[str]:
    """Prefixes of checkpoints that a leg of another run begins from and still needs. ``runs``: keys of run.json, and when written."""
    found = set()
    for key, written in runs.items():
        if now - written > START_KEPT:
            continue
        try:
            starts = fitting(read_json(s3, bucket, key), _READ_OF_RUN, []).get("initial") or {}
        except Unreadable:
            continue  # no job could read it either
        for leg, start in starts.items():
            own = legs.get(f"{key.removesuffix(RUN_FILE)}{leg}/", [])
            if (start or {}).get("kind") == "checkpoint" and all(manifest_of(s3, bucket, folder) is None for folder in own):
                found.add(split_uri(start["uri"])[1] if str(start.get("uri", "")).startswith("s3://") else "")
    return found


def no_longer_kept(s3: Any, bucket: str, folders: list[StepFolder], days: int | None, now: datetime.datetime) -> list[StepFolder]:
    """Those of a leg's ``folders``, oldest first, that may go."""
    found = ((folder, manifest_of(s3, bucket, folder)) for folder in reversed(folders))
    whole = ((folder, manifest) for folder, manifest in found if manifest is not None)
    newest = next(whole, None)
    if newest is None:
        return []
    older = list(islice(whole, _keep_latest(newest[1]) - 1))
    oldest_kept = older[-1][0] if len(older) == _keep_latest(newest[1]) - 1 else None

    def goes(folder: StepFolder) -> bool:
        if oldest_kept is not None and folder.age_order < oldest_kept.age_order:
            return True
        aged = days is not None and now - folder.written > datetime.timedelta(days=days)
        return aged and folder.age_order < newest[0].age_order

    return [folder for folder in folders if goes(folder)]


def _keep_latest(manifest: CheckpointManifest) -> int:
    checkpoint = (manifest.leg.get("training") or {}).get("checkpoint") or {}
    count = checkpoint.get("keep_latest")
    return count if isinstance(count, int) and count > 1 else KEEP_LATEST


def _stored(s3: Any, bucket: str) -> tuple[dict[str, list[StepFolder]], dict[str, datetime.datetime]]:
    """Leg's prefix -> its checkpoints, whole or not, oldest first; and run.json's key -> when it was written."""
    legs: dict[str, dict[str, list[Json]]] = defaultdict(lambda: defaultdict(list))
    runs: dict[str, datetime.datetime] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=RUNS_PREFIX):
        for item in page.get("Contents", []):
            parts = item["Key"].split("/")
            if len(parts) == 8 and (parts[3], parts[5]) == (ATTEMPTS, CHECKPOINTS):
                legs["/".join(parts[:3]) + "/"]["/".join(parts[:5]) + "/"].append(item)
            elif len(parts) == 3 and parts[2] == RUN_FILE:
                runs[item["Key"]] = item["LastModified"]
    found = {leg: [f for attempt, objects in attempts.items() for f in folders_of(objects, attempt)] for leg, attempts in legs.items()}
    return {leg: sorted(folders, key=lambda folder: folder.age_order) for leg, folders in found.items()}, runs


def delete_checkpoint(s3: Any, bucket: str, folder: StepFolder, pruned: Pruned) -> None:
    """Delete a checkpoint, its manifest first: a half-deleted one is none. When that cannot be deleted the rest stays."""
    others = sorted(folder.files.keys() - {CHECKPOINT_MANIFEST})
    first = [CHECKPOINT_MANIFEST] if CHECKPOINT_MANIFEST in folder.files else []
    batches = [first, *(others[start : start + 1000] for start in range(0, len(others), 1000))]  # what one call takes
    for names in filter(None, batches):
        keys = [{"Key": folder.prefix + name} for name in names]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True}) or {}
        errors = answer.get("Errors") or []
        if errors:
            one = errors[0]
            pruned.errors.append(
                f"{len(errors)} of {len(keys)} objects of {folder.prefix} could not be deleted: {one.get('Key')}: "
                f"{one.get('Code')} {one.get('Message', '')}".strip()
            )
            return
    pruned.deleted.append(folder.prefix)
