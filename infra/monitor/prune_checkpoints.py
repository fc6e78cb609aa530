"""Deletes old checkpoints by age, except the newest complete one of each leg, from which it could resume.

S3's own lifecycle rules go by prefix, and checkpoints lie between a run's other files, so the monitor does this once a day.
"""

from __future__ import annotations

import datetime
import re
from collections import defaultdict
from typing import Any

from contracts.files import CHECKPOINT_METADATA
from infra.run.layout import RUNS_PREFIX

_STEP = re.compile(r"(?P<leg>runs/[^/]+/[^/]+)/checkpoints/step-(?P<step>\d+)/(?P<file>.+)")


def prune_checkpoints(s3: Any, bucket: str, days: int, now: datetime.datetime) -> list[str]:
    """Delete checkpoints whose files are all older than ``days``; returns their prefixes. Deleted versions stay a while (Foundation)."""
    files: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    newest: dict[tuple[str, int], datetime.datetime] = {}
    whole: dict[str, int] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=RUNS_PREFIX):
        for item in page.get("Contents", []):
            match = _STEP.fullmatch(item["Key"])
            if match is None:
                continue
            leg, step = match["leg"], int(match["step"])
            files[leg][step].append(item["Key"])
            newest[leg, step] = max(newest.get((leg, step), item["LastModified"]), item["LastModified"])
            if match["file"] == CHECKPOINT_METADATA:
                whole[leg] = max(whole.get(leg, 0), step)
    deleted = []
    for leg, steps in files.items():
        for step, keys in sorted(steps.items()):
            if step < whole.get(leg, 0) and now - newest[leg, step] > datetime.timedelta(days=days):
                _delete(s3, bucket, keys)
                deleted.append(f"{leg}/checkpoints/step-{step}/")
    return deleted


def _delete(s3: Any, bucket: str, keys: list[str]) -> None:
    # The mark goes first, so that a half-deleted checkpoint is none.
    ordered = sorted(keys, key=lambda key: not key.endswith(f"/{CHECKPOINT_METADATA}"))
    for start in range(0, len(ordered), 1000):  # DeleteObjects takes 1,000
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in ordered[start : start + 1000]], "Quiet": True})
