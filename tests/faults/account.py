"""The account that faults are injected into: a separate embedded AWS with the real stacks, and queries on it."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # conftest, test_one_run

from conftest import EmbeddedStacks
from test_one_run import processes_of

from contracts.metric_line import parse_line
from infra.report.series import once_per_step
from infra.run.layout import RunLayout
from infra.run.leg_files import attempt_folders, metrics_keys
from local_aws.injected_faults import Fault

T = TypeVar("T")
Json = dict[str, Any]
TRIAGES = ("Triage", "Triage preparation", "Triage evaluation")
WAIT_SECONDS = 900.0  # for a run of a minute: two cores may be shared with much else, and a fault that hangs must still end


class Unexpected(AssertionError):
    """A fault had an unexpected outcome."""


def expect(what: str, found: object, wanted: object) -> None:
    """Raises Unexpected with both values when they differ."""
    if found != wanted:
        raise Unexpected(f"{what} is {found!r}, and should be {wanted!r}")


def expect_words(text: str, *words: str) -> None:
    """Raises Unexpected with the words that ``text`` lacks."""
    missing = [word for word in words if word not in text]
    if missing:
        raise Unexpected(f"{missing} missing in: {text}")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """An execution that has ended."""

    status: str
    error: str
    cause: str
    states: list[str]
    verdicts: list[str]
    """What triage said of each attempt that did not complete."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Account(EmbeddedStacks):
    """The deployed stacks, and the faults injected into them."""

    _faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def order(self, run: str, *faults: Fault, job: str = "", stopped_as: Literal["error", "return"] = "error") -> None:
        """Inject faults for the jobs of one run, in addition to those of other runs; ``stopped_as`` then applies to all.

        ``job``: only for jobs whose names go on so after the run's.
        """
        with self._lock:
            self._faults.extend(replace(fault, id=f"{run}-{number}", match=f"^{run}-{job}") for number, fault in enumerate(faults))
            self.aws.inject(*self._faults, stopped_as=stopped_as)

    # -- runs --------------------------------------------------------------------------------------------

    def run(self, value: Json) -> Ended:
        """Start an execution and wait for its end."""
        return self.ended(self.start(value))

    def ended(self, execution: str) -> Ended:
        """The execution once it has ended."""
        described = self.wait(execution, WAIT_SECONDS)
        return Ended(
            status=described["status"],
            error=described.get("error", ""),
            cause=described.get("cause", ""),
            states=self.states(execution),
            verdicts=[str((output.get("evaluation") or output)["says"]) for output in self._outputs_of(execution, TRIAGES)],
            seconds=(described["stopDate"] - described["startDate"]).total_seconds(),
        )

    def _events(self, execution: str) -> list[Json]:
        pages = self.client("stepfunctions").get_paginator("get_execution_history").paginate(executionArn=execution)
        return [event for page in pages for event in page["events"]]

    def _outputs_of(self, execution: str, states: tuple[str, ...]) -> list[Json]:
        exits = [event.get("stateExitedEventDetails") or {} for event in self._events(execution)]
        return [json.loads(left["output"]) for left in exits if left.get("name") in states]

    def texts(self, execution: str) -> list[str]:
        """Every input and output that its history holds, of states and of tasks."""
        details = [value for event in self._events(execution) for value in event.values() if isinstance(value, dict)]
        return [str(value[key]) for value in details for key in ("input", "output", "parameters") if value.get(key)]

    def until(self, look: Callable[[], T | None], what: str, *, every: float = 0.01) -> T:
        """First result of ``look``, called ``every`` so many seconds; a training step takes about 0.05 s."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(every)
        raise Unexpected(f"{what} did not happen within {WAIT_SECONDS:.0f} s")

    # -- jobs --------------------------------------------------------------------------------------------

    def training_jobs(self, run: str) -> list[Json]:
        """Descriptions of the run's training jobs, oldest first."""
        sagemaker = self.client("sagemaker")
        pages = sagemaker.get_paginator("list_training_jobs").paginate(NameContains=f"{run}-", SortOrder="Ascending")
        return [
            sagemaker.describe_training_job(TrainingJobName=job["TrainingJobName"])
            for page in pages
            for job in page["TrainingJobSummaries"]
        ]

    def processing_jobs(self, run: str) -> list[Json]:
        """Descriptions of the run's processing jobs."""
        sagemaker = self.client("sagemaker")
        listed = sagemaker.list_processing_jobs(NameContains=f"{run}-")["ProcessingJobSummaries"]
        return [sagemaker.describe_processing_job(ProcessingJobName=job["ProcessingJobName"]) for job in listed]

    def lines(self, kind: str, job: str) -> dict[str, list[str]]:
        """A job's output by host."""
        logs, group = self.client("logs"), f"/aws/sagemaker/{kind}Jobs"
        found: dict[str, list[str]] = {}
        for stream in logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job}/")["logStreams"]:
            token: Json = {}
            messages = found.setdefault(stream["logStreamName"].split("/")[1].rpartition("-")[0], [])
            while True:
                page = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True, **token)
                messages += [event["message"] for event in page["events"]]
                if not page["events"]:
                    break
                token = {"nextToken": page["nextForwardToken"]}
        return found

    def steps_of(self, job: str) -> list[int]:
        """Steps that a training job logged while it ran, from its log rather than its files."""
        rows = [parse_line(line) for lines in self.lines("Training", job).values() for line in lines]
        return sorted({int(row["step"]) for row in rows if row and "loss" in row})

    def step_now(self, run: str) -> int:
        """Last step that the run's job has written to its own disk, once a whole checkpoint lies there too; else 0."""
        steps = [0]
        for kept in (self.aws.state_dir / "jobs" / "training").glob(f"{run}-*/algo-1/ml/checkpoints"):
            if any(kept.glob("checkpoints/step-*/manifest.json")):
                with contextlib.suppress(OSError):  # the job has ended and its folder is going
                    lines = (kept / "metrics" / "metrics.jsonl").read_text().splitlines()
                    steps += [int(row["step"]) for line in lines if (row := parse_line(line))]
        return max(steps)

    def until_step(self, execution: str, run: str, step: int) -> None:
        """Wait until the run's job has logged ``step`` and has a whole checkpoint; raises Unexpected when it ends before."""
        looks = 0

        def look() -> bool:
            nonlocal looks
            looks += 1
            if looks % 100 == 0 and (ended := self.describe(execution))["status"] != "RUNNING":
                raise Unexpected(f"{run} ended {ended['status']} before step {step}: {ended.get('cause')}")
            return self.step_now(run) >= step

        self.until(look, f"step {step} of {run}")

    def processes(self, run: str, mark: str = "", *, kind: str = "TRAINING") -> list[int]:
        """Process ids of the run's training (or PROCESSING) jobs, those whose environment holds ``mark`` as well."""
        return processes_of(run, mark.encode(), kind)

    # -- what is kept ------------------------------------------------------------------------------------

    def keys(self, prefix: str) -> dict[str, str]:
        """ETags by key below ``prefix``."""
        pages = self.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return {item["Key"].removeprefix(prefix): item["ETag"] for page in pages for item in page.get("Contents", [])}

    def read(self, key: str) -> bytes:
        """An object's content."""
        return bytes(self.client("s3").get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def metrics(self, run: str) -> list[dict[str, float]]:
        """The run's metrics lines so far, all attempts; of a step that was trained twice the later one's."""
        texts = [self.read(key).decode(errors="replace") for key in metrics_keys(self.attempts(run)) if key in self.keys("")]
        rows = [row for text in texts for line in text.splitlines() if (row := parse_line(line)) and "loss" in row]
        return once_per_step(rows)

    def attempts(self, run: str) -> list[str]:
        """Folders of the run's attempts, oldest first."""
        return attempt_folders(self.client("s3"), self.bucket, RunLayout(run), "main")
