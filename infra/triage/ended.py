"""The end of an execution: its event, and for one that could not explain itself its explanation, its message and its report.

EventBridge's "Step Functions Execution Status Change" calls this for every execution of the machine, whatever ended it: the run's
last event does not depend on any state of the machine.
"""

from __future__ import annotations

import datetime
import json

from contracts.config import Json
from infra.edge.chat import show
from infra.edge.run_events import send
from infra.run.deployment import TriageDeployment
from infra.run.layout import RunLayout, uri
from infra.run.run_event import RunEvent, State, event_id
from infra.run.run_id import run_id_of
from infra.triage.history import admitted_run
from infra.triage.unreported import Clients, explain_unreported, input_of

DETAIL_TYPE = "Step Functions Execution Status Change"
STATUSES = ("SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED")
REFUSED = "Refused"
"""Class of an input that was refused."""
FIRST_EVENTS = 100  # Admit's output is among the first dozen


def execution_ended(event: Json, clients: Clients, deployment: TriageDeployment) -> Json:
    """Explain and report what did not explain itself, then tell the run's end."""
    arn = str(event["detail"]["executionArn"])
    execution = clients.states.describe_execution(executionArn=arn)
    if execution["status"] not in STATUSES:  # redriven meanwhile
        return {"ended": False}
    first = clients.states.get_execution_history(executionArn=arn, maxResults=FIRST_EVENTS)["events"]
    run_id = admitted_run(first) or run_id_of(input_of(execution), str(execution["name"]))
    explained = explain_unreported(execution, run_id, clients, deployment) if execution["status"] != "SUCCEEDED" else {}
    told = run_event(execution, run_id, explained, deployment)
    send(clients.events, told)
    show(clients.sns, deployment.chat_topic_arn, told, deployment.runbook)
    return explained


def run_event(execution: Json, run_id: str, explained: Json, deployment: TriageDeployment) -> RunEvent:
    """The last event of an execution; ``explained`` is the explanation of one that had none."""
    output = _output(execution)
    error, cause = str(execution.get("error") or ""), str(execution.get("cause") or "")
    name = explained.get("class") or error or None
    state = _state(execution, output, name)
    told = output.get("skipped") or output.get("headline") or explained.get("sentence") or cause or error or state.lower()
    ended = execution.get("stopDate") or datetime.datetime.now(datetime.UTC)
    usd, who = output.get("usd"), input_of(execution).get("started_by")
    return RunEvent(
        event_id=event_id(execution["executionArn"], state, *filter(None, [execution.get("redriveCount")])),  # a redriven one ends again
        deployment=deployment.name,
        state=state,
        run_id=run_id,
        execution_arn=str(execution["executionArn"]),
        time=ended.astimezone(datetime.UTC).isoformat(timespec="milliseconds"),
        sentence=str(told),
        started_by=who if isinstance(who, str) else None,
        failure_class=name if state in ("FAILED", "REFUSED") else None,
        usd=float(usd) if isinstance(usd, (int, float)) else None,
        report=None if state in ("REFUSED", "GAVE_WAY") else uri(deployment.bucket, RunLayout(run_id).report_html),
    )


def _state(execution: Json, output: Json, name: str | None) -> State:
    if execution["status"] == "SUCCEEDED":
        return "GAVE_WAY" if output.get("skipped") else "TRAINED"
    if execution["status"] == "FAILED":
        return "REFUSED" if name == REFUSED else "FAILED"
    return "STOPPED" if execution["status"] == "ABORTED" else "TIMED_OUT"


def _output(execution: Json) -> Json:
    try:
        value = json.loads(execution.get("output") or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
