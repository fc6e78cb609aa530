"""Admit: refuses what cannot work before anything is paid for (infra/admit/admission.py).

Event: {"input": <the execution's input>, "execution": {"arn", "name", "started"}}; returns the plan.
"""

from __future__ import annotations

from typing import Any

from infra.admit.admission import Clients, Execution, admit
from infra.run.deployment import from_environment


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Lambda entry."""
    execution = Execution(**event["execution"])
    return admit(event["input"], execution, from_environment(), Clients.from_boto3(execution.region))
