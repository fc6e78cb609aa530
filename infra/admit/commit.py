"""Commit: take the run's lock, write run.json, hand the plan to the state machine. Reached only when no check has a problem."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from contracts.config import Json, deeper_than, to_json
from contracts.mixture import mixture_fingerprint
from infra.admit.gather import Clients, Facts
from infra.admit.plan import Planner
from infra.run import run_lock
from infra.run.deployment import Deployment
from infra.run.job_requests import hub_references, preparations
from infra.run.layout import RunLayout, corpus_prefix, uri
from infra.run.mixing import leg_samples
from infra.run.run_jobs import UNDER_WAY, run_jobs
from infra.run.run_record import Change, ExecutionRecord, write_record
from infra.run.run_spec import MAX_DEPTH, RunSpec, as_input

IMPORT_TIME = datetime.timedelta(hours=1)
"""FSx imports what is new in S3 by itself, a while later, and says nowhere that it is done: a run sooner than this reads from S3."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """The execution that asks."""

    arn: str
    name: str
    started: str
    """ISO 8601."""
    started_by: str | None = None
    """Who, as far as the input says."""

    @property
    def region(self) -> str:
        """Region, from the ARN."""
        return self.arn.split(":")[3]


def own(layout: RunLayout, execution: Execution, bucket: str, clients: Clients) -> None:
    """Take the run's lock: not while another execution is active, nor while one of the run's jobs can still write."""

    def busy() -> str | None:
        jobs = run_jobs(clients.sagemaker, bucket, layout.run_id, now=0.0, statuses=UNDER_WAY)
        return jobs[0].name if jobs else None

    run_lock.acquire(clients.s3, clients.states, bucket, layout, execution.arn, busy=busy)


def is_own(run: Json | None, execution: Execution) -> bool:
    """Whether this very execution wrote run.json."""
    return run is not None and (run.get("admitted") or {}).get("execution_arn") == execution.arn


def record_of(
    value: object,
    layout: RunLayout,
    execution: Execution,
    outcome: Literal["admitted", "refused", "skipped"],
    *,
    reasons: Sequence[str] = (),
    started_by: str | None = None,
    changes: Sequence[Change] = (),
) -> ExecutionRecord:
    """The execution's record; ``value`` is the resolved input, or the input as it was given where it could not be resolved."""
    settings = as_input(value) if isinstance(value, RunSpec) else _as_given(value)
    return ExecutionRecord(
        execution_arn=execution.arn,
        run_id=layout.run_id,
        started=execution.started,
        started_by=execution.started_by,
        outcome=outcome,
        reasons=tuple(reasons),
        settings=settings,
        changes=tuple(to_json(change) for change in changes),
    )


def _as_given(value: object) -> Json:
    """An input that could not be resolved; {} where it is no object, or nested deeper than any input."""
    return value if isinstance(value, dict) and not deeper_than(value, MAX_DEPTH) else {}


def commit(facts: Facts, layout: RunLayout, execution: Execution, deployment: Deployment, clients: Clients) -> Json:
    """The plan. Committing again for the same execution writes the same and changes nothing.

    The record comes before run.json: what changed is known only as long as the settings before are there.

    Raises:
        RunIsActive, RunIsStopping, DamagedLock: see run_lock.acquire.
    """
    spec, sets, image = facts.spec, facts.data_sets, facts.image
    if not sets or image is None or facts.quotas is None:
        raise ValueError("commit needs facts that are complete and that check has passed")
    own(layout, execution, deployment.bucket, clients)
    sources = tuple(one.tokens(deployment.bucket) for one in sets)
    tokens = {"fingerprint": mixture_fingerprint(sources), "uri": sources[0].uri}
    admitted = {
        "execution_arn": execution.arn,
        "time": execution.started,
        "estimate": facts.costs.as_value(),
        "quotas": [quota.row(facts.region) for quota in facts.quotas],
        **({"sources": {one.name: one.admitted() for one in sets}} if spec.data.sources else {"source": sets[0].admitted()}),
    }
    legs = [leg_samples(leg.name, leg.training, spec.compute.instance_count) for leg in spec.legs]
    named = tokens | ({"sources": to_json(sources), "legs": to_json(legs)} if spec.data.sources else {})
    content = as_input(spec) | {"run_id": layout.run_id, "tokens": named, "image": {"tag": deployment.image_tag}, "admitted": admitted}
    if corpora := {one.name: one.identified.corpus for one in sets if one.identified.corpus and one.written is None}:
        content["corpora"] = {
            name: {"fingerprint": fingerprint, "uri": uri(deployment.bucket, corpus_prefix(fingerprint))}
            for name, fingerprint in corpora.items()
        }
    if facts.starts:
        content["initial"] = {leg: start.record for leg, start in facts.starts.items()}
    copies = facts.evaluation_data.copies
    if copies is not None:
        content["evaluation_data"] = to_json(copies)
    body = json.dumps(content, indent=1).encode()
    if facts.earlier is None or not is_own(facts.earlier.previous, execution):  # else Admit is tried again after it had written run.json
        changes = facts.earlier.changes(spec) if facts.earlier is not None else ()
        write_record(clients.s3, deployment.bucket, record_of(spec, layout, execution, "admitted", changes=changes))
    clients.s3.put_object(Bucket=deployment.bucket, Key=layout.run_json, Body=body, ContentType="application/json")
    checkpoints = facts.earlier.checkpoints if facts.earlier is not None else {}
    planner = Planner(
        spec=spec,
        layout=layout,
        deployment=deployment,
        price=clients.price,
        execution_arn=execution.arn,
        execution_started=execution.started,
        tokens=sources,
        source_bytes=sum(one.identified.listing.total_bytes for one in sets),
        imported=all(one.written is not None and datetime.datetime.now(datetime.UTC) - one.written > IMPORT_TIME for one in sets),
        token=bool(facts.token) and bool(hub_references(spec)),
        copies_uri=copies.uri if copies is not None else None,
    )
    evaluate = {} if spec.evaluation is None else {"evaluate": planner.evaluate()}
    return {
        "run_id": layout.run_id,
        "run_uri": uri(deployment.bucket, layout.prefix),
        "recipe": spec.recipe,
        "admitted": admitted,
        "image": image,
        "tokens": tokens | {"exist": facts.prepared},
        "preparations": [planner.preparation(job) for job in preparations(spec, cleaned=facts.cleaned, prepared=facts.prepared)],
        "train": planner.train(),
        **evaluate,
        "legs": [
            planner.leg(
                leg,
                cost,
                checkpoints.get(leg.name),
                facts.starts.get(leg.name),
                finished=facts.finished.get(leg.name),
                evaluated=leg.name in facts.evaluated,
            )
            for leg, cost in zip(spec.legs, facts.costs.legs, strict=True)
        ],
    }
