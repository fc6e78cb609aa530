"""Sends a run's events to EventBridge. A lost event fails no run: what cannot be sent is logged."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from infra.edge import log
from infra.run.run_event import RunEvent, entry


def send(events: Any, event: RunEvent) -> None:
    """Put the event on the account's default bus, or log why it is not there."""
    try:
        answer = events.put_events(Entries=[entry(event)])
    except (ClientError, BotoCoreError) as error:
        log.warning("the run's event was not sent", state=event.state, error=str(error))
        return
    failed = [item for item in answer.get("Entries", ()) if item.get("ErrorCode")]
    if failed:
        log.warning("the run's event was not taken", state=event.state, error=f"{failed[0]['ErrorCode']}: {failed[0].get('ErrorMessage')}")
