"""Explain: a failed stage -> one sentence with its evidence, for the execution's Cause, the message and the report.

{"stage": "Build image", "class": "BaseImageMissing", "sentence": "...", "retry": "stop",
 "log_group": "...", "log_stream": "...", "runbook": "docs/runbook.md#baseimagemissing", "attempts": 1}
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from contracts.config import Json
from contracts.failure import read_failure

RUNBOOK_VARIABLE = "RUNBOOK"
LOG_GROUPS_VARIABLE = "LOG_GROUPS"
TAIL_EVENTS = 100  # a build's classed sentence is among its last lines


@dataclass(frozen=True)
class Clients:
    """The AWS clients of triage and explanation."""

    sagemaker: Any
    logs: Any

    @classmethod
    def from_boto3(cls) -> Clients:
        """Clients of the function's own region and role."""
        import boto3

        return cls(boto3.client("sagemaker"), boto3.client("logs"))

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
    *, stage: str, name: str, sentence: str, retry: str, log_group: str | None = None, log_stream: str | None = None, attempts: int = 1
) -> Json:
    """The explanation object; ``runbook`` is the section of the class."""
    runbook = f"{os.environ.get(RUNBOOK_VARIABLE, 'docs/runbook.md')}#{name.lower()}"
    return {
        "stage": stage,
        "class": name,
        "sentence": f"{name} ({retry}): {' '.join(sentence.split())}",
        "retry": retry,
        "log_group": log_group,
        "log_stream": log_stream,
        "runbook": runbook,
        "attempts": attempts,
    }


def explain(event: Json, clients: Clients) -> Json:
    """The explanation of a stage that triage did not already explain.

    ``event["explain"]`` holds ``stage`` and ``explanation``, or ``stage``, ``error`` and ``cause``.
    """
    failure = event["explain"]
    if failure.get("explanation"):
        return dict(failure["explanation"])
    stage, error, cause = str(failure["stage"]), str(failure.get("error", "")), str(failure.get("cause", ""))
    content = _json(cause)
    if stage == "Train legs":
        for leg in event.get("legs", []):
            if leg.get("explanation"):
                return _legs(event["legs"])
    if stage == "Build image" and "Build" in content:
        return _build(content["Build"], clients)
    cause = str(content.get("errorMessage", cause))  # a Python Lambda's exception
    own = read_failure(cause)
    if own is not None:
        return explanation(stage=stage, name=own.name, sentence=own.sentence, retry=own.retry, log_group=_log_group(stage))
    sentence = f"{stage} failed with {error or 'an unnamed error'}: {' '.join(cause.split())[:600] or 'no cause given'}"
    return explanation(stage=stage, name="Unexpected", sentence=sentence, retry="retry", log_group=_log_group(stage))


def _legs(legs: list[Json]) -> Json:
    """The first failed leg's explanation, with the leg's name and the outcome of the others."""
    failed = [leg for leg in legs if leg.get("explanation")]
    first = dict(failed[0]["explanation"])
    if len(legs) > 1:
        trained = [leg["name"] for leg in legs if not leg.get("explanation")]
        names = ", ".join(leg["name"] for leg in failed)
        first["sentence"] += f" (leg {failed[0]['name']}; failed: {names}; trained: {', '.join(trained) or 'none'})"
    return first


def _build(build: Json, clients: Clients) -> Json:
    logs = build.get("Logs") or {}
    group, stream = logs.get("GroupName"), logs.get("StreamName")
    own = None
    if group and stream:
        own = next((found for line in reversed(clients.tail(group, stream)) if (found := read_failure(line))), None)
    if own is not None:
        return explanation(stage="Build image", name=own.name, sentence=own.sentence, retry=own.retry, log_group=group, log_stream=stream)
    messages = [
        f"{phase.get('PhaseType')}: {context['Message']}"
        for phase in build.get("Phases") or []
        for context in phase.get("Contexts") or []
        if context.get("Message")
    ]
    status = build.get("BuildStatus", "FAILED")
    sentence = f"the build ended {status}: {'; '.join(messages)[:600] or 'its log says more'}"
    return explanation(stage="Build image", name="ImageBuildFailed", sentence=sentence, retry="stop", log_group=group, log_stream=stream)


def _log_group(stage: str) -> str | None:
    groups: dict[str, str] = json.loads(os.environ.get(LOG_GROUPS_VARIABLE, "{}"))
    return groups.get(stage)


def _json(text: str) -> Json:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
