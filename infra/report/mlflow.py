"""A run's settings and curves in a tracking server of SageMaker's managed MLflow (mlflow_tracking_server_arn); infra/report/sinks.py.

The server's API is MLflow's REST API 2.0 (mlflow.org/docs, "REST API"; at most 1,000 metrics, 100 parameters and 100 tags a
log-batch), signed for the service ``sagemaker-mlflow``, at one host of the region for all servers, told apart by a header: as AWS's
own plugin sagemaker-mlflow does it. That plugin needs the mlflow package, which is a hundred times the size of the functions' zip.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from infra.report.read import Json, LegFacts, RunFacts
from infra.report.series import Row
from infra.report.sinks import SinkError, answer, measured

SERVICE = "sagemaker-mlflow"
SERVER_HEADER = "x-mlflow-sm-tracking-server-arn"
PARAMETERS_PER_CALL = 100
PARAMETER_LENGTH = 500  # letters; MLflow 2 before 2.8 refuses longer ones
RUN_TAG = "pretrain.leg"
STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


@dataclass(frozen=True, kw_only=True)
class TrackingServer:
    """One server, and whom it is asked as."""

    arn: str
    region: str
    credentials: Credentials
    experiment: str
    """Where its runs lie; made where there is none."""
    url: str = ""
    """Where its API answers; empty: where SageMaker has it."""
    name: str = "MLflow"
    values_per_call: int = 1000

    def call(self, method: str, path: str, body: Json) -> Json:
        """One call of the REST API.

        Raises:
            SinkError: no answer, or one that is no success.
        """
        url = f"{self.url or f'https://{self.region}.experiments.sagemaker.aws'}/api/2.0/mlflow/{path}"
        request = AWSRequest(method=method, url=url, headers={SERVER_HEADER: self.arn, "Content-Type": "application/json"})
        if method == "GET":
            request.params = body
        else:
            request.data = json.dumps(body, allow_nan=False).encode()
        SigV4Auth(self.credentials, SERVICE, self.region).add_auth(request)
        return answer(request.prepare(), path)

    @functools.cached_property
    def experiment_id(self) -> str:
        """Made where there is none."""
        try:
            return str(self.call("POST", "experiments/create", {"name": self.experiment})["experiment_id"])
        except SinkError as error:
            if "RESOURCE_ALREADY_EXISTS" not in str(error):
                raise
        found = self.call("GET", "experiments/get-by-name", {"experiment_name": self.experiment})
        return str(found["experiment"]["experiment_id"])

    def open(self, facts: RunFacts, leg: LegFacts) -> MlflowRun:
        """The MLflow run of this leg, found by its tag or made, with the leg's settings."""
        experiment, name = self.experiment_id, f"{facts.run_id}/{leg.name}"
        wanted = {"experiment_ids": [experiment], "filter": f"tags.`{RUN_TAG}` = '{name}'", "max_results": 1}
        found = self.call("POST", "runs/search", wanted).get("runs") or []
        run = str(found[0]["info"]["run_id"]) if found else _made(self, experiment, name, facts, leg)
        settings = [{"key": key, "value": value[:PARAMETER_LENGTH]} for key, value in _flat(leg.training)]
        for first in range(0, len(settings), PARAMETERS_PER_CALL):
            # Refused when the run went on with another value, and the code differs between MLflow's stores: it keeps the first. After
            # any other fault the metrics fail as well, and are told.
            with contextlib.suppress(SinkError):
                self.call("POST", "runs/log-batch", {"run_id": run, "params": settings[first : first + PARAMETERS_PER_CALL]})
        metrics = ((found[0].get("data") or {}).get("metrics") or []) if found else []
        steps = {str(metric["key"]): int(metric.get("step") or 0) for metric in metrics}
        ended = {"run_id": run, "status": STATUS.get(facts.outcome, "FAILED"), "end_time": _milliseconds(facts.now)}
        return MlflowRun(server=self, run=run, steps=steps, ended=ended)


@dataclass(frozen=True, kw_only=True)
class MlflowRun:
    """One leg's run."""

    server: TrackingServer
    run: str
    steps: dict[str, int]
    """The newest step of each metric that it has."""
    ended: Json
    place: str = ""

    def lacking(self, rows: Sequence[Row]) -> list[Row]:
        """From the newest step on that it has; of that step what is not there: its batch may have been cut."""
        last = max(self.steps.values(), default=0)
        return [
            {name: value for name, value in row.items() if row["step"] > last or self.steps.get(name) != last}
            for row in rows
            if row["step"] >= last
        ]

    def send(self, rows: Sequence[Row]) -> None:
        """Add values."""
        metrics = [
            {"key": name, "value": value, "timestamp": _milliseconds(row.get("time", 0.0)), "step": int(row["step"])}
            for row in rows
            for name, value in measured(row).items()
        ]
        if metrics:
            self.server.call("POST", "runs/log-batch", {"run_id": self.run, "metrics": metrics})

    def end(self) -> None:
        """Set the run's status."""
        self.server.call("POST", "runs/update", self.ended)


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


def _flat(settings: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    """``optimizer.lr`` and its value as text, for every setting."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", str(value)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
