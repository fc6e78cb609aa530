"""A run's settings and curves in a tracking server of SageMaker's managed MLflow, sent once the run has ended (mlflow_tracking_server_arn).

Training jobs have no network, so nothing is sent while they run: Report replays metrics.jsonl. Sending never fails a report: an
outage, a refusal or a slow server becomes a sentence in the execution's output, and the next report of the run sends what is missing.

The server's API is MLflow's REST API 2.0 (mlflow.org/docs, "REST API"; at most 1,000 metrics, 100 parameters and 100 tags a
log-batch), signed for the service ``sagemaker-mlflow``, at one host of the region for all servers, told apart by a header: as AWS's
own plugin sagemaker-mlflow does it. That plugin needs the mlflow package, which is a hundred times the size of the functions' zip.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session

from infra.edge import log
from infra.report.read import Json, LegFacts, RunFacts
from infra.report.series import once_per_step

SERVICE = "sagemaker-mlflow"
SERVER_HEADER = "x-mlflow-sm-tracking-server-arn"
METRICS_PER_CALL, PARAMETERS_PER_CALL = 1000, 100
PARAMETER_LENGTH = 500  # letters; MLflow 2 before 2.8 refuses longer ones
CALL_SECONDS = 10.0
ALL_SECONDS = 60.0
"""For everything; what is left then is counted and told. Report has five minutes."""
RUN_TAG = "pretrain.leg"
STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class TrackerError(Exception):
    """The tracking server did not take something; one sentence without a full stop."""


@dataclass(frozen=True, kw_only=True)
class TrackingServer:
    """One server, and whom it is asked as."""

    arn: str
    region: str
    credentials: Credentials
    url: str = ""
    """Where its API answers; empty: where SageMaker has it."""

    def call(self, method: str, path: str, body: Json) -> Json:
        """One call of the REST API.

        Raises:
            TrackerError: no answer, or one that is no success.
        """
        url = f"{self.url or f'https://{self.region}.experiments.sagemaker.aws'}/api/2.0/mlflow/{path}"
        request = AWSRequest(method=method, url=url, headers={SERVER_HEADER: self.arn, "Content-Type": "application/json"})
        if method == "GET":
            request.params = body
        else:
            request.data = json.dumps(body, allow_nan=False).encode()
        SigV4Auth(self.credentials, SERVICE, self.region).add_auth(request)
        try:
            answer = URLLib3Session(timeout=CALL_SECONDS).send(request.prepare())
        except BotoCoreError as error:
            raise TrackerError(f"{path}: no answer ({type(error).__name__})") from None
        try:
            content = json.loads(answer.content or b"{}")
        except ValueError:
            content = {}
        if answer.status_code != 200 or not isinstance(content, dict):
            said = content if isinstance(content, dict) else {}
            raise TrackerError(f"{path}: {answer.status_code} {said.get('error_code', '')} {str(said.get('message', ''))[:200]}".strip())
        return content


def send(facts: RunFacts, server: TrackingServer, experiment: str) -> str:
    """Send every leg that has begun; what became of it, in one sentence. Sending again adds what is missing and changes nothing else."""
    sent, left, deadline = 0, 0, time.monotonic() + ALL_SECONDS
    legs = [leg for leg in facts.legs if leg.rows]
    try:
        where = _experiment(server, experiment)
        for leg in legs:
            run, last = _run(server, where, facts, leg)
            for batch in _batches(leg, last):
                if time.monotonic() > deadline:
                    left += len(batch)
                    continue
                server.call("POST", "runs/log-batch", {"run_id": run, "metrics": batch})
                sent += len(batch)
            ended = {"run_id": run, "status": STATUS.get(facts.outcome, "FAILED"), "end_time": _milliseconds(facts.now)}
            server.call("POST", "runs/update", ended)
    except Exception as error:  # whatever a server answers must not cost the report
        if not isinstance(error, TrackerError):
            log.exception("sending to MLflow failed", error=type(error).__name__)
        return f"MLflow: {error or type(error).__name__}; {sent} values were sent, and the run's next report sends the rest"
    rest = f"; {left} were left out after {ALL_SECONDS:.0f} s, and the run's next report sends them" if left else ""
    return f"MLflow: {sent} values of {len(legs)} legs in experiment {experiment}{rest}"


def _experiment(server: TrackingServer, name: str) -> str:
    """Its id; made where there is none."""
    try:
        return str(server.call("POST", "experiments/create", {"name": name})["experiment_id"])
    except TrackerError as error:
        if "RESOURCE_ALREADY_EXISTS" not in str(error):
            raise
    return str(server.call("GET", "experiments/get-by-name", {"experiment_name": name})["experiment"]["experiment_id"])


def _run(server: TrackingServer, experiment: str, facts: RunFacts, leg: LegFacts) -> tuple[str, int]:
    """The MLflow run of this leg, found by its tag or made, with the leg's settings; and the last step that it has."""
    name = f"{facts.run_id}/{leg.name}"
    wanted = {"experiment_ids": [experiment], "filter": f"tags.`{RUN_TAG}` = '{name}'", "max_results": 1}
    found = server.call("POST", "runs/search", wanted).get("runs") or []
    run = str(found[0]["info"]["run_id"]) if found else _made(server, experiment, name, facts, leg)
    settings = [{"key": key, "value": value[:PARAMETER_LENGTH]} for key, value in _flat(leg.training)]
    for first in range(0, len(settings), PARAMETERS_PER_CALL):
        # Refused when the run went on with another value, and the code differs between MLflow's stores: it keeps the first. After
        # any other fault the metrics below fail as well, and are told.
        with contextlib.suppress(TrackerError):
            server.call("POST", "runs/log-batch", {"run_id": run, "params": settings[first : first + PARAMETERS_PER_CALL]})
    had = ((found[0].get("data") or {}).get("metrics") or []) if found else []
    return run, max((int(metric.get("step") or 0) for metric in had), default=0)


def _made(server: TrackingServer, experiment: str, name: str, facts: RunFacts, leg: LegFacts) -> str:
    tags = {
        RUN_TAG: name,
        "pretrain.recipe": facts.run.get("recipe"),
        "pretrain.bucket": facts.bucket,
        "pretrain.execution": facts.execution_arn,
    }
    made = {
        "experiment_id": experiment,
        "run_name": name,
        "start_time": _milliseconds(leg.rows[0].get("time", facts.now)),
        "tags": [{"key": key, "value": str(value)} for key, value in tags.items() if value],
    }
    return str(server.call("POST", "runs/create", made)["run"]["info"]["run_id"])


def _batches(leg: LegFacts, last: int) -> Iterator[list[Json]]:
    """Values in step order, from the last step on that the server has: its batch may have been cut there."""
    values = [
        {"key": name, "value": value, "timestamp": _milliseconds(row.get("time", 0.0)), "step": int(row["step"])}
        for row in once_per_step(leg.rows)
        for name, value in row.items()
        if name not in ("step", "time") and isinstance(value, (int, float)) and row["step"] >= last
    ]
    for first in range(0, len(values), METRICS_PER_CALL):
        yield values[first : first + METRICS_PER_CALL]


def _flat(settings: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    """``optimizer.lr`` and its value as text, for every setting."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", str(value)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
