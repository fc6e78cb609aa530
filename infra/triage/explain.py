"""Explain: a failed stage -> one sentence with its evidence, for the execution's Cause, the message and the report.

{"stage": "Build image", "class": "BaseImageMissing", "sentence": "...", "retry": "stop",
 "log_group": "...", "log_stream": "...", "runbook": "docs/runbook.md#baseimagemissing", "attempts": 1}
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from contracts.config import Json
from contracts.failure import read_failure
from infra.run.deployment import TriageDeployment
from infra.triage.decisions import FIELD, TABLE

UNREADABLE = "Runtime.UnmarshalError"  # Lambda's runtime could not parse the event; Admit never saw it
BUILD_QUEUE = re.compile(r"Cannot have more than (?P<builds>\d+) builds in queue[^.(]*")
"""CodeBuild's words for a StartBuild that its account has no place for."""
TOO_LARGE = "States.DataLimitExceeded"
TAIL_EVENTS = 100  # a build's classed sentence is among its last lines


@dataclass(frozen=True)
class Clients:
    """The AWS clients of triage and explanation."""

    sagemaker: Any
    logs: Any
    s3: Any = None
    """Triage reads the run's lock and the leg's checkpoints."""

    def log_stream(self, group: str, prefix: str) -> str | None:
        """First log stream of a job, or None when it wrote nothing."""
        try:
            streams = self.logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=prefix, limit=1)["logStreams"]
        except self.logs.exceptions.ResourceNotFoundException:
            return None
        return str(streams[0]["logStreamName"]) if streams else None

    def tail(self, group: str, stream: str) -> list[str]:
        """The last lines of a log stream."""
        try:
            events = self.logs.get_log_events(logGroupName=group, logStreamName=stream, limit=TAIL_EVENTS, startFromHead=False)["events"]
        except self.logs.exceptions.ResourceNotFoundException:
            return []
        return [str(event["message"]) for event in events]


def explanation(
    deployment: TriageDeployment,
    *,
    stage: str,
    name: str,
    sentence: str,
    retry: str,
    log_group: str | None = None,
    log_stream: str | None = None,
    attempts: int = 1,
) -> Json:
    """The explanation object; ``runbook`` is the section of the class."""
    return {
        "stage": stage,
        "class": name,
        "sentence": f"{name} ({retry}): {' '.join(sentence.split())}",
        "retry": retry,
        "log_group": log_group,
        "log_stream": log_stream,
        "runbook": f"{deployment.runbook}#{name.lower()}",
        "attempts": attempts,
    }


def explain(event: Json, clients: Clients, deployment: TriageDeployment) -> Json:
    """The explanation of a stage that triage did not already explain.

    ``event["explain"]`` holds ``stage`` and ``explanation``, or ``stage``, ``error`` and ``cause``. A leg in ``event["legs"]`` that
    failed holds ``explanation``, or ``unexplained`` when Triage itself failed: the ``job``'s words, Triage's ``error`` and ``cause``.
    """
    failure = event["explain"]
    if failure.get("explanation"):
        return dict(failure["explanation"])
    stage, error, cause = str(failure["stage"]), str(failure.get("error", "")), str(failure.get("cause", ""))
    if stage == "Train legs" and any(map(_failed, event.get("legs", []))):
        return _legs(event["legs"], deployment)
    queue = BUILD_QUEUE.search(cause)
    if stage == "Build image" and queue is not None:
        return _refused_build(int(queue["builds"]), queue[0], deployment)
    build = _json(cause).get("Build")
    if stage == "Build image" and build:
        return _build(build, clients, deployment)
    return _classed(stage, error, _message(cause), deployment)


def _classed(stage: str, error: str, cause: str, deployment: TriageDeployment) -> Json:
    """By the classed sentence in ``cause``; without one, Unexpected with the error's name and text."""
    own, log_group = read_failure(cause), deployment.log_groups.get(stage)
    if stage == "Admit" and error == UNREADABLE:
        sentence = f"the input cannot be read ({cause}); start again with an input of fewer levels and shorter numbers"
        return explanation(deployment, stage=stage, name="Refused", sentence=sentence, retry="stop", log_group=log_group)
    if stage == "Admit" and error == TOO_LARGE:
        sentence = (
            "the input is too large: with what the state machine adds it passes the 256 KiB of a state; start again with a shorter one"
        )
        return explanation(deployment, stage=stage, name="Refused", sentence=sentence, retry="stop", log_group=log_group)
    if own is not None:
        return explanation(deployment, stage=stage, name=own.name, sentence=own.sentence, retry=own.retry, log_group=log_group)
    if (unknown := re.search(FIELD, cause)) is not None:  # as States.Runtime, which no Catch sees
        row = next(row for row in TABLE if row.text == FIELD)
        return explanation(deployment, stage=stage, name=row.name, sentence=row.sentence.format(detail=unknown[0]), retry="stop")
    sentence = f"{stage} failed with {error or 'an unnamed error'}: {' '.join(cause.split())[:600] or 'no cause given'}"
    return explanation(deployment, stage=stage, name="Unexpected", sentence=sentence, retry="retry", log_group=log_group)


def _failed(leg: Json) -> bool:
    return bool(leg.get("explanation") or leg.get("unexplained"))


def _legs(legs: list[Json], deployment: TriageDeployment) -> Json:
    """The first failed leg's explanation, with the leg's name and the outcome of the others."""
    failed = [leg for leg in legs if _failed(leg)]
    first = dict(failed[0].get("explanation") or _without_triage(failed[0]["unexplained"], deployment))
    if len(legs) > 1:
        trained = [leg["name"] for leg in legs if not _failed(leg)]
        names = ", ".join(leg["name"] for leg in failed)
        first["sentence"] += f" (leg {failed[0]['name']}; failed: {names}; trained: {', '.join(trained) or 'none'})"
    return first


def _without_triage(known: Json, deployment: TriageDeployment) -> Json:
    """The job's own class when it left one, since it comes first in the text; else Triage's."""
    triage_failed = f"Triage of attempt {known['attempt']} failed with {known['error']}: {_message(str(known.get('cause', '')))}"
    return _classed("Train", str(known["error"]), "; ".join(filter(None, (known.get("job"), triage_failed))), deployment)


def _refused_build(builds: int, said: str, deployment: TriageDeployment) -> Json:
    """StartBuild was refused: by an account that may run no builds at all, or by a queue that stayed full."""
    said = " ".join(said.split())
    if builds == 0:
        name, retry = "BuildsNotAllowed", "stop"
        sentence = (
            f'CodeBuild refuses every build of this account ("{said}"), whatever Service Quotas shows, as it does on some new accounts; '
            "open a support case that asks for CodeBuild builds (a quota request does not help), or build and push the same images with "
            "`make images`: the next run skips this stage"
        )
    else:
        name, retry = "BuildQueueFull", "retry"
        sentence = f'CodeBuild\'s queue stayed full for two hours ("{said}"); start again when builds have ended, or use `make images`'
    return explanation(deployment, stage="Build image", name=name, sentence=sentence, retry=retry)


def _build(build: Json, clients: Clients, deployment: TriageDeployment) -> Json:
    logs = build.get("Logs") or {}
    group, stream = logs.get("GroupName"), logs.get("StreamName")
    own = None
    if group and stream:
        own = next((found for line in reversed(clients.tail(group, stream)) if (found := read_failure(line))), None)
    if own is not None:
        return explanation(
            deployment, stage="Build image", name=own.name, sentence=own.sentence, retry=own.retry, log_group=group, log_stream=stream
        )
    messages = [
        f"{phase.get('PhaseType')}: {context['Message']}"
        for phase in build.get("Phases") or []
        for context in phase.get("Contexts") or []
        if context.get("Message")
    ]
    status = build.get("BuildStatus", "FAILED")
    sentence = f"the build ended {status}: {'; '.join(messages)[:600] or 'its log says more'}"
    return explanation(
        deployment, stage="Build image", name="ImageBuildFailed", sentence=sentence, retry="stop", log_group=group, log_stream=stream
    )


def _message(cause: str) -> str:
    """The text of a function's exception, which Lambda packs into JSON; any other cause as it is."""
    return str(_json(cause).get("errorMessage", cause))


def _json(text: str) -> Json:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
