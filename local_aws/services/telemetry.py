"""Notifications and metrics: messages of topics, metrics of executions and queues, and alarms evaluated by CloudWatch's rules.

ministack sends SNS e-mail nowhere, has no ``AWS/States`` and no ``AWS/SQS`` metrics, and evaluates an alarm over every
dimension at once and only when a metric arrives.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local_aws.services import ministack_internals

Json = dict[str, Any]
MESSAGES = "messages.jsonl"
"""In the embedded AWS's folder: every published message, one JSON line each, with who would have got e-mail."""
EVALUATE_SECONDS = 2.0
QUEUE_SECONDS = 60.0
"""SQS sends each queue's metrics once a minute."""
_METRICS = {
    "RUNNING": "ExecutionsStarted",
    "SUCCEEDED": "ExecutionsSucceeded",
    "FAILED": "ExecutionsFailed",
    "TIMED_OUT": "ExecutionsTimedOut",
    "ABORTED": "ExecutionsAborted",
}
logger = logging.getLogger("telemetry")


def install(home: Path) -> None:
    """Wrap ministack's functions and start evaluating alarms."""
    ministack_internals.replace("sns", "_fanout", lambda original: _recording(original, home / MESSAGES))
    ministack_internals.replace("stepfunctions", "_emit_execution_status_event", _with_metrics)
    ministack_internals.replace("cloudwatch", "_evaluate_alarm", lambda original: _evaluate)
    threading.Thread(target=_evaluate_regularly, name="alarms", daemon=True).start()


def _recording(original: Callable[..., None], path: Path) -> Callable[..., None]:
    lock = threading.Lock()

    def fanout(topic_arn: str, message_id: str, message: str, subject: str, *arguments: Any, **named: Any) -> None:
        topics = ministack_internals.private("sns", "_topics")
        subscriptions = (topics.get(topic_arn) or {}).get("subscriptions", [])
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "topic": topic_arn,
            "subject": subject,
            "message": message,
            "email": [item["endpoint"] for item in subscriptions if item.get("protocol") == "email"],
        }
        with lock, path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        original(topic_arn, message_id, message, subject, *arguments, **named)

    return fanout


def _with_metrics(original: Callable[[Json], None]) -> Callable[[Json], None]:
    def emit(execution: Json) -> None:
        original(execution)
        dimensions = {"StateMachineArn": execution["stateMachineArn"]}
        record = ministack_internals.private("cloudwatch", "record_metric")
        record("AWS/States", _METRICS[execution["status"]], 1, "Count", dimensions)
        if execution.get("stopDate"):
            begun, ended = (datetime.fromisoformat(execution[key].replace("Z", "+00:00")) for key in ("startDate", "stopDate"))
            record("AWS/States", "ExecutionTime", (ended - begun).total_seconds() * 1000, "Milliseconds", dimensions)

    return emit


# -- alarms --------------------------------------------------------------------------------------------------


def _evaluate_regularly() -> None:
    counted = float("-inf")
    while True:
        time.sleep(EVALUATE_SECONDS)
        if time.monotonic() - counted >= QUEUE_SECONDS:
            counted = time.monotonic()
            _count_messages()
        store = ministack_internals.private("cloudwatch", "_alarms")
        for account, region in {key[:2] for key in list(store._data)}:
            with ministack_internals.private("responses", "request_scope")(account, region):
                ministack_internals.private("cloudwatch", "_evaluate_all_alarms")()


def _count_messages() -> None:
    """The number of visible messages of each queue, as SQS publishes it."""
    for (account, region, _), queue in list(ministack_internals.private("sqs", "_queues")._data.items()):
        with ministack_internals.private("responses", "request_scope")(account, region):
            visible = sum(message["visible_at"] <= time.time() for message in list(queue["messages"]))
            record = ministack_internals.private("cloudwatch", "record_metric")
            record("AWS/SQS", "ApproximateNumberOfMessagesVisible", visible, "Count", {"QueueName": queue["name"]})


def _evaluate(alarm: Json) -> None:
    """One alarm on one metric, by CloudWatch's rules: M out of N periods, its dimensions only, missing data as told."""
    if not alarm.get("MetricName"):
        return  # metric math; the project's alarms have none
    breaching = [_breaches(alarm, values) for values in _periods(alarm)]
    missing = alarm.get("TreatMissingData") or "missing"
    if all(item is None for item in breaching):
        state: str = {"missing": "INSUFFICIENT_DATA", "breaching": "ALARM", "notBreaching": "OK"}.get(missing, str(alarm["StateValue"]))
    else:
        count = sum(item is True or (item is None and missing == "breaching") for item in breaching)
        needed = alarm.get("DatapointsToAlarm") or alarm.get("EvaluationPeriods", 1)
        known = sum(item is not None for item in breaching)
        if missing in ("missing", "ignore") and known < needed and count < needed:
            return  # not enough points to judge: the state stays
        state = "ALARM" if count >= needed else "OK"
    if state != alarm["StateValue"]:
        _transition(alarm, state)


def _periods(alarm: Json) -> Iterable[list[Json]]:
    """Points of the alarm's metric in each of its last periods, newest first."""
    wanted = {item["Name"]: item["Value"] for item in alarm.get("Dimensions") or []}
    points = [
        point
        for (namespace, name, _), series in list(ministack_internals.private("cloudwatch", "_metrics").items())
        if (namespace, name) == (alarm["Namespace"], alarm["MetricName"])
        for point in list(series)
        if point["Dimensions"] == wanted
    ]
    period, now = alarm.get("Period", 60), time.time()
    for number in range(alarm.get("EvaluationPeriods", 1)):
        end = now - number * period
        yield [point for point in points if end - period < point["Timestamp"] <= end]


def _breaches(alarm: Json, points: list[Json]) -> bool | None:
    """Whether one period's statistic crosses the threshold; None without points."""
    values = [float(point["Value"]) for point in points if point.get("Value") is not None]
    if not values:
        return None
    statistics: dict[str, float] = {
        "Average": sum(values) / len(values),
        "Sum": sum(values),
        "Minimum": min(values),
        "Maximum": max(values),
        "SampleCount": len(values),
    }
    value, threshold = statistics.get(alarm.get("Statistic", "Average"), max(values)), float(alarm.get("Threshold", 0))
    return {
        "GreaterThanOrEqualToThreshold": value >= threshold,
        "GreaterThanThreshold": value > threshold,
        "LessThanThreshold": value < threshold,
        "LessThanOrEqualToThreshold": value <= threshold,
    }.get(alarm.get("ComparisonOperator", ""), False)


def _transition(alarm: Json, state: str) -> None:
    before, words = alarm["StateValue"], {"ALARM": "crossed", "OK": "not crossed", "INSUFFICIENT_DATA": "no data for"}[state]
    reason = f"Threshold {words}: {alarm.get('Statistic')} {alarm['MetricName']} {alarm.get('ComparisonOperator')} {alarm.get('Threshold')}"
    alarm.update(StateValue=state, StateReason=reason, StateUpdatedTimestamp=int(time.time()))
    ministack_internals.private("cloudwatch", "_record_history")(alarm["AlarmName"], before, state, reason)
    ministack_internals.private("cloudwatch", "_dispatch_alarm_actions")(alarm, before, state, reason)
