"""Input of the report: the run's folder in S3, and the values that the state machine passes.

A report is also written when the run failed, so every part may be missing: no run.json (Admit refused),
no metrics (a job died early), no result.json (a leg did not finish). A part that is there and damaged costs no more than itself:
``RunFacts.unread`` says in one line each what could not be read.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.report.evaluation import EvaluationFacts, read_evaluation
from infra.report.reader import Reader
from infra.report.series import Row
from infra.report.stored_shapes import EVENT, EVENT_LEG, INDEX, JOB, RESULT, RUN
from infra.run.layout import RunLayout, index_key
from infra.run.leg_files import ProfilerFile, attempt_folders, metrics_keys, result_key
from infra.run.run_id import run_id_of
from infra.run.run_jobs import Kind, RunJob, run_jobs
from infra.run.run_lock import owner_of
from infra.run.run_record import ExecutionRecord
from infra.run.stored import plain

Json = dict[str, Any]
CHECKPOINTS_READ = 10
"""Of a leg: `training.checkpoint.keep_latest` keeps few, and each is a manifest to read."""
LAST_MOMENT = 1e11
"""The year 5138: what lies behind it is no time of a job."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One job, from DescribeTrainingJob or DescribeProcessingJob."""

    job_name: str
    """SageMaker's name of it."""
    status: str
    """TrainingJobStatus or ProcessingJobStatus."""
    started: float | None
    """TrainingStartTime or ProcessingStartTime, epoch seconds."""
    ended: float | None
    """TrainingEndTime or ProcessingEndTime, epoch seconds."""
    billable_seconds: float | None
    """BillableTimeInSeconds of one instance; the wall time of the job where SageMaker names none."""
    instance_type: str | None
    """Of ResourceConfig or ClusterConfig."""
    instance_count: int
    """Of ResourceConfig or ClusterConfig."""
    spot: bool
    """Managed spot training."""
    failure: str | None
    """FailureReason."""


@dataclass(frozen=True, kw_only=True)
class KeptCheckpoint:
    """A whole checkpoint."""

    step: int
    bytes: int
    """Its size in S3."""
    prefix: str
    """Its folder, as a key prefix."""


@dataclass(frozen=True, kw_only=True)
class LegFacts:
    """One leg: its settings, its files, and its jobs."""

    name: str
    training: Json
    """Its full TrainingSpec, from run.json."""
    folder: str = ""
    """Key prefix of the attempt that it ended in: the newest with a result, else the newest; "" before any has written."""
    trained: bool = False
    """The state machine saw its training job complete."""
    rows: tuple[Row, ...] = ()
    """Metrics lines of all attempts, in the order written; a resumed attempt repeats steps."""
    rows_logged: int = 0
    """Lines that were read; of very many, ``rows`` are a part that keeps the curves' shape."""
    bad_lines: int = 0
    """Lines that were skipped, because they are damaged."""
    result: Json = field(default_factory=dict)
    """result.json, or {} when the leg did not finish."""
    attempts: tuple[Attempt, ...] = ()
    checkpoints: tuple[KeptCheckpoint, ...] = ()
    """Whole checkpoints in S3, the newest first, ``CHECKPOINTS_READ`` at most."""
    evaluation: EvaluationFacts | None = None
    """Of its export; None when it was not evaluated."""
    profiles: tuple[ProfilerFile, ...] = ()
    """What torch's profiler left, the oldest attempt's first."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run as the report sees it."""

    run_id: str
    bucket: str
    region: str
    outcome: str
    """``succeeded``, ``failed``, ``refused`` (by Admit), ``stopped`` (by a person) or ``timed out``."""
    dashboard: str = ""
    """Name of the deployment's CloudWatch dashboard."""
    now: float
    """When the report was written, epoch seconds."""
    started: float | None = None
    """When the execution started, epoch seconds."""
    execution_arn: str | None = None
    run: Json = field(default_factory=dict)
    """run.json, or {} when Admit refused the input."""
    admitted: float | None = None
    """When Admit wrote run.json, its last step; epoch seconds."""
    read: float | None = None
    """When everything was read, epoch seconds."""
    image: Json = field(default_factory=dict)
    """``{"built": bool, "build": CodeBuild's Build}``."""
    data: Json = field(default_factory=dict)
    """``{"prepared": bool, "job": DescribeProcessingJob}``."""
    indexes: dict[str, Json] = field(default_factory=dict)
    """Each source's index.json of its token shards, or {}; without a mixture the name is empty."""
    legs: tuple[LegFacts, ...] = ()
    explanation: Json | None = None
    """Explain's output, on failure."""
    unread: tuple[str, ...] = ()
    """What is damaged and was left out, a sentence each."""
    owner: bool = True
    """Whether the execution owns the run; one that Admit refused does not, and reports under a folder of its own."""
    executions: tuple[ExecutionRecord, ...] = ()
    """The run's executions, oldest first."""
    jobs: tuple[RunJob, ...] = ()
    """Jobs of all its executions, oldest first."""

    @property
    def folder(self) -> str:
        """Folder of the report."""
        layout = RunLayout(self.run_id)
        return layout.prefix if self.owner else layout.execution_folder(str(self.execution_arn).rsplit(":", 1)[-1])


def read_run(
    event: Mapping[str, Any], *, bucket: str, region: str, s3: Any, now: float, dashboard: str = "", sagemaker: Any = None
) -> RunFacts:
    """RunFacts of the state machine's event.

    Args:
        event: ``run_id`` and, all optional, ``outcome``, ``started``, ``execution_arn``, ``image``, ``data``, ``legs``, ``explanation``,
            ``asked`` (run_id and schedule of the input, where Admit has not said whose run it is).
        bucket: the run's bucket.
        region: for console links and prices.
        s3: a boto3 S3 client.
        now: epoch seconds.
        dashboard: name of the deployment's dashboard, for its link.
        sagemaker: a boto3 SageMaker client, for the jobs of earlier executions; None: only the event's jobs count.
    """
    reader = Reader(s3, bucket)
    given = _event(event, reader)
    execution = given.get("execution_arn")
    refused = (given.get("explanation") or {}).get("stage") == "Admit"
    run_id = run_id_of(event.get("asked"), str(execution).rsplit(":", 1)[-1]) if refused and execution else str(given["run_id"])
    layout = RunLayout(run_id)
    owner = not (refused and execution) and owner_of(s3, bucket, layout) in (None, execution)
    run = reader.json(layout.run_json, RUN) if not refused else {}
    jobs = tuple(run_jobs(sagemaker, bucket, run_id, now)) if sagemaker is not None and not refused else ()
    ended = {leg["name"]: leg for leg in given["legs"]}
    for name in {*ended, *(job.leg for job in jobs if job.leg is not None)}:
        ended[name] = _with_jobs(ended.get(name, {"name": name}), jobs)
    planned = {leg["name"]: leg for leg in run.get("legs") or () if leg.get("name")}
    if not planned and not refused:
        reader.unread.append(f"s3://{bucket}/{layout.run_json} names no legs: the run's settings are not known.")
    planned |= {name: leg for name, leg in ended.items() if name not in planned}
    legs = tuple(_leg(leg, ended.get(name, {}), layout, reader, jobs) for name, leg in planned.items())
    executions = reader.records(layout)
    tokens = run.get("tokens") or {}
    named = [one for one in tokens.get("sources") or [tokens] if one.get("fingerprint")]
    indexes = {str(one.get("name") or ""): reader.json(index_key(one["fingerprint"]), INDEX) for one in named}
    return RunFacts(
        run_id=run_id,
        bucket=bucket,
        region=region,
        outcome=_outcome(given, refused),
        now=now,
        dashboard=dashboard,
        started=epoch_seconds(given.get("started") or (run.get("admitted") or {}).get("time")),
        execution_arn=execution,
        run=run,
        admitted=epoch_seconds(reader.written(layout.run_json)),
        image=given.get("image") or {},
        data=_data(given.get("data") or {}, jobs),
        indexes=indexes,
        legs=legs,
        explanation=given.get("explanation") or None,
        unread=tuple(reader.unread),
        owner=owner,
        executions=executions,
        jobs=jobs,
    )


def _outcome(given: Json, refused: bool) -> str:
    explanation = given.get("explanation") or {}
    if refused and explanation.get("class") == "Refused":
        return "refused"
    return str(given.get("outcome") or ("failed" if explanation else "succeeded"))


def _data(given: Json, jobs: Iterable[RunJob]) -> Json:
    """The state machine's ``data``; of an execution that ended outside of it, the job is SageMaker's newest."""
    prepared = [job.description for job in jobs if job.kind == "Processing"]
    return given | {"job": prepared[-1]} if given.get("prepared") and not given.get("job") and prepared else given


def _with_jobs(leg: Json, jobs: Iterable[RunJob]) -> Json:
    """A leg's outcome with the jobs of all the run's executions; SageMaker's own description of a job counts."""
    own = [job.description for job in jobs if job.leg == leg["name"] and job.stage == "train"]
    names = {job["TrainingJobName"] for job in own}
    return {**leg, "attempts": own + [job for job in leg.get("attempts", []) if job.get("TrainingJobName") not in names]}


def _event(event: Mapping[str, Any], reader: Reader) -> Json:
    """The event as far as it can be read; its legs as a list, each with a name and a flat list of ``attempts``.

    Raises:
        ValueError: it names no run, so there is no place for a report.
    """
    try:
        value = plain(dict(event))
    except (ValueError, TypeError) as error:
        reader.unread.append(f"The state machine's values cannot be read: {error}.")
        value = {key: event[key] for key in ("run_id", "execution_arn", "outcome") if isinstance(event, dict) and key in event}
    found = reader.fitting(value, EVENT, "The state machine's values")
    legs = []
    for item in _items(found.get("legs")):
        leg = reader.fitting(item, EVENT_LEG, "A leg's outcome")
        if leg.get("name"):
            name = f"A job of leg {leg['name']}"
            legs.append({**leg, "attempts": [reader.fitting(job, JOB, name) for job in _jobs(leg.get("attempts"))]})
    run_id = found.get("run_id") or str(found.get("execution_arn") or "").rpartition(":")[2]
    if not run_id:
        raise ValueError("the event has neither run_id nor execution_arn, so that there is no run to report on")
    return {**found, "run_id": run_id, "legs": legs}


def epoch_seconds(value: object) -> float | None:
    """Epoch seconds of what Step Functions passes on: ISO 8601, seconds or milliseconds."""
    if isinstance(value, dt.datetime):
        return value.timestamp()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value / 1000 if LAST_MOMENT < value < 1000 * LAST_MOMENT else value  # 1e11 s is the year 5138, 1e11 ms is 1973
        return float(seconds) if 0 <= seconds < LAST_MOMENT else None
    if isinstance(value, str):
        try:
            return epoch_seconds(dt.datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp())
        except (ValueError, OverflowError):
            return None
    return None


def _items(value: Any) -> list[Any]:
    """A list, also where JSONata reduced a list of one element to the element."""
    return value if isinstance(value, list) else [value] if value else []


def _jobs(value: Any) -> Iterator[Json]:
    """Job descriptions, flattened from JSONata's nested lists."""
    for item in _items(value):
        if isinstance(item, list):
            yield from _jobs(item)
        elif isinstance(item, dict) and item:
            yield item


def _leg(leg: Json, ended: Json, layout: RunLayout, reader: Reader, jobs: tuple[RunJob, ...]) -> LegFacts:
    name = str(leg["name"])
    folders = attempt_folders(reader.s3, reader.bucket, layout, name)
    log = reader.metrics(metrics_keys(folders))
    folder, result = next(((f, found) for f in reversed(folders) if (found := reader.json(result_key(f), RESULT))), ("", {}))
    trained = ended.get("outcome") == "trained"
    if trained and not result:
        reader.unread.append(f"Leg {name} was trained and has no result that can be read: its figures are those of its metrics lines.")
    folder = folder or (folders[-1] if folders else "")
    evaluations = tuple(job for job in jobs if job.stage == "evaluate" and job.leg == name)
    return LegFacts(
        name=name,
        training=leg.get("training") or {},
        folder=folder,
        evaluation=read_evaluation(reader, ended, folder, evaluations),
        trained=trained,
        rows=tuple(log.rows),
        rows_logged=log.rows_logged,
        bad_lines=log.bad_lines,
        result=result,
        attempts=tuple(_attempt(job) for job in ended.get("attempts", ())),
        checkpoints=tuple(
            KeptCheckpoint(step=one.step, bytes=sum(file.bytes for file in one.files.values()), prefix=one.prefix)
            for one in reader.checkpoints(layout, name, CHECKPOINTS_READ)
        ),
        profiles=tuple(reader.profiles(folders)),
    )


def preparations(facts: RunFacts) -> list[Attempt]:
    """The run's processing jobs, of all its executions, oldest first."""
    return [_attempt(job.description, "Processing") for job in facts.jobs if job.kind == "Processing"]


def _attempt(job: Mapping[str, Any], kind: Kind = "Training") -> Attempt:
    started, ended = epoch_seconds(job.get(f"{kind}StartTime")), epoch_seconds(job.get(f"{kind}EndTime"))
    wall = ended - started if started is not None and ended is not None else None
    billable = job.get("BillableTimeInSeconds")
    resources = (job.get("ResourceConfig") if kind == "Training" else (job.get("ProcessingResources") or {}).get("ClusterConfig")) or {}
    return Attempt(
        job_name=job.get(f"{kind}JobName") or "",
        status=job.get(f"{kind}JobStatus") or "Unknown",
        started=started,
        ended=ended,
        billable_seconds=wall if billable is None else float(billable),
        instance_type=resources.get("InstanceType"),
        instance_count=int(resources.get("InstanceCount") or 1),
        spot=bool(job.get("EnableManagedSpotTraining")),
        failure=job.get("ExitMessage") or job.get("FailureReason") or None,
    )
