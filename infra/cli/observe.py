"""State of a run from execution history, run.json, metrics and the processing job's log, each read from where the last read ended."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import time
from typing import Any

from botocore.exceptions import ClientError

from contracts.config import SpecError, parse
from contracts.metric_line import parse_line
from infra.cli.exits import CommandError, Exit
from infra.cli.find_run import run_of
from infra.cli.job_logs import GROUPS, job_name
from infra.cli.progress import REFUSED, RunView, StageView, failure_sentence, read_leg, read_stages
from infra.cli.target import Target
from infra.report.stored_shapes import INDEX, RUN
from infra.run.expected import fitting
from infra.run.layout import RunLayout, index_key
from infra.run.leg_files import attempt_folders, metrics_keys
from infra.run.run_jobs import RunJob, run_jobs, total_usd
from infra.sagemaker.prices import admitted_usd_per_hour
from training.spec import TrainingSpec, total_steps

JOBS_SECONDS = 30.0  # DescribeTrainingJob for each job of the run


class Observer:
    """Follows one execution; ``look`` returns its present state."""

    def __init__(self, target: Target, execution_arn: str) -> None:
        self.target = target
        self._arn = execution_arn
        self._run: dict[str, Any] = {}
        self._metrics: dict[str, list[str]] = {}  # leg -> keys of its attempts' metrics files, oldest first
        self._rows: dict[str, list[dict[str, float]]] = {}  # key -> rows so far
        self._read: dict[str, int] = {}  # key -> bytes so far
        self._run_id = execution_arn.rsplit(":", 1)[-1]
        self._prepare_note = ""
        self._prepared = ""
        self._jobs: list[RunJob] = []
        self._jobs_due = 0.0

    @property
    def run_id(self) -> str:
        """The run, as far as it is known."""
        return self._run_id

    def look(self) -> RunView:
        """The run at this moment.

        Raises:
            CommandError: there is no such execution.
        """
        try:
            description = self.target.client("stepfunctions").describe_execution(executionArn=self._arn)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ExecutionDoesNotExist":
                raise CommandError(f"there is no execution {self._arn}", Exit.NOT_FOUND) from error
            raise
        status = str(description["status"])
        stages = read_stages(self._history(), status, str(description.get("error") or ""))
        self._run_id = run_of(description)
        if stages[0].state == "done":  # before Admit has written run.json, the file there is that of the run's previous execution
            self._load_run()
        self._read_metrics()
        legs = tuple(self._legs())
        view = RunView(
            run_id=self._run_id,
            execution_arn=self._arn,
            status=status,
            now=time.time(),
            stages=tuple(self._noted(stage) for stage in stages),
            legs=legs,
            usd=total_usd(self._jobs, self._price) if self._jobs else None,
            waiting_for_capacity=any(job.waiting for job in self._jobs),
            refused=status == "FAILED" and description.get("error") == REFUSED,
            output=_json(description.get("output")),
        )
        failed = view.ended and status != "SUCCEEDED"
        return dataclasses.replace(view, sentence=failure_sentence(description)) if failed else view

    def _history(self) -> list[dict[str, Any]]:
        """All events so far, without the states' inputs and outputs."""
        pages = self.target.client("stepfunctions").get_paginator("get_execution_history")
        reading = pages.paginate(executionArn=self._arn, includeExecutionData=False, PaginationConfig={"PageSize": 1000})
        return [event for page in reading for event in page["events"]]

    def _load_run(self) -> None:
        if not self._run:
            self._run = fitting(_json(self._text(RunLayout(self._run_id).run_json)), RUN, []) or {}

    def _read_metrics(self) -> None:
        s3, bucket, layout = self.target.client("s3"), self.target.bucket, RunLayout(self._run_id)
        for name in (leg["name"] for leg in self._planned):
            self._metrics[name] = metrics_keys(attempt_folders(s3, bucket, layout, name))
            for key in self._metrics[name]:
                text = self._text(key, self._read.get(key, 0))
                whole = text[: text.rfind("\n") + 1]  # the last line may still be being written
                self._read[key] = self._read.get(key, 0) + len(whole.encode())
                rows = [row for row in map(parse_line, whole.splitlines()) if row is not None]
                self._rows.setdefault(key, []).extend(rows)

    def _legs(self) -> list[Any]:
        compute = self._run.get("compute") or {}
        hosts = int(compute.get("instance_count") or 1)
        self._look_at_jobs()
        return [
            read_leg(name, _steps(leg.get("training") or {}, hosts), self._leg_rows(name), self._usd(name))
            for leg in self._planned
            for name in [str(leg["name"])]
        ]

    @property
    def _planned(self) -> list[dict[str, Any]]:
        """The legs of run.json, as far as it can be read."""
        return [leg for leg in self._run.get("legs") or () if leg.get("name")]

    def _look_at_jobs(self) -> None:
        """The run's jobs; not with every look, since each is described anew."""
        every = 1.0 if self.target.embedded else JOBS_SECONDS
        if not self._run or time.monotonic() < self._jobs_due:
            return
        self._jobs_due = time.monotonic() + every
        with contextlib.suppress(ClientError):  # a role that may not see jobs: no dollars are shown
            self._jobs = run_jobs(self.target.client("sagemaker"), self.target.bucket, self._run_id, time.time())

    def _price(self, instance_type: str) -> float | None:
        return admitted_usd_per_hour(self._run, instance_type)

    def _usd(self, leg: str) -> float | None:
        own = [job for job in self._jobs if job.leg == leg]
        return total_usd(own, self._price) if own else None

    def usd_by_month(self) -> dict[str, float]:
        """Dollars of the jobs that were seen, by the month in which each was created (UTC, ``2026-11``)."""
        months: dict[str, float] = {}
        for job in self._jobs:
            month = f"{dt.datetime.fromtimestamp(job.created, dt.UTC):%Y-%m}"
            months[month] = months.get(month, 0.0) + (job.usd(self._price) or 0.0)
        return months

    def _leg_rows(self, name: str) -> list[dict[str, float]]:
        """Rows of all attempts, oldest attempt first."""
        return [row for key in self._metrics.get(name, []) for row in self._rows.get(key, [])]

    def _noted(self, stage: StageView) -> StageView:
        if stage.name != "Prepare data" or stage.state not in ("running", "done"):
            return stage
        if stage.state == "running":
            self._prepare_note = self._prepare_progress() or self._prepare_note
        elif not self._prepared:
            self._prepare_note = self._prepared = self._prepared_words()
        return dataclasses.replace(stage, note=self._prepare_note or stage.note)

    def _prepared_words(self) -> str:
        """Documents and tokens of the finished data set, from its index, which is written last; the log may lag behind."""
        tokens = self._run.get("tokens") or {}
        named = [one["fingerprint"] for one in tokens.get("sources") or [tokens] if one.get("fingerprint")]
        indexes = [fitting(_json(self._text(index_key(one))), INDEX, []) or {} for one in named]
        splits = [split for index in indexes for split in (index.get("splits") or {}).values()]
        documents, tokens = (sum(int(split.get(key) or 0) for split in splits) for key in ("documents", "tokens"))
        return f"{documents:,} documents, {tokens:,} tokens" if splits else ""

    def _prepare_progress(self) -> str:
        """Documents and tokens so far, from the processing job's last progress line."""
        try:
            logs = self.target.client("logs")
            job = job_name(self.target, self._arn, "prepare", self._run_id)
            streams = logs.describe_log_streams(logGroupName=GROUPS["Processing"], logStreamNamePrefix=f"{job}/")["logStreams"]
        except (ClientError, CommandError):
            return ""  # no job yet, or nothing said yet: the group is made by the first job
        for stream in streams:
            events = logs.get_log_events(
                logGroupName=GROUPS["Processing"], logStreamName=stream["logStreamName"], limit=50, startFromHead=False
            )
            for event in reversed(events["events"]):
                line = _json(event["message"])
                if line.get("stage") == "prepare":
                    return _prepare_words(line)
        return ""

    def _text(self, key: str, start: int = 0) -> str:
        try:
            arguments = {"Range": f"bytes={start}-"} if start else {}
            body: bytes = self.target.client("s3").get_object(Bucket=self.target.bucket, Key=key, **arguments)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404", "InvalidRange", "416"):
                return ""
            raise
        return body.decode("utf-8", errors="replace")


def _prepare_words(line: dict[str, Any]) -> str:
    done, total = line.get("done_bytes") or 0, line.get("total_bytes") or 0
    whose = f"of source {line['source']}" if line.get("source") else "of the text"
    share = f"{done / total:.0%} {whose}" if total else ""
    documents, tokens = line.get("documents") or 0, line.get("tokens") or 0
    return ", ".join(filter(None, (share, f"{documents:,} documents, {tokens:,} tokens" if documents else "")))


def _steps(training: dict[str, Any], hosts: int) -> int:
    try:
        return total_steps(parse(TrainingSpec, training), hosts)
    except SpecError:
        return int(training.get("steps") or 0)


def _json(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (TypeError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
