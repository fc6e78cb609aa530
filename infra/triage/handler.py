"""Triage, Explain and the owner's confirmation: what may be tried (again), and the sentence for people.

Four kinds of event. Three of pipeline.asl.yaml, all with "run_id" and "execution_arn":

    {"confirm": "owner", "stage": "Train", "attempt": 2}                                                 -> whether it owns the run
    {"stage": "Train", "leg": {...}, "attempt": {...}, "job": {...} | absent, "error": {...} | absent}   -> decision
    {"explain": {"stage", "error", "cause"}, "legs": [...]}                                              -> explanation

and EventBridge's "Step Functions Execution Status Change" of an execution that did not succeed                        -> explanation
"""

from __future__ import annotations

import random

from contracts.config import Json
from infra.edge import log
from infra.edge.function import Container, lambda_function
from infra.run.deployment import TriageDeployment
from infra.triage import unreported
from infra.triage.explain import Clients, explain
from infra.triage.owner import confirm_owner
from infra.triage.triage import triage


@lambda_function("Triage", TriageDeployment)
def handler(event: Json, container: Container[TriageDeployment]) -> Json:
    """Confirm the owner, triage one attempt, or explain a failure."""
    clients = Clients(sagemaker=container.client("sagemaker"), logs=container.client("logs"), s3=container.client("s3"))
    if event.get("detail-type") == unreported.DETAIL_TYPE:
        more = {name: container.client(service) for name, service in (("states", "stepfunctions"), ("s3", "s3"), ("sns", "sns"))}
        return unreported.explain_unreported(event, unreported.Clients(explain=clients, **more), container.deployment)
    if event.get("confirm") == "owner":
        return confirm_owner(event, clients.s3, container.deployment)
    if "explain" in event:
        explained = explain(event, clients, container.deployment)
        log.info(str(explained["sentence"]), verdict=explained["class"], action="explain")
        return explained
    return triage(event, clients, container.deployment, jitter=random.random())
