"""Attempts of one leg, and the step after one that did not complete. Pure: the state machine carries these values.

An attempt has a job name and a folder of its own, and goes on from a checkpoint that is chosen before it is created.
Only attempts that had instances count against ``max_attempts`` and the budget; a request for capacity is free.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from contracts.config import Bounds, Json, parse, to_json
from infra.triage.decisions import Verdict, wait_seconds

MIN_USEFUL_SECONDS = 600  # start, compilation and a checkpoint take minutes: a shorter attempt would make no progress
MAX_REQUESTS = 80  # Step Functions keeps 25,000 events of an execution; a request is about 16, and there are up to 16 legs
HISTORY = 16  # records of about 600 bytes: 16 legs keep within a state's 256 KiB


@dataclass(frozen=True, kw_only=True)
class Source:
    """One capacity source as the attempts need it."""

    kind: str
    """on_demand, spot or training_plan."""
    instance_type: str
    """Its type."""
    usd_per_hour: float | None
    """Price of all its instances together; null when none is known."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the attempts of one leg may use."""

    max_attempts: int
    """Attempts that had instances."""
    max_runtime_seconds: int
    """Time limit of one attempt."""
    max_usd: float | None
    """Money for all attempts; null when no price is known."""
    max_wait_seconds: int
    """Pauses on one source before the next is tried."""
    min_runtime_seconds: int = MIN_USEFUL_SECONDS
    """Shortest attempt worth starting."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One CreateTrainingJob (or CreateProcessingJob) call: where it stands among the leg's."""

    number: int = 1
    """Counts every call; ends the job's name."""
    source: int = 0
    """Index of the capacity source."""
    max_runtime_seconds: int
    """Its time limit."""
    wait_seconds: int = 0
    """Pause before it."""
    started: int = 0
    """Earlier attempts that had instances."""
    tries: int = 0
    """Earlier calls on this source that got nothing."""
    waited_seconds: int = 0
    """Pauses on this source so far."""
    spent_usd: Annotated[float, Bounds(0.0)] = 0.0
    """Spent by earlier attempts."""
    checkpoint: str | None = None
    """S3 URI of the folder that it goes on from; null starts afresh."""
    unusable: tuple[str, ...] = ()
    """Checkpoints that earlier attempts found damaged."""
    history: tuple[dict[str, Any], ...] = ()
    """Descriptions of the latest earlier jobs, ``HISTORY`` at most."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the state machine does next."""

    again: bool
    """Go on with ``attempt``."""
    attempt: Attempt
    """The next attempt, or the last one with its job in the history."""
    name: str
    """Failure class."""
    sentence: str
    """Why, for people."""
    retry: str
    """``retry`` when the same input may succeed later, else ``stop``."""


def affordable_seconds(limits: Limits, source: Source, spent_usd: float) -> int:
    """Time limit that the leg's money still allows on ``source``."""
    if limits.max_usd is None or not source.usd_per_hour:
        return limits.max_runtime_seconds
    return min(limits.max_runtime_seconds, int((limits.max_usd - spent_usd) / source.usd_per_hour * 3600))


def first_attempt(limits: Limits, sources: tuple[Source, ...], checkpoint: str | None = None) -> Attempt:
    """The attempt that Admit hands to the state machine; ``checkpoint`` is where a continued run goes on."""
    return Attempt(max_runtime_seconds=affordable_seconds(limits, sources[0], 0.0), checkpoint=checkpoint)


def decide(limits: Limits, sources: tuple[Source, ...], attempt: Attempt, verdict: Verdict, job: Json, *, jitter: float) -> Decision:
    """The next step after ``attempt`` ended with ``verdict``; ``job`` is its description, empty when it was never created."""
    billed = float(job.get("BillableTimeInSeconds") or 0)
    had_instances = billed > 0 or bool(job.get("TrainingStartTime") or job.get("ProcessingStartTime"))
    spent = attempt.spent_usd + billed / 3600 * (sources[attempt.source].usd_per_hour or 0.0)
    done = dataclasses.replace(
        attempt,
        spent_usd=round(spent, 4),
        started=attempt.started + had_instances,
        history=(*attempt.history, {"AttemptNumber": attempt.number, "AttemptClass": verdict.name, **job})[-HISTORY:],
    )
    following = dataclasses.replace(done, number=attempt.number + 1, wait_seconds=0)
    if verdict.action == "stop":
        return Decision(again=False, attempt=done, name=verdict.name, sentence=verdict.sentence, retry="stop")
    if done.number >= MAX_REQUESTS:
        sentence = f"{verdict.sentence} (request {done.number}, the last of this execution)"
        return Decision(again=False, attempt=done, name=verdict.name, sentence=sentence, retry="retry")
    if verdict.action == "resume" and had_instances:
        return _resume(limits, sources, following, done, verdict)
    # A job that never had instances does not count: it is requested again after a pause, like missing capacity.
    return _elsewhere(limits, sources, following, done, verdict, jitter)


def _resume(limits: Limits, sources: tuple[Source, ...], following: Attempt, done: Attempt, verdict: Verdict) -> Decision:
    if done.started >= limits.max_attempts:
        sentence = f"{verdict.sentence} (attempt {done.started} of compute.max_attempts={limits.max_attempts}, the last)"
        return Decision(again=False, attempt=done, name=verdict.name, sentence=sentence, retry="retry")
    return _affordable(limits, sources, dataclasses.replace(following, tries=0, waited_seconds=0), done, verdict)


def _elsewhere(limits: Limits, sources: tuple[Source, ...], following: Attempt, done: Attempt, verdict: Verdict, jitter: float) -> Decision:
    pause = wait_seconds(done.tries + 1, jitter=jitter)
    if verdict.action not in ("next_source", "other_source") and done.waited_seconds + pause <= limits.max_wait_seconds:
        again = dataclasses.replace(following, wait_seconds=pause, tries=done.tries + 1, waited_seconds=done.waited_seconds + pause)
        return _affordable(limits, sources, again, done, verdict)
    if done.source + 1 < len(sources):
        return _affordable(
            limits, sources, dataclasses.replace(following, source=done.source + 1, tries=0, waited_seconds=0), done, verdict
        )
    tried = ", ".join(f"{source.kind} {source.instance_type}" for source in sources)
    sentence = f"{verdict.sentence} (tried {tried}; waited {done.waited_seconds} s on the last, {done.number} requests in all)"
    retry = "stop" if verdict.action == "other_source" else "retry"
    return Decision(again=False, attempt=done, name=verdict.name, sentence=sentence, retry=retry)


def _affordable(limits: Limits, sources: tuple[Source, ...], following: Attempt, done: Attempt, verdict: Verdict) -> Decision:
    seconds = affordable_seconds(limits, sources[following.source], following.spent_usd)
    if seconds < min(limits.min_runtime_seconds, limits.max_runtime_seconds):
        sentence = (
            f"{verdict.sentence}; going on needs more money: this leg may spend ${limits.max_usd or 0:,.2f} and has spent "
            f"${following.spent_usd:,.2f}, which leaves {max(seconds, 0)} s; raise budget.max_usd and start the same run_id again"
        )
        return Decision(again=False, attempt=done, name="BudgetSpent", sentence=sentence, retry="stop")
    return Decision(
        again=True,
        attempt=dataclasses.replace(following, max_runtime_seconds=seconds),
        name=verdict.name,
        sentence=verdict.sentence,
        retry="retry",
    )


def read_attempt(value: Any) -> Attempt:
    """An attempt as the state machine carries it."""
    return parse(Attempt, value, "attempt")


def write_attempt(attempt: Attempt) -> Json:
    """The value for the state machine."""
    content: Json = to_json(attempt)
    return content
