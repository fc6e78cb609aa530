"""`pretrain clean`: what costs storage, what of it can go without loss, and its deletion.

Two things can go: checkpoints older than their leg's newest whole one, and token sets that no run's settings name. The newest whole
checkpoint, exports, metrics and reports stay, and so does everything of a run that is active. The bucket is versioned: what is
deleted can be brought back until its versions expire (Foundation's lifecycle rules).
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from contracts.config import Json
from contracts.files import ATTEMPTS, CHECKPOINTS, EXPORT
from infra.cli.exits import CommandError, Exit
from infra.cli.find_run import describe, executions, run_of
from infra.cli.target import Target
from infra.monitor.prune_checkpoints import Pruned, delete_checkpoint
from infra.run.layout import RUNS_PREFIX, TOKENS_PREFIX, RunLayout, index_key, tokens_prefix, uri
from infra.run.leg_files import StepFolder, folders_of, manifest_of
from infra.run.run_jobs import UNDER_WAY, run_jobs
from infra.run.stored import read_bytes

USD_PER_GB_MONTH = 0.023
"""S3 Standard, first 50 TB, us-east-1 and us-west-2 (S3's price page, 2026-11-22); Intelligent-Tiering costs less after 30 days."""
ADMISSION = dt.timedelta(minutes=10)
"""An execution as young as this may have found tokens that its run.json does not name yet: Admit has three minutes, seven tries."""
BATCH = 1000


@dataclass(kw_only=True)
class Stored:
    """What a run or a token set holds."""

    name: str
    kinds: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Bytes of checkpoints, exports and the rest; of a token set its bytes as ``tokens``."""
    can_go: int = 0
    """Bytes that can go without loss."""
    active: bool = False

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.kinds.values())


@dataclass(kw_only=True)
class Inventory:
    """Everything in the data bucket, and what of it can go."""

    runs: dict[str, Stored] = field(default_factory=dict)
    tokens: dict[str, Stored] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Bytes of the bucket's other folders, which are only shown: texts that people uploaded, and what AWS's services left."""
    checkpoints: list[tuple[str, StepFolder]] = field(default_factory=list)
    """Run and checkpoint of those that can go."""
    token_sets: list[str] = field(default_factory=list)
    """Fingerprints of those that can go."""
    kept_tokens: str | None = None
    """Why no token set can go now."""

    @property
    def can_go(self) -> int:
        """Bytes that can go."""
        return sum(one.can_go for one in (*self.runs.values(), *self.tokens.values()))


def usd_a_month(size: int) -> float:
    """Dollars that so many bytes cost in a month, at most."""
    return size / 1e9 * USD_PER_GB_MONTH


def look(target: Target, now: dt.datetime) -> Inventory:
    """List the bucket and say what can go."""
    s3, bucket, found = target.client("s3"), target.bucket, Inventory()
    active, young = _running(target, now)
    legs: dict[str, dict[str, list[Json]]] = defaultdict(lambda: defaultdict(list))
    for item in _objects(s3, bucket, ""):
        parts = item["Key"].split("/")
        if len(parts) > 2 and f"{parts[0]}/" == TOKENS_PREFIX:
            found.tokens.setdefault(parts[1], Stored(name=parts[1])).kinds["tokens"] += item["Size"]
        elif len(parts) > 2 and f"{parts[0]}/" == RUNS_PREFIX:
            run = found.runs.setdefault(parts[1], Stored(name=parts[1], active=parts[1] in active))
            kind = parts[5] if len(parts) > 6 and parts[3] == ATTEMPTS and parts[5] in (CHECKPOINTS, EXPORT) else "other"
            run.kinds[kind] += item["Size"]
            if kind == CHECKPOINTS:
                legs["/".join(parts[:3]) + "/"]["/".join(parts[:5]) + "/"].append(item)
        else:
            found.others[parts[0]] += item["Size"]
    for leg, attempts in legs.items():
        run = found.runs[leg.split("/")[1]]
        if not run.active:
            for folder in _older(s3, bucket, [f for attempt, objects in attempts.items() for f in folders_of(objects, attempt)]):
                found.checkpoints.append((run.name, folder))
                run.can_go += _size(folder)
    found.kept_tokens = f"run {young} has just started and may use any of them" if young else None
    named = _named_tokens(s3, bucket, found)
    for name, tokens in found.tokens.items():
        if name not in named and not young:
            found.token_sets.append(name)
            tokens.can_go = tokens.bytes
    return found


def delete(target: Target, found: Inventory, now: dt.datetime) -> int:
    """Delete what can go, but what has become active or named meanwhile; returns the bytes.

    Raises:
        CommandError: S3 refused some of it.
    """
    s3, bucket, gone, pruned = target.client("s3"), target.bucket, 0, Pruned()
    active, young = _running(target, now)
    busy = {run: run in active or bool(_jobs(target, run)) for run in {run for run, _ in found.checkpoints}}
    for run, folder in found.checkpoints:
        if not busy[run]:
            before = len(pruned.deleted)
            delete_checkpoint(s3, bucket, folder, pruned)
            gone += _size(folder) * (len(pruned.deleted) - before)
    named = _named_tokens(s3, bucket, found)
    for name in found.token_sets:
        if name not in named and not young:
            gone += _delete_tokens(s3, bucket, name, pruned)
    if pruned.errors:
        raise CommandError(f"{gone / 1e9:,.2f} GB were deleted; {'; '.join(pruned.errors)}", Exit.FAILED)
    return gone


def _older(s3: Any, bucket: str, folders: list[StepFolder]) -> Iterator[StepFolder]:
    """Those of a leg's checkpoints that are older than its newest whole one."""
    ordered = sorted(folders, key=lambda folder: folder.age_order)
    newest = next((folder for folder in reversed(ordered) if manifest_of(s3, bucket, folder) is not None), None)
    if newest is not None:
        yield from (folder for folder in ordered if folder.age_order < newest.age_order)


def _running(target: Target, now: dt.datetime) -> tuple[set[str], str | None]:
    """Runs of the running executions, and one of them that Admit may still be looking at."""
    runs, young = set(), None
    for execution in executions(target, status="RUNNING"):
        described = describe(target, str(execution["executionArn"]))
        if described is not None:
            runs.add(run_of(described))
            if now - described["startDate"] < ADMISSION:
                young = run_of(described)
    return runs, young


def _jobs(target: Target, run: str) -> list[Any]:
    """The run's jobs that may still write: a stopped execution's job has minutes for its last checkpoint."""
    return run_jobs(target.client("sagemaker"), target.bucket, run, 0.0, statuses=UNDER_WAY)


def _named_tokens(s3: Any, bucket: str, found: Inventory) -> set[str]:
    """Token sets that some run.json names, wherever in it. A damaged one names what its text holds."""
    texts = [(read_bytes(s3, bucket, RunLayout(run).run_json) or b"").decode(errors="replace") for run in found.runs]
    return {name for name in found.tokens if any(name in text for text in texts)}


def _delete_tokens(s3: Any, bucket: str, name: str, pruned: Pruned) -> int:
    """Delete a token set, its index first: without it the set counts as not made. While the index cannot go, all of it stays."""
    prefix, size = tokens_prefix(name), 0
    items = list(_objects(s3, bucket, prefix))
    index = [item for item in items if item["Key"] == index_key(name)]
    others = [item for item in items if item not in index]
    for batch in filter(None, [index, *(others[start : start + BATCH] for start in range(0, len(others), BATCH))]):
        keys = [{"Key": item["Key"]} for item in batch]
        errors = (s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True}) or {}).get("Errors") or []
        size += sum(int(item["Size"]) for item in batch) if not errors else 0
        if errors:
            pruned.errors.append(f"{uri(bucket, prefix)}: S3 kept {errors[0].get('Key')}: {errors[0].get('Code')}")
            break
    return size


def _objects(s3: Any, bucket: str, prefix: str) -> Iterator[Json]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", [])


def _size(folder: StepFolder) -> int:
    return sum(file.bytes for file in folder.files.values())


def as_value(found: Inventory) -> Json:
    """The inventory for scripts."""

    def row(one: Stored) -> Json:
        sizes = {**one.kinds, "bytes": one.bytes, "can_go_bytes": one.can_go}
        return {"name": one.name, **sizes, "usd_a_month": round(usd_a_month(one.bytes), 4), "active": one.active}

    total = sum(one.bytes for one in (*found.runs.values(), *found.tokens.values())) + sum(found.others.values())
    return {
        "runs": [row(one) for one in found.runs.values()],
        "tokens": [row(one) for one in found.tokens.values()],
        "others": dict(found.others),
        "bytes": total,
        "usd_a_month": round(usd_a_month(total), 4),
        "can_go_bytes": found.can_go,
        "can_go_usd_a_month": round(usd_a_month(found.can_go), 4),
    }


def show(found: Inventory, console: Console) -> None:
    """Runs and token sets, the largest first."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("run or tokens", overflow="fold")
    for title in ("checkpoints", "exports", "other", "USD/month", "can go"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in sorted((*found.runs.values(), *found.tokens.values()), key=lambda one: -one.bytes):
        tokens = one.name in found.tokens and "tokens" in one.kinds
        parts = ["", "", _gb(one.bytes)] if tokens else [_gb(one.kinds.get(kind, 0)) for kind in (CHECKPOINTS, EXPORT, "other")]
        goes = "active" if one.active else _gb(one.can_go) if one.can_go else "-"
        name = f"{TOKENS_PREFIX}{one.name}" if tokens else one.name
        table.add_row(Text(name), *parts, f"{usd_a_month(one.bytes):,.2f}", goes)
    for name, size in sorted(found.others.items(), key=lambda item: -item[1]):
        table.add_row(Text(f"{name}/"), "", "", _gb(size), f"{usd_a_month(size):,.2f}", "-")
    console.print(table)
    if found.kept_tokens:
        console.print(f"No tokens can go now: {found.kept_tokens}.", highlight=False, soft_wrap=True)


def question(found: Inventory) -> str:
    """What would be deleted."""
    what = (
        f"{len(found.checkpoints):,} checkpoints older than their leg's newest whole one and {len(found.token_sets):,} token sets of no run"
    )
    return f"Delete {what}: {_gb(found.can_go)}, ${usd_a_month(found.can_go):,.2f} a month?"


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 10_000_000 else f"{size / 1e6:,.2f} MB"
