"""Decision table for a job that did not complete: from the evidence to the next step. Pure.

docs/runbook.md shows the same table (a test compares them). Order matters: the first row that matches decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from contracts.failure import ReadFailure, read_failure

Action = Literal["resume", "wait", "next_source", "other_source", "stop"]
"""``resume``: a new attempt from the last checkpoint, counted. ``wait``: the same source again after a pause, not counted
(nothing ran), then the next source. ``next_source``: go on there at once; ``other_source``: the
same, and with none left another try is of no use. ``stop``: the leg ends with the explanation."""


LIMIT = re.compile(r"is (?P<limit>\d+) \w+, with current utilization of \d+ \w+ and a request delta of (?P<delta>\d+)")
"""SageMaker's words for a limit: "The account-level service limit 'NAME' is 0 Instances, with current utilization of ..."."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of an attempt that did not complete."""

    error: str = ""
    """Error name that Step Functions caught; empty when the task returned normally."""
    cause: str = ""
    """Its cause: the service's message, or the job's description as JSON."""
    status: str = ""
    """Job status; empty when the job was never created."""
    secondary_status: str = ""
    """SecondaryStatus of a training job."""
    failure_reason: str = ""
    """FailureReason or ExitMessage."""
    started: bool = False
    """Whether instances were ever had."""
    waited_out: bool = False
    """Whether a pending limit was set and used up."""

    @property
    def never_fits(self) -> bool:
        """Whether the service's own numbers say that the request exceeds the whole limit, whatever is in use."""
        found = LIMIT.search(self.cause)
        return found is not None and int(found["delta"]) > int(found["limit"])


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    """Failure class: the word in messages and the heading in the runbook."""
    when: str
    """The condition in words, for the docs."""
    action: Action
    sentence: str
    """What to say when the job left no sentence of its own; ``{detail}`` is the service's text."""
    text: str = ""
    """Pattern searched in error, cause and failure reason; empty matches by ``status`` alone."""
    status: str = ""
    """Pattern that ``status/secondary_status`` must match whole; empty takes every status."""
    started: bool | None = None
    waited_out: bool | None = None
    never_fits: bool | None = None

    def matches(self, evidence: Evidence) -> bool:
        """Whether this row decides."""
        text = f"{evidence.error}\n{evidence.failure_reason}\n{evidence.cause if not evidence.status else ''}"
        return (
            (not self.text or re.search(self.text, text, re.IGNORECASE) is not None)
            and (not self.status or re.fullmatch(self.status, f"{evidence.status}/{evidence.secondary_status}") is not None)
            and self.started in (None, evidence.started)
            and self.waited_out in (None, evidence.waited_out)
            and self.never_fits in (None, evidence.never_fits)
        )


@dataclass(frozen=True)
class Verdict:
    """Class, next step and sentence for one attempt."""

    name: str
    action: Action
    sentence: str


MAX_DETAIL = 300  # characters: a notification, not a log
FIELD = r"\bfields?\b.{0,80}\bnot supported by Step Functions"
"""Step Functions' words for a field that is newer than its optimised integration."""
CAPACITY = r"CapacityError|InsufficientCapacity|insufficient capacity|Unable to provision requested ML compute capacity"

TABLE: tuple[Row, ...] = (
    Row(
        name="TimeLimit", when="Stopped, MaxRuntimeExceeded", action="resume", status="Stopped/MaxRuntimeExceeded",
        sentence="the job reached its time limit and was stopped; its checkpoints are kept",
    ),
    Row(
        name="SpotInterrupted", when="Stopped, Interrupted or MaxWaitTimeExceeded after it had run", action="resume",
        status="Stopped/(Interrupted|MaxWaitTimeExceeded)", started=True,
        sentence="the spot instances were taken back; its checkpoints are kept",
    ),
    Row(
        name="PendingTooLong", when="Stopped without ever having run, pending or waiting limit used up", action="next_source",
        status="Stopped/.*", started=False, waited_out=True,
        sentence="no capacity came within the pending limit",
    ),
    Row(
        name="StoppedByHand", when="Stopped for any other reason", action="stop", status="Stopped/.*",
        sentence="somebody stopped the job; start an execution with the same run_id to go on from its last checkpoint",
    ),
    Row(
        name="NoCapacity", when="CapacityError in the failure reason", action="wait", text=CAPACITY,
        sentence="SageMaker has no capacity for this instance type now: {detail}",
    ),
    Row(
        name="QuotaTooSmall", when="ResourceLimitExceeded, and the request exceeds the whole limit", action="other_source",
        text=r"ResourceLimitExceeded", never_fits=True,
        sentence="the account's quota is too small for the request, however long it waits: {detail}",
    ),
    Row(
        name="QuotaExceeded", when="ResourceLimitExceeded when the job is created", action="wait", text=r"ResourceLimitExceeded",
        sentence="the account's quota is used up: {detail}",
    ),
    Row(
        name="FieldNotSupported", when="a field of the request is not supported by Step Functions", action="stop",
        text=FIELD,
        sentence="Step Functions' integration does not know a field of the request, so nothing was created: {detail}; leave out the "
        "setting behind it, or set training_task to polling in cdk.json",
    ),
    Row(
        name="Throttled", when="ThrottlingException, RequestLimitExceeded, TooManyRequests or 5xx from the API", action="wait",
        text=r"Throttl|RequestLimitExceeded|TooManyRequests|Rate exceeded|ServiceUnavailable|InternalFailure|Status Code: 5\d\d",
        sentence="SageMaker's API did not answer: {detail}",
    ),
    Row(
        name="ServiceFault", when="InternalServerError in the failure reason", action="resume", text=r"InternalServerError",
        sentence="SageMaker reports a fault of its own: {detail}",
    ),
    Row(
        name="ContainerKilled", when="exit code 137 without a sentence", action="resume", text=r"exit code:? 137\b",
        sentence="the container was killed (exit 137): the host's memory ran out, or the host failed",
    ),
    Row(
        name="ImageUnusable", when="the image cannot be pulled or started", action="stop",
        text=r"(cannot|failed to) (pull|start)|ImageNotFound|does not exist.*(image|repository)|CannotStartContainer|exec format error",
        sentence="the job's image could not be used: {detail}",
    ),
    Row(
        name="RequestRefused", when="ValidationException, AccessDenied, ResourceInUse or ClientError", action="stop",
        text=r"Validation|AccessDenied|not authorized|ResourceInUse|ResourceNotFound|ClientError|States\.(QueryEvaluationError|Runtime)",
        sentence="SageMaker refused the job: {detail}",
    ),
    Row(
        name="Unexpected", when="anything else", action="resume",
        sentence="the job ended without a sentence of its own: {detail}",
    ),
)  # fmt: skip


def judge(evidence: Evidence) -> Verdict:
    """The job's own classed sentence decides when there is one; else the first matching row.

    A job that was stopped is judged by its status all the same: on SIGTERM it leaves ``Preempted (retry)``,
    and whether going on makes sense depends on why it was stopped.
    """
    own = read_failure(evidence.failure_reason)
    if own is not None and not evidence.status.startswith("Stopped"):
        return Verdict(own.name, "resume" if own.retry == "retry" else "stop", own.sentence)
    row = next(row for row in TABLE if row.matches(evidence))
    return Verdict(row.name, row.action, row.sentence.format(detail=_detail(evidence, own)))


def _detail(evidence: Evidence, own: ReadFailure | None) -> str:
    text = own.sentence if own else evidence.failure_reason or evidence.cause or evidence.error or "no reason given"
    return " ".join(text.split())[:MAX_DETAIL]


def wait_seconds(tries: int, *, jitter: float) -> int:
    """Pause in seconds before try ``tries`` (1, 2, ...) of one capacity source: 60 doubled up to 900, between half and full of it.

    ``jitter`` in [0, 1] keeps several runs of one account from retrying at the same moment; the ceiling keeps the wait for freed
    instances short against an hour's training.
    """
    full = min(60 << (tries - 1), 900)
    return round(full * (0.5 + 0.5 * jitter))


ACTIONS: dict[Action, str] = {
    "resume": "new attempt from the last checkpoint, counted against `compute.max_attempts`",
    "wait": "same source again after a pause, not counted; then the next source",
    "next_source": "next capacity source at once",
    "other_source": "next capacity source at once; with none left the leg ends with the explanation",
    "stop": "the leg ends with the explanation",
}


def markdown() -> str:
    """The table as docs/runbook.md shows it: ``python -m infra.triage.decisions``."""
    rows = [f"| `{row.name}` | {row.when} | {ACTIONS[row.action]} |" for row in TABLE]
    return "\n".join(["| class | when | what happens |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(markdown())
