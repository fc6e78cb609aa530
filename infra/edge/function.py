"""The edge of every Lambda function: the only place that reads the environment, makes clients, and turns errors into classes.

A handler module (infra/<stage>/handler.py) holds one function ``(event, container) -> answer`` under ``@lambda_function``:

    @lambda_function("Triage", TriageDeployment)
    def handler(event: Json, container: Container[TriageDeployment]) -> Json: ...

The decorator makes of it what Lambda calls, ``handler(event, context)``.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import boto3
from botocore.config import Config

from contracts.config import Json, parse
from contracts.failure import JobFailure
from infra.edge import log
from infra.edge.transient import TransientFault, transient_cause
from infra.run.deployment import VARIABLE

D = TypeVar("D")

# Four tries with pauses of at most 1 + 2 + 4 s (standard mode) heal a moment's throttling; a longer fault is TransientFault, and
# the state machine tries six times more over two minutes. A call that hangs costs at most 4 x 12 + 7 = 55 s, within Triage's minute.
CALLS = Config(retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=3, read_timeout=12)


@dataclass(frozen=True, kw_only=True)
class Container(Generic[D]):
    """What stays the same for all invocations that one container of a function serves."""

    deployment: D
    """What the stacks told the function."""
    region: str
    """The function's own region."""

    def client(self, service: str, *, region: str | None = None, config: Config = CALLS) -> Any:
        """A boto3 client under the function's role, made once for each container: making one takes about 50 ms of a whole CPU."""
        return _client(service, region or self.region, config)

    @property
    def endpoint(self) -> str:
        """Where AWS is reached instead of at its own addresses, by the variable that every SDK reads; for calls that boto3 has no client
        for. "" as a rule."""
        return os.environ.get("AWS_ENDPOINT_URL", "")


@functools.cache
def _client(service: str, region: str, config: Config) -> Any:
    return boto3.client(service, region_name=region, config=config)


def forget_clients() -> None:
    """The next call makes its clients anew, as in a fresh container."""
    _client.cache_clear()


def lambda_function(name: str, deployment: type[D]) -> Callable[[Callable[[Json, Container[D]], Json]], Callable[[Json, object], Json]]:
    """Make a Lambda entry of ``(event, container) -> answer``.

    Args:
        name: the function's, in every log line; ``stage`` is the event's where it names one (Triage serves several).
        deployment: type of the value in the environment variable DEPLOYMENT, parsed strictly.

    Raises (from the entry it returns):
        TransientFault: an AWS call failed in a way that another try can heal. Step Functions retries by this name.
        JobFailure: the function's own classed refusals, as they are; logged by who raises them.
        Exception: anything else, logged here with its traceback.
    """

    def decorate(answer: Callable[[Json, Container[D]], Json]) -> Callable[[Json, object], Json]:
        @functools.wraps(answer)
        def entry(event: Json, context: object) -> Json:
            with log.invocation(function=name, **_about(event, name), request_id=getattr(context, "aws_request_id", None)):
                try:
                    value = parse(deployment, json.loads(os.environ[VARIABLE]), VARIABLE)
                    return answer(event, Container(deployment=value, region=os.environ["AWS_REGION"]))
                except Exception as error:
                    cause = transient_cause(error)
                    if cause is not None:
                        log.exception("an AWS call failed and may work in a moment", error="TransientFault")
                        raise TransientFault(f"{name}: {cause}; the same call may work in a moment") from error
                    if not isinstance(error, JobFailure):
                        log.exception("the function failed", error=type(error).__name__)
                    raise

        return entry

    return decorate


def _about(event: Json, name: str) -> Json:
    """Run, execution and stage, as far as the event names them."""
    asking = event.get("execution") or {}
    explained = event.get("explain") or {}
    return {
        "stage": str(event.get("stage") or explained.get("stage") or name),
        "run_id": event.get("run_id"),
        "execution": event.get("execution_arn") or asking.get("arn"),
    }
