"""EventBridge Scheduler's features that ministack lacks: time zones, scheduled times, and keywords in the input."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from local_aws.services import ministack_internals
from local_aws.services.schedule_delivery import Delivery, iso

Json = dict[str, Any]
TICK_SECONDS = 0.5
"""ministack looks every 10 s; a schedule should fire at its second."""
logger = logging.getLogger("schedules")


def install(delivery: Delivery) -> None:
    """Replace ministack's decision on what is due; ministack stores the schedules, and its thread calls the tick."""
    ticker = Ticker(time.time(), delivery)
    ministack_internals.replace("scheduler", "_SCHEDULE_TICK_INTERVAL", lambda original: TICK_SECONDS)
    ministack_internals.replace("scheduler", "_tick_schedules", lambda original: ticker.tick)

    handlers = ministack_internals.private("provisioners", "_RESOURCE_HANDLERS")["AWS::Scheduler::Schedule"]
    handlers["create"] = _keeping_properties(handlers["create"])
    handlers["update"] = _keeping_properties(handlers["update"])


def _keeping_properties(original: Callable[..., Any]) -> Callable[..., Any]:
    """A CloudFormation handler that also keeps what ministack drops: the time zone, above all."""

    def provision(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        properties = next(item for item in reversed(arguments) if isinstance(item, dict))  # the new ones, of an update
        schedule = ministack_internals.private("scheduler", "_schedules")[f"{properties.get('GroupName', 'default')}/{result[0]}"]
        for name in ("ScheduleExpressionTimezone", "StartDate", "EndDate", "KmsKeyArn"):
            if name in properties:
                schedule[name] = properties[name]
        schedule["LastModificationDate"] = time.time()
        return result

    return provision


class Ticker:
    """Fires due schedules. Times that passed while the embedded AWS was down are skipped."""

    def __init__(self, started: float, delivery: Delivery) -> None:
        self._started, self._delivery = started, delivery
        self._fired: dict[tuple[object, ...], float] = {}

    def tick(self) -> None:
        """One look at every schedule."""
        store = ministack_internals.private("scheduler", "_schedules")._data
        for (account, region, name), schedule in list(store.items()):
            if schedule.get("State") != "ENABLED":
                continue
            # A changed schedule starts anew: LastModificationDate is part of its identity.
            identity = (account, region, name, schedule["LastModificationDate"])
            after = self._fired.get(identity, max(self._started, schedule["LastModificationDate"]) - 0.001)
            now = time.time()
            for moment in firings(schedule, after, now):
                self._fired[identity] = moment
                self._fire(schedule, moment, account, region)
                if schedule["ScheduleExpression"].startswith("at(") and schedule.get("ActionAfterCompletion") == "DELETE":
                    store.pop((account, region, name), None)

    def _fire(self, schedule: Json, moment: float, account: str, region: str) -> None:
        target = dict(schedule.get("Target") or {})
        target["Input"] = substitute(target.get("Input") or "{}", schedule.get("Arn", ""), moment)
        logger.info("schedule %s fires for %s", schedule["Name"], iso(moment))
        with ministack_internals.private("responses", "request_scope")(account, region):
            self._delivery.deliver(schedule, target, moment)


def firings(schedule: Json, after: float, now: float) -> Iterator[float]:
    """Moments in (after, now] at which the schedule is due, in seconds since the epoch."""
    expression = schedule["ScheduleExpression"].strip()
    begin, end = _epoch(schedule.get("StartDate")), _epoch(schedule.get("EndDate"))
    zone = ZoneInfo(schedule.get("ScheduleExpressionTimezone") or "UTC")
    for moment in _moments(expression, zone, after, begin if begin is not None else schedule["CreationDate"]):
        if moment > now or (end is not None and moment > end):
            return
        if moment > after and (begin is None or moment >= begin):
            yield moment


def _moments(expression: str, zone: ZoneInfo, after: float, anchor: float) -> Iterator[float]:
    if expression.startswith("at("):
        yield datetime.fromisoformat(expression[3:-1].strip()).replace(tzinfo=zone).timestamp()
        return
    interval = ministack_internals.private("eventbridge", "_parse_rate_seconds")(expression)
    if interval:
        # Without a start date a rate begins at once, and goes on from there.
        number = max(0, int((after - anchor) // interval))
        while True:
            yield anchor + number * interval
            number += 1
    fields = ministack_internals.private("eventbridge", "_parse_cron_fields")(expression)
    local = datetime.fromtimestamp(after, zone).replace(tzinfo=None)
    while fields is not None:
        found = ministack_internals.private("eventbridge", "_cron_next_fire")(fields, local)
        if found is None:
            return
        local = found.replace(tzinfo=None)  # wall-clock time of the zone; a minute that daylight saving skips moves on by the gap
        yield local.replace(tzinfo=zone).astimezone(UTC).timestamp()


def substitute(text: str, arn: str, moment: float) -> str:
    """The target's input with Scheduler's context keywords filled in."""
    values = {
        "<aws.scheduler.schedule-arn>": arn,
        "<aws.scheduler.scheduled-time>": iso(moment),
        "<aws.scheduler.execution-id>": str(uuid.uuid4()),
        "<aws.scheduler.attempt-number>": "1",
    }
    for keyword, value in values.items():
        text = text.replace(keyword, json.dumps(value)[1:-1])
    return text


def _epoch(value: Any) -> float | None:
    if value is None or isinstance(value, (int, float)):
        return value
    parsed = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def soon(seconds: float, zone: str) -> str:
    """An ``at(...)`` expression that is due in about ``seconds``, in the wall-clock time of ``zone``."""
    moment = datetime.now(ZoneInfo(zone)) + timedelta(seconds=seconds)
    return f"at({moment.replace(tzinfo=None).isoformat(timespec='seconds')})"
