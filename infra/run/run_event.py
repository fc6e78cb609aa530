"""What the deployment tells EventBridge of a run: one event for each transition, on the account's default bus.

    source "pretrain", detail-type "Pretrain Run State Change", detail a RunEvent; docs/events.md shows rules and the schema.

AWS sends events of its own for what SageMaker and CodeBuild do (a job started, a build ended); these are the transitions that only
the run knows. They are sent at least once, and a lost one fails no run. Pure.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, get_args

from contracts.config import Json, to_json
from contracts.config_schema import json_schema

SOURCE = "pretrain"
DETAIL_TYPE = "Pretrain Run State Change"
State = Literal["ADMITTED", "REFUSED", "GAVE_WAY", "RETRYING", "TRAINED", "FAILED", "STOPPED", "TIMED_OUT"]
STATES: tuple[str, ...] = get_args(State)
MAX_SENTENCE_BYTES = 8_000
"""An entry of PutEvents has 256 KiB, an SNS message too; a sentence with every problem of an input can be longer than people read."""


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """The detail of an event."""

    version: Literal[1] = 1
    """Version of this schema; fields may be added without a new one."""
    event_id: str
    """The same for every delivery of the same transition: drop what was seen before."""
    deployment: str
    """The deployment's name."""
    state: State
    """ADMITTED: jobs may follow. REFUSED: the input cannot work. GAVE_WAY: a schedule's earlier firing still runs. RETRYING: an attempt
    ended, another follows. TRAINED: every leg has. FAILED, STOPPED (by a person), TIMED_OUT: the execution ended without."""
    run_id: str
    """The run."""
    execution_arn: str
    """The execution; one run may have several."""
    time: str
    """When, ISO 8601 in UTC."""
    sentence: str
    """What happened, for people: a failure's sentence begins with its class."""
    started_by: str | None = None
    """Who started the execution, as far as its input says."""
    recipe: str | None = None
    """ADMITTED: the recipe."""
    estimate_usd: float | None = None
    """ADMITTED: Admit's estimate."""
    failure_class: str | None = None
    """RETRYING, REFUSED, FAILED: the class, as in docs/runbook.md."""
    stage: str | None = None
    """RETRYING: the stage."""
    leg: str | None = None
    """RETRYING in the stage Train: the leg."""
    attempt: int | None = None
    """RETRYING: the attempt that ended, counted from 1 in this execution."""
    usd: float | None = None
    """TRAINED: dollars of the run's jobs."""
    report: str | None = None
    """Once an admitted run has ended: S3 URI of report.html. Of STOPPED and TIMED_OUT it follows within ten minutes."""


def event_id(execution_arn: str, state: str, *more: object) -> str:
    """The same for the same transition."""
    return hashlib.sha256("/".join(map(str, (execution_arn, state, *more))).encode()).hexdigest()[:32]


def entry(event: RunEvent) -> Json:
    """The event as PutEvents takes it."""
    return {"Source": SOURCE, "DetailType": DETAIL_TYPE, "Resources": [event.execution_arn], "Detail": json.dumps(detail(event))}


def detail(event: RunEvent) -> Json:
    """The event's detail; what is not known is left out."""
    given = {key: value for key, value in to_json(event).items() if value is not None}
    given["sentence"] = str(given["sentence"]).encode(errors="replace")[:MAX_SENTENCE_BYTES].decode(errors="ignore")
    return given


def schema() -> Json:
    """JSON Schema of the detail, as ``python -m infra.run.run_event`` prints it. Further fields are allowed: an upgrade may add some."""
    return json_schema(RunEvent) | {"additionalProperties": True}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
