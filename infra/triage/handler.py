"""Triage and Explain: the class of a failed attempt, whether to retry, and the sentence for people.

Two kinds of event (pipeline.asl.yaml):

    {"stage": "Train", "leg": {...}, "attempt": {...}, "job": {...} | absent, "error": {...} | absent}   -> decision
    {"explain": {"stage", "error", "cause"}, "plan": {...}, "legs": [...], ...}                          -> explanation
"""

from __future__ import annotations

import random
from typing import Any

from infra.triage.explain import Clients, explain
from infra.triage.triage import triage


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Lambda entry: triage one attempt, or explain a failure."""
    clients = Clients.from_boto3()
    if "explain" in event:
        return explain(event, clients)
    return triage(event, clients, jitter=random.random())
