"""`pretrain report --again`: the call that an execution made to the function Report, once more. The report is written anew, and trackers
and Model Registry get what they lack: both are found as they are, so that nothing comes twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from botocore.config import Config

from infra.cli.exits import CommandError, Exit
from infra.cli.find_run import FoundRun, describe
from infra.cli.target import Target
from infra.run.run_lock import ACTIVE

# One call that lasts as long as the function may: asked again by itself it would run beside the first.
CALL = Config(read_timeout=620, retries={"total_max_attempts": 1})
OWN = {"run_id", "execution_arn", "outcome"}
"""What the payload of Report has and that of no other function; see infra/pipeline.asl.yaml."""


def write_again(target: Target, found: FoundRun) -> list[str]:
    """Call Report as the run's execution did; what became of each sink, a sentence each.

    Raises:
        CommandError: the execution is active, or has not come to its report, or the function failed.
    """
    described = describe(target, found.execution)
    if described is not None and described["status"] in ACTIVE:
        raise CommandError(
            f"run {found.run_id} is active, and its report is written when it ends; pretrain watch {found.run_id}", Exit.FAILED
        )
    call = next(_calls(target, found.execution), None) if described is not None else None
    if call is None:
        raise CommandError(
            f"the execution of run {found.run_id} has not come to its report, or is too long ago; with pretrain start --again "
            f"{found.run_id} the run goes on and is reported again",
            Exit.NOT_FOUND,
        )
    functions = target.session.client("lambda", region_name=target.region, endpoint_url=target.endpoint, config=CALL)
    answer = functions.invoke(FunctionName=call["FunctionName"], Payload=json.dumps(call["Payload"]).encode())
    body = json.loads(answer["Payload"].read() or b"{}")
    if answer.get("FunctionError"):
        said = f"{body.get('errorType', 'no answer')}: {body.get('errorMessage', '')}"
        raise CommandError(f"the report could not be written: {said}; pretrain logs {found.run_id} --stage report", Exit.FAILED)
    return [str(each["sentence"]) for each in body.get("sinks") or ()]


def _calls(target: Target, execution_arn: str) -> Iterator[dict[str, Any]]:
    """Arguments of the execution's calls to Report, the newest first."""
    pages = target.client("stepfunctions").get_paginator("get_execution_history").paginate(executionArn=execution_arn, reverseOrder=True)
    for page in pages:
        for event in page["events"]:
            arguments = json.loads((event.get("taskScheduledEventDetails") or {}).get("parameters") or "{}")
            payload = arguments.get("Payload")
            if isinstance(payload, dict) and payload.keys() >= OWN:
                yield arguments
