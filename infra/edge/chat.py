"""Shows a run's events in the chat channel, where there is one. What cannot be shown is logged and fails no run."""

from __future__ import annotations

import json
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from infra.edge import log
from infra.run.chat_message import chat_message
from infra.run.run_event import RunEvent


def show(sns: Any, topic_arn: str | None, event: RunEvent, runbook: str) -> None:
    """Publish the event for the chat channel, or log why it is not there; does nothing where there is no channel."""
    if topic_arn is None:
        return
    try:
        sns.publish(TopicArn=topic_arn, Message=json.dumps(chat_message(event, runbook)))
    except (ClientError, BotoCoreError) as error:
        log.warning("the run's event was not shown in the chat channel", state=event.state, error=str(error))
