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

from infra.report import mlflow, sinks
from infra.report.mlflow import TrackingServer
from infra.report.read import LegFacts, RunFacts
from infra.report.sinks import Delivery, follow

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
            experiment="pretrain",
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
                last = {  # the newest value of each metric, as MLflow's latest_metrics
                    key: [
                        {"key": m, "step": step, "value": v} for m, (step, v) in {m: (s, v) for m, s, v in sorted(run["metrics"])}.items()
                    ]
                    for key, run in found
                }
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
    thread = threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True)
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


def sent(server: TrackingServer, facts: RunFacts) -> Delivery:
    found = follow(server, facts)
    assert found is not None
    return found


def test_settings_and_every_logged_value_arrive(server):
    told = sent(server.as_tracker, run_facts())
    assert (told.sentence, told.complete) == ("MLflow: 1,200 values of 1 leg were sent.", True)
    (run,) = server.runs.values()
    assert (run["name"], run["status"], run["tags"]["pretrain.recipe"]) == ("evening/main", "FINISHED", "local")
    assert run["params"]["optimizer.lr"] == "0.001"
    assert len(run["params"]["note"]) == 500
    assert len(run["metrics"]) == 1200
    assert ("loss", 400, 4.6) in run["metrics"]


def test_another_report_of_the_run_adds_what_is_new_and_nothing_twice(server):
    sent(server.as_tracker, run_facts(100, "failed"))
    assert sent(server.as_tracker, run_facts(400)).sent == 900
    assert sent(server.as_tracker, run_facts(400)).sent == 0  # Lambda tried again
    (run,) = server.runs.values()
    assert (len(run["metrics"]), run["status"]) == (1200, "FINISHED")
    assert list(server.experiments) == ["pretrain"]


def test_a_step_that_was_trained_again_with_another_value_has_one_point(server):
    sent(server.as_tracker, run_facts(100, "failed"))
    again = run_facts(120)
    rows = tuple(row | {"loss": row["loss"] + 0.01} if row["step"] > 90 else row for row in again.legs[0].rows)
    sent(server.as_tracker, dataclasses.replace(again, legs=(dataclasses.replace(again.legs[0], rows=rows),)))
    (run,) = server.runs.values()
    assert sorted(step for name, step, _ in run["metrics"] if name == "loss") == list(range(1, 121))


def test_a_batch_that_was_cut_within_its_last_step_is_completed(server):
    sent(server.as_tracker, run_facts(100))
    (run,) = server.runs.values()
    run["metrics"] = {one for one in run["metrics"] if one[:2] != ("mfu", 100)}
    assert sent(server.as_tracker, run_facts(100)).sent == 1
    assert len(run["metrics"]) == 300


def test_a_fault_in_between_is_told_and_made_good_by_the_next_report(server):
    server.refuse = "runs/log-batch"
    told = sent(server.as_tracker, run_facts())
    assert told.sentence == (
        "MLflow: runs/log-batch: 500 INTERNAL_ERROR disk full; 0 values were sent, up to 1,200 are missing there; pretrain report evening "
        "--again sends them."
    )
    assert (told.complete, told.left) == (False, 1200)
    server.refuse = ""
    sent(server.as_tracker, run_facts())
    (run,) = server.runs.values()
    assert (len(run["metrics"]), run["params"]["steps"]) == (1200, "400")


def test_no_server_costs_a_sentence(server):
    gone = dataclasses.replace(server.as_tracker, url="http://127.0.0.1:9")
    assert "experiments/create: no answer (EndpointConnectionError)" in sent(gone, run_facts()).sentence


def test_a_slow_server_gets_what_fits_the_time(server, monkeypatch):
    monkeypatch.setattr(sinks, "ALL_SECONDS", -1.0)
    told = sent(server.as_tracker, run_facts())
    assert "it took longer than" in told.sentence and told.left == 1200


def test_every_call_that_is_made_is_allowed(server):
    from infra.roles import TRACKER_CALLS

    sent(server.as_tracker, run_facts())
    sent(server.as_tracker, run_facts())
    operations = {
        "experiments/create": "CreateExperiment", "experiments/get-by-name": "GetExperimentByName", "runs/search": "SearchRuns",
        "runs/create": "CreateRun", "runs/log-batch": "LogBatch", "runs/update": "UpdateRun",
    }  # fmt: skip
    assert {operations[path] for path in server.calls} == set(TRACKER_CALLS)
