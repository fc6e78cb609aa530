"""One record for each execution of a run, written by Admit: runs/<run>/executions/<execution>.json.

run.json holds the settings that jobs use; a refused execution never changes it. What an execution asked for, what differed from
the settings before, and whether it was admitted stand here, for as long as the run's folder lives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from contracts.config import Json, SpecError, parse, to_json
from infra.run.layout import RunLayout
from infra.run.stored import Unreadable, read_json


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting that an execution changed."""

    path: str
    """Dotted path in the input."""
    old: Any
    """In run.json before."""
    new: Any
    """In this execution."""

    def __str__(self) -> str:
        return f"{self.path} {shown(self.old)} -> {shown(self.new)}"


@dataclass(frozen=True, kw_only=True)
class ExecutionRecord:
    """One execution of a run."""

    execution_arn: str
    run_id: str
    started: str
    """ISO 8601."""
    outcome: Literal["admitted", "refused", "skipped"]
    """Admit's answer."""
    reasons: tuple[str, ...] = ()
    """Why it was refused or gave way."""
    started_by: str | None = None
    """Who started it, as far as the input says."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The resolved input; of one that could not be resolved, the input as it was given."""
    changes: tuple[dict[str, Any], ...] = ()
    """Settings that differ from the run's before: ``path``, ``old``, ``new``."""

    @property
    def execution(self) -> str:
        """The execution's name."""
        return self.execution_arn.rsplit(":", 1)[-1]


def write_record(s3: Any, bucket: str, record: ExecutionRecord) -> None:
    """Write the record; the same execution writes the same again."""
    key = RunLayout(record.run_id).execution_record(record.execution)
    body = json.dumps(to_json(record), indent=1).encode()
    s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")


def read_records(s3: Any, bucket: str, layout: RunLayout, unread: list[str] | None = None) -> list[ExecutionRecord]:
    """Records of a run, oldest first; one that cannot be read is left out and told in ``unread``."""
    found: list[ExecutionRecord] = []
    told: list[str] = [] if unread is None else unread
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=layout.executions_prefix):
        for item in page.get("Contents", []):
            name = str(item["Key"]).removeprefix(layout.executions_prefix)
            if "/" in name or not name.endswith(".json"):
                continue  # an execution's own report, or an attempt of a leg of this name
            try:
                found.append(_parsed(read_json(s3, bucket, item["Key"])))
            except Unreadable as error:
                told.append(f"{error}.")
            except (SpecError, ValueError) as error:
                told.append(f"s3://{bucket}/{item['Key']} does not read as an execution's record: {' '.join(str(error).split())[:200]}.")
    return sorted(found, key=lambda record: record.started)


def changed(before: Json, after: Json) -> tuple[Change, ...]:
    """Settings of ``after`` that differ from ``before``, in order of their paths; names and times of an execution are none."""
    old, new = dict(_flat(_settings(before))), dict(_flat(_settings(after)))
    return tuple(
        Change(path=path, old=old.get(path), new=new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    )


def shown(value: Any) -> str:
    """A setting's value in a sentence."""
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


SETTINGS = ("recipe", "data", "legs", "compute", "budget", "evaluation")


def _settings(run: Json) -> Json:
    """The settings of run.json or of a resolved input, its sources and legs by name."""
    found: Json = {key: run[key] for key in SETTINGS if key in run}
    data = found.get("data")
    if isinstance(data, dict) and data.get("sources"):
        found["data"] = data | {"sources": {str(source.get("name")): source for source in data["sources"]}}
    legs = found.pop("legs", None) or []
    single = len(legs) == 1
    for leg in legs:
        found |= {"training": leg.get("training", {})} if single else {f"legs.{leg.get('name')}.training": leg.get("training", {})}
    return found


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, item in value.items() for pair in _flat(item, f"{path}.{key}" if path else str(key))]
    return [(path, value)]


def _parsed(content: Json) -> ExecutionRecord:
    record = parse(ExecutionRecord, content)
    if not all(isinstance(change.get("path"), str) and {"old", "new"} <= change.keys() for change in record.changes):
        raise ValueError("changes: path, old and new are needed in each")
    return record
