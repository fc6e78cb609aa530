"""How a due schedule reaches its target: tried again when the target refuses, then sent to the schedule's dead-letter queue."""

from __future__ import annotations

import json
import logging
import uuid
from datetime import UTC, datetime
from typing import Any

from local_aws import place
from local_aws.injected_faults import ApiCall, Faults
from local_aws.place import Place
from local_aws.services import api_faults, ministack_internals
from local_aws.services.api_faults import ApiError

Json = dict[str, Any]
DEFAULT_RETRIES = 185
RETRIES_PLAYED = 2
"""At most, of the retries that a schedule's policy allows; the service spreads them over up to 24 hours."""
logger = logging.getLogger("schedules")


class Delivery:
    """Delivers in the account and region of the calling thread's request scope."""

    def __init__(self, where: Place, faults: Faults) -> None:
        self._where, self._faults = where, faults

    def deliver(self, schedule: Json, target: Json, moment: float) -> None:
        """Start the execution that ``target`` (its ``Input`` filled in) names; other targets are ministack's."""
        if ":states:" not in target.get("Arn", ""):
            ministack_internals.private("eventbridge", "_invoke_target")(target, _event(schedule, moment), schedule)
            return
        retries = min((target.get("RetryPolicy") or {}).get("MaximumRetryAttempts", DEFAULT_RETRIES), RETRIES_PLAYED)
        errors: list[ApiError] = []
        while len(errors) <= retries:
            error = self._start(target)
            if error is None:
                return
            errors.append(error)
        logger.warning("schedule %s could not start its target: %s: %s", schedule["Name"], errors[-1].code, errors[-1].message)
        queue = (target.get("DeadLetterConfig") or {}).get("Arn")
        if queue:
            self._dead_letter(queue, schedule, target, moment, errors)

    def _start(self, target: Json) -> ApiError | None:
        call = ApiCall(service="stepfunctions", operation="StartExecution", caller="schedule", subject=target["Input"])
        error = api_faults.refusal(self._faults, call)
        if error is not None:
            return error
        request = {"stateMachineArn": target["Arn"], "input": target["Input"]}
        status, _, body = ministack_internals.private("stepfunctions", "_start_execution")(request)
        if status == 200:
            return None
        said = json.loads(body)
        return ApiError(code=str(said.get("__type", "")).rpartition("#")[2], message=str(said.get("message", "")), status=status)

    def _dead_letter(self, queue: str, schedule: Json, target: Json, moment: float, errors: list[ApiError]) -> None:
        """The message that the user guide shows (Configuring a dead-letter queue): the failed request, the reasons as attributes."""
        sqs = place.client(self._where.endpoint, "sqs")
        attributes = {
            "ERROR_CODE": errors[-1].code,
            "ERROR_MESSAGE": errors[-1].message,
            "EXHAUSTED_RETRY_CONDITION": "MaximumRetryAttempts",
            "RETRY_ATTEMPTS": str(len(errors) - 1),
            "SCHEDULED_TIME": iso(moment),
            "SCHEDULE_ARN": schedule.get("Arn", ""),
            "TARGET_ARN": target["Arn"],
        }
        sqs.send_message(
            QueueUrl=sqs.get_queue_url(QueueName=queue.rpartition(":")[2])["QueueUrl"],
            MessageBody=json.dumps({"StateMachineArn": target["Arn"], "Input": target["Input"]}),
            MessageAttributes={name: {"DataType": "String", "StringValue": value or "-"} for name, value in attributes.items()},
        )


def _event(schedule: Json, moment: float) -> Json:
    return {
        "EventId": str(uuid.uuid4()),
        "Source": "aws.scheduler",
        "DetailType": "Scheduled Event",
        "Detail": "{}",
        "Time": moment,
        "Resources": [schedule.get("Arn", "")],
        "Account": ministack_internals.private("responses", "get_account_id")(),
        "Region": ministack_internals.private("responses", "get_region")(),
    }


def iso(moment: float) -> str:
    """As Scheduler writes a time: 2026-11-22T18:59:43Z."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
