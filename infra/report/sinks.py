"""Where a run goes beside its report: curves to trackers, models to a registry. What all of these sinks have in common.

    mlflow.py           curves and settings, to a tracking server of SageMaker's managed MLflow
    wandb.py            curves and settings, to a project of Weights & Biases
    model_registry.py   exported models, to SageMaker Model Registry

Training jobs have no network, so nothing is sent while they run: Report replays metrics.jsonl once its own files are written. No sink
fails a report: an outage, a refusal or a slow server becomes one sentence in report and output, with what was left out counted. Each
asks first what is there already, so a repeated report (a Lambda retry, a run that goes on) adds what is missing and nothing twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session

from infra.edge import log
from infra.report.read import Json, LegFacts, RunFacts
from infra.report.series import Row, once_per_step
from infra.report.tables import escape, row, section, table

CONNECT_SECONDS, READ_SECONDS = 3.0, 10.0
ALL_SECONDS = 45.0
"""For everything that one tracker gets; what is left then is counted. Report has ten minutes, of which seven may go to jobs that stop."""
AGAIN = (429, 503)
"""Answers that ask for another try; others may have done something, and are told."""
AGAIN_SECONDS = 2.0
SAID = 200  # letters of a server's own message


class SinkError(Exception):
    """A sink did not take something; one sentence without a full stop."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What became of one sink."""

    sink: str
    """Its name, for people."""
    sentence: str
    complete: bool
    """Everything that it should hold is there."""
    sent: int = 0
    """Values or models sent this time."""
    left: int = 0
    """Values or models that may be missing there."""
    places: dict[str, str] = field(default_factory=dict)
    """Where each leg is found there: an address, or an ARN."""


class TrackedLeg(Protocol):
    """One leg in a tracker."""

    @property
    def place(self) -> str:
        """Where a person finds it; "" when the tracker has no address."""

    def lacking(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, and of each row the values, that the tracker does not have."""

    def send(self, rows: Sequence[Row]) -> None:
        """Add rows, in step order."""

    def end(self) -> None:
        """Say how the leg ended."""


class Tracker(Protocol):
    """A server of curves."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def values_per_call(self) -> int:
        """The most that one call takes."""

    def open(self, facts: RunFacts, leg: LegFacts) -> TrackedLeg:
        """Find the leg there, or make it."""


@dataclass(kw_only=True)
class _Progress:
    """How far a tracker has come."""

    missing: int
    """Values that it may lack; those that it is found to have are taken off."""
    sent: int = 0
    places: dict[str, str] = field(default_factory=dict)


def follow(tracker: Tracker, facts: RunFacts) -> Delivery | None:
    """Bring a tracker up to date with every leg that has begun; None when none has."""
    legs = [(leg, points(leg)) for leg in facts.legs if leg.rows]
    if not legs:
        return None
    progress, why = _Progress(missing=sum(values(rows) for _, rows in legs)), ""
    try:
        if not _bring_up(tracker, facts, legs, progress):
            why = f"it took longer than {ALL_SECONDS:.0f} s"
    except SinkError as error:
        why = str(error)
    except Exception as error:  # whatever a server answers must not cost the report
        log.exception(f"sending to {tracker.name} failed", error=type(error).__name__)
        why = type(error).__name__
    told = f"{progress.sent:,} values of {len(legs)} {'leg' if len(legs) == 1 else 'legs'} were sent"
    if why:
        told = f"{why}; {progress.sent:,} values were sent, up to {progress.missing:,} are missing there; {again(facts)} sends them"
    return Delivery(
        sink=tracker.name,
        sentence=f"{tracker.name}: {told}.",
        complete=not why,
        sent=progress.sent,
        left=progress.missing if why else 0,
        places=progress.places,
    )


def _bring_up(tracker: Tracker, facts: RunFacts, legs: Sequence[tuple[LegFacts, list[Row]]], progress: _Progress) -> bool:
    """Send every leg what it lacks; False when the time was not enough."""
    deadline = time.monotonic() + ALL_SECONDS
    for leg, rows in legs:
        if time.monotonic() > deadline:
            return False
        tracked = tracker.open(facts, leg)
        progress.places |= {leg.name: tracked.place} if tracked.place else {}
        lacking = tracked.lacking(rows)
        progress.missing -= values(rows) - values(lacking)
        for batch in batches(lacking, tracker.values_per_call):
            if time.monotonic() > deadline:
                tracked.end()
                return False
            tracked.send(batch)
            progress.sent += values(batch)
            progress.missing -= values(batch)
        tracked.end()
    return True


def again(facts: RunFacts) -> str:
    """The command that writes a report once more, and brings its sinks up to date."""
    return f"pretrain report {facts.run_id} --again"


def points(leg: LegFacts) -> list[Row]:
    """A leg's rows in step order, each step once, with nothing in them but numbers."""
    return [{name: value for name, value in each.items() if isinstance(value, (int, float))} for each in once_per_step(leg.rows)]


def measured(each: Row) -> dict[str, float]:
    """A row's values without its step and time."""
    return {name: value for name, value in each.items() if name not in ("step", "time")}


def values(rows: Sequence[Row]) -> int:
    """How many values rows hold."""
    return sum(len(measured(each)) for each in rows)


def batches(rows: Sequence[Row], most: int) -> Iterator[list[Row]]:
    """Whole rows, ``most`` values at a time or one row."""
    batch: list[Row] = []
    held = 0
    for each in rows:
        count = len(measured(each))
        if batch and held + count > most:
            yield batch
            batch, held = [], 0
        batch.append(each)
        held += count
    if batch:
        yield batch


def answer(request: AWSPreparedRequest, what: str) -> Json:
    """The JSON object that a request is answered with.

    Raises:
        SinkError: no answer in time, or one that is no success or no object.
    """
    for again in (True, False):
        try:
            given = URLLib3Session(timeout=(CONNECT_SECONDS, READ_SECONDS)).send(request)
            content = given.content
        except BotoCoreError as error:
            raise SinkError(f"{what}: no answer ({type(error).__name__})") from None
        if given.status_code not in AGAIN or not again:
            break
        time.sleep(AGAIN_SECONDS)
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        found = None
    if not 200 <= given.status_code < 300 or not isinstance(found, dict):
        raise SinkError(f"{what}: {given.status_code} {_said(found)}".strip())
    return found


def _said(found: Any) -> str:
    """A server's own words about a refusal, in MLflow's form or in GraphQL's."""
    if not isinstance(found, dict):
        return ""
    errors = found.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        return str(errors[0].get("message", ""))[:SAID]
    return f"{found.get('error_code', '')} {str(found.get('message') or found.get('error') or '')[:SAID]}".strip()


# -- in the report ---------------------------------------------------------------------------------------


def with_deliveries(document: Json, deliveries: Sequence[Delivery]) -> Json:
    """The report document with what became of its sinks; the headline names those that lack something."""
    told = [each.sentence for each in deliveries if not each.complete]
    shown = [{key: getattr(each, key) for key in ("sink", "sentence", "complete", "sent", "left", "places")} for each in deliveries]
    return {**document, "sinks": shown, "headline": " ".join([document["headline"], *told])}


def delivered(document: Json) -> str:
    """The section of report.html: what was sent where."""
    rows = []
    for each in document.get("sinks") or ():
        places = "<br>".join(f"{escape(leg)}: {_linked(place)}" for leg, place in each["places"].items())
        rows.append(row(escape(each["sink"]), [escape(each["sentence"]), places], number=False))
    return section("Sent on", table(rows)) if rows else ""


def _linked(place: str) -> str:
    return f'<a href="{escape(place)}">{escape(place)}</a>' if place.startswith(("https://", "http://")) else escape(place)
