"""A run's event as a message that Amazon Q Developer in chat applications shows in a channel. Pure.

Its custom notifications are JSON of version 1.0 and source "custom" ("Custom notifications" in its administrator guide); any other
text on the topic is dropped without notice. Messages of one execution form a thread.
"""

from __future__ import annotations

from contracts.config import Json
from infra.run.run_event import RunEvent

TITLES = {
    "ADMITTED": "Admitted", "REFUSED": "Refused", "GAVE_WAY": "Gave way", "RETRYING": "Trying again", "TRAINED": "Trained",
    "FAILED": "Failed", "STOPPED": "Stopped", "TIMED_OUT": "Timed out",
}  # fmt: skip
TITLE, SUMMARY, DESCRIPTION = 150, 250, 2900
"""Characters. Slack's own blocks hold 150 in a header and 3,000 in a section."""


def chat_message(event: RunEvent, runbook: str) -> Json:
    """The custom notification of an event; ``runbook`` is the page that classes are sections of."""
    title = f"{TITLES[event.state]}: {event.run_id} ({event.deployment})"
    known = {"state": event.state, "leg": event.leg, "attempt": event.attempt, "started by": event.started_by, "USD": event.usd}
    return {
        "version": "1.0",
        "source": "custom",
        "id": event.event_id,
        "content": {
            "textType": "client-markdown",
            "title": _short(title, TITLE),
            "description": _short(event.sentence, DESCRIPTION),
            "nextSteps": _next_steps(event, runbook),
            "keywords": [event.deployment, event.state],
        },
        "metadata": {
            "threadId": event.execution_arn.rsplit(":", 1)[-1],
            "summary": _short(f"{title}: {event.sentence}", SUMMARY),
            "eventType": f"pretrain-{event.state}",
            "relatedResources": [event.execution_arn, *([event.report] if event.report else [])],
            "additionalContext": {name: str(value) for name, value in known.items() if value is not None},
        },
    }


def _next_steps(event: RunEvent, runbook: str) -> list[str]:
    steps = [f"{runbook}#{event.failure_class.lower()}"] if event.failure_class else []
    steps += [f"`pretrain report {event.run_id}`"] if event.report else []
    if event.state in ("FAILED", "STOPPED", "TIMED_OUT"):
        steps.append(f"`pretrain start --again {event.run_id}`")
    return steps


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 4] + " ..."
