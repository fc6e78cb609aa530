"""Triage, Explain and the owner's confirmation: what may be tried (again), and the sentence for people.

Four kinds of event. Three of pipeline.asl.yaml, all with "run_id" and "execution_arn":

    {"confirm": "owner", "stage": "Train", "attempt": 2}                                                 -> whether it owns the run
    {"stage": "Train", "leg": {...}, "attempt": {...}, "job": {...} | absent, "error": {...} | absent}   -> decision
    {"explain": {"stage", "error", "cause"}, "legs": [...]}                                              -> explanation

and EventBridge's "Step Functions Execution Status Change" of any execution that ended                                  -> explanation
"""

from __future__ import annotations

import datetime
import random

from contracts.config import Json
from infra.edge import log
from infra.edge.chat import show
from infra.edge.function import Container, lambda_function
from infra.edge.run_events import send
from infra.run.deployment import TriageDeployment
from infra.run.run_event import RunEvent, event_id
from infra.triage import ended, unreported
from infra.triage.explain import Clients, explain
from infra.triage.owner import confirm_owner
from infra.triage.triage import triage


@lambda_function("Triage", TriageDeployment)
def handler(event: Json, container: Container[TriageDeployment]) -> Json:
    """Confirm the owner, triage one attempt, or explain a failure."""
    clients = Clients(sagemaker=container.client("sagemaker"), logs=container.client("logs"), s3=container.client("s3"))
    if event.get("detail-type") == ended.DETAIL_TYPE:
        services = {"states": "stepfunctions", "s3": "s3", "sns": "sns", "functions": "lambda", "events": "events"}
        more = {name: container.client(service) for name, service in services.items()}
        return ended.execution_ended(event, unreported.Clients(explain=clients, **more), container.deployment)
    if event.get("confirm") == "owner":
        return confirm_owner(event, clients.s3, container.deployment)
    if "explain" in event:
        explained = explain(event, clients, container.deployment)
        log.info(str(explained["sentence"]), verdict=explained["class"], action="explain")
        return explained
    decided = triage(event, clients, container.deployment, jitter=random.random())
    if decided["again"] and not decided.get("under_way"):
        told = _retrying(event, decided, container.deployment)
        send(container.client("events"), told)
        show(container.client("sns"), container.deployment.chat_topic_arn, told, container.deployment.runbook)
    return decided


def _retrying(event: Json, decided: Json, deployment: TriageDeployment) -> RunEvent:
    number = int(event["attempt"]["number"])
    return RunEvent(
        event_id=event_id(event["execution_arn"], "RETRYING", event["stage"], event["leg"].get("name"), number),
        deployment=deployment.name,
        state="RETRYING",
        run_id=str(event["run_id"]),
        execution_arn=str(event["execution_arn"]),
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        sentence=str(decided["says"]),
        failure_class=str(decided["explanation"]["class"]),
        stage=str(event["stage"]),
        leg=event["leg"].get("name"),
        attempt=number,
    )
