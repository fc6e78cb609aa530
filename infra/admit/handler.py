"""Admit: refuses what cannot work before anything is paid for (infra/admit/admission.py).

Event (pipeline.asl.yaml): {"input": the execution's input, "execution": {"arn", "name", "started"}}.
"""

from __future__ import annotations

import datetime

from contracts.config import Json, parse
from infra.admit.admission import Refused, admit
from infra.admit.commit import Execution
from infra.admit.gather import Clients
from infra.edge import log
from infra.edge.function import Container, lambda_function
from infra.edge.run_events import send
from infra.run.deployment import Deployment
from infra.run.run_event import RunEvent, event_id
from infra.sagemaker.prices import PRICE_CALLS, PriceReader, pricing_region


@lambda_function("Admit", Deployment)
def handler(event: Json, container: Container[Deployment]) -> Json:
    """The plan of the run, or Refused with every reason."""
    try:
        plan = admit(event["input"], _execution(event), container.deployment, clients(container))
    except Refused as refused:
        log.warning("refused", problems=[str(problem) for problem in refused.problems])
        raise
    if "skipped" in plan:
        log.info("gives way", reason=plan["skipped"])
    else:
        admitted = {"recipe": plan["recipe"], "usd": plan["admitted"]["estimate"]["usd"], "legs": [leg["name"] for leg in plan["legs"]]}
        there = {"image_exists": plan["image"]["exists"], "data_exists": plan["tokens"]["exist"]}
        log.info("admitted", **admitted, **there)
        send(container.client("events"), _admitted(plan, _execution(event), container.deployment))
    return plan


def _admitted(plan: Json, execution: Execution, deployment: Deployment) -> RunEvent:
    legs, usd = len(plan["legs"]), plan["admitted"]["estimate"]["usd"]
    money = f"about ${usd:,.2f}" if usd is not None else "a cost that is not known"
    return RunEvent(
        event_id=event_id(execution.arn, "ADMITTED"),
        deployment=deployment.name,
        state="ADMITTED",
        run_id=plan["run_id"],
        execution_arn=execution.arn,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        sentence=f"Admitted: {legs} {'leg' if legs == 1 else 'legs'} of recipe {plan['recipe']}, {money}.",
        started_by=execution.started_by,
        recipe=plan["recipe"],
        estimate_usd=usd,
    )


def _execution(event: Json) -> Execution:
    given = event["input"]
    who = given.get("started_by") if isinstance(given, dict) else None
    return parse(Execution, event["execution"] | {"started_by": who if isinstance(who, str) else None}, "execution")


def clients(container: Container[Deployment]) -> Clients:
    """Admit's clients, made once for each container."""
    pricing = container.client("pricing", region=pricing_region(container.region), config=PRICE_CALLS)
    return Clients(
        s3=container.client("s3"),
        ecr=container.client("ecr"),
        states=container.client("stepfunctions"),
        sagemaker=container.client("sagemaker"),
        quotas=container.client("service-quotas"),
        secrets=container.client("secretsmanager"),
        price=PriceReader(pricing, container.region, _table_answers),
    )


def _table_answers(why: str) -> None:
    log.warning("the Pricing API could not be read; the dated table answers", error=why)
