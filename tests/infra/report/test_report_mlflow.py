"""A run's curves in MLflow: sent once, added to, and never at the cost of a report."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.credentials import Credentials

from infra.report import mlflow
from infra.report.mlflow import TrackingServer, send
from infra.report.read import LegFacts, RunFacts

ARN = "arn:aws:sagemaker:us-east-1:111122223333:mlflow-tracking-server/team"


class Server(ThreadingHTTPServer):
    """What MLflow's REST API documents of the calls that are made, with its limits; loopback only."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.refuse = ""
        """Path that answers 500."""

    @property
    def as_tracker(self) -> TrackingServer:
        return TrackingServer(
            arn=ARN,
            region="us-east-1",
            credentials=Credentials("AKID", "secret", "token"),
            url=f"http://127.0.0.1:{self.server_address[1]}",
        )

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.calls.append(path)
        if path == self.refuse:
            return 500, {"error_code": "INTERNAL_ERROR", "message": "disk full"}
        match path:
            case "experiments/create" if body["name"] in self.experiments:
                return 400, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "exists"}
            case "experiments/create":
                self.experiments[body["name"]] = str(len(self.experiments) + 1)
                return 200, {"experiment_id": self.experiments[body["name"]]}
            case "experiments/get-by-name":
                return 200, {"experiment": {"experiment_id": self.experiments[body["experiment_name"]]}}
            case "runs/search":
                wanted = body["filter"].split("'")[1]
                found = [(key, run) for key, run in self.runs.items() if run["tags"]["pretrain.leg"] == wanted]
                last = {key: [{"key": m, "step": step, "value": value} for m, step, value in run["metrics"]] for key, run in found}
                return 200, {"runs": [{"info": {"run_id": key}, "data": {"metrics": last[key]}} for key, _ in found]}
            case "runs/create":
                key = f"run{len(self.runs)}"
                self.runs[key] = {
                    "tags": {tag["key"]: tag["value"] for tag in body["tags"]},
                    "params": {},
                    "metrics": set(),
                    "name": body["run_name"],
                }
                return 200, {"run": {"info": {"run_id": key}}}
            case "runs/log-batch":
                metrics, params, kept = body.get("metrics", []), body.get("params", []), self.runs[body["run_id"]]["params"]
                if any(kept.get(item["key"], item["value"]) != item["value"] for item in params):
                    return 500, {"error_code": "INTERNAL_ERROR", "message": "Changing param values is not allowed."}  # as MLflow 3.17 says
                if len(metrics) > 1000 or len(params) > 100 or any(len(item["value"]) > 500 for item in params):
                    return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "too many"}
                self.runs[body["run_id"]]["metrics"] |= {(m["key"], m["step"], m["value"]) for m in metrics}
                self.runs[body["run_id"]]["params"] |= {item["key"]: item["value"] for item in params}
                return 200, {}
            case "runs/update":
                self.runs[body["run_id"]]["status"] = body["status"]
                return 200, {"run_info": {}}
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        signed = self.headers.get("Authorization", "")
        assert "/us-east-1/sagemaker-mlflow/aws4_request" in signed and mlflow.SERVER_HEADER in signed, signed
        assert self.headers[mlflow.SERVER_HEADER] == ARN
        given = json.loads(body) if body else {key: values[0] for key, values in parse_qs(parts.query).items()}
        status, answer = self.server.answer(parts.path.removeprefix("/api/2.0/mlflow/"), given)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _handle

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join(5)


def run_facts(steps: int = 400, outcome: str = "succeeded") -> RunFacts:
    rows = tuple(
        {"step": float(step), "time": 1e9 + step, "loss": 5 - step / 1000, "lr": 1e-3, "mfu": 40.0} for step in range(1, steps + 1)
    )
    leg = LegFacts(name="main", training={"steps": steps, "optimizer": {"lr": 1e-3}, "note": "x" * 900, "none": None}, rows=rows)
    return RunFacts(
        run_id="evening", bucket="data", region="us-east-1", outcome=outcome, now=2e9, run={"recipe": "local"},
        legs=(leg, LegFacts(name="never-begun", training={})),
    )  # fmt: skip


def test_settings_and_every_logged_value_arrive(server):
    told = send(run_facts(), server.as_tracker, "pretrain")
    assert told == "MLflow: 1200 values of 1 legs in experiment pretrain"
    (run,) = server.runs.values()
    assert (run["name"], run["status"], run["tags"]["pretrain.recipe"]) == ("evening/main", "FINISHED", "local")
    assert run["params"]["optimizer.lr"] == "0.001"
    assert len(run["params"]["note"]) == 500
    assert len(run["metrics"]) == 1200
    assert ("loss", 400, 4.6) in run["metrics"]


def test_another_report_of_the_run_adds_what_is_new(server):
    send(run_facts(100, "failed"), server.as_tracker, "pretrain")
    assert "903 values" in send(run_facts(400), server.as_tracker, "pretrain")  # 300 steps, and the last one that was there
    (run,) = server.runs.values()
    assert (len(run["metrics"]), run["status"]) == (1200, "FINISHED")
    assert list(server.experiments) == ["pretrain"]


def test_a_fault_in_between_is_told_and_made_good_by_the_next_report(server):
    server.refuse = "runs/log-batch"
    assert send(run_facts(), server.as_tracker, "pretrain").startswith(
        "MLflow: runs/log-batch: 500 INTERNAL_ERROR disk full; 0 values were sent"
    )
    server.refuse = ""
    send(run_facts(), server.as_tracker, "pretrain")
    (run,) = server.runs.values()
    assert (len(run["metrics"]), run["params"]["steps"]) == (1200, "400")


def test_no_server_costs_a_sentence(server):
    gone = dataclasses.replace(server.as_tracker, url="http://127.0.0.1:9")
    assert "experiments/create: no answer" in send(run_facts(), gone, "pretrain")


def test_a_slow_server_gets_what_fits_the_time(server, monkeypatch):
    monkeypatch.setattr(mlflow, "ALL_SECONDS", -1.0)
    assert "1200 were left out" in send(run_facts(), server.as_tracker, "pretrain")


def test_every_call_that_is_made_is_allowed(server):
    from infra.roles import TRACKER_CALLS

    send(run_facts(), server.as_tracker, "pretrain")
    send(run_facts(), server.as_tracker, "pretrain")
    operations = {
        "experiments/create": "CreateExperiment", "experiments/get-by-name": "GetExperimentByName", "runs/search": "SearchRuns",
        "runs/create": "CreateRun", "runs/log-batch": "LogBatch", "runs/update": "UpdateRun",
    }  # fmt: skip
    assert {operations[path] for path in server.calls} == set(TRACKER_CALLS)
