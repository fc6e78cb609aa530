"""A run's settings and curves in a project of Weights & Biases (setting wandb); infra/report/sinks.py.

What W&B documents is its SDK, which starts a program of its own (34 MB) and uploads in the background. What the SDK sends is three
requests, and these are sent here (docs/decisions.md; tests/infra/report/wandb_sdk.json holds the SDK's own, recorded):

    RunResumeStatus    what the server has of the run: how many lines, and the last one
    UpsertBucket       the run with its settings; made where there is none
    file_stream        lines of wandb-history.jsonl at an offset, the summary, and at the end an exit code
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError

from infra.report.read import Json, LegFacts, RunFacts
from infra.report.series import Row
from infra.report.sinks import SinkError, answer, measured
from infra.run.layout import RunLayout, uri
from infra.run.sink_settings import WandbProject

NAME = "Weights & Biases"
PUBLIC_API, PUBLIC_PAGES = "https://api.wandb.ai", "https://wandb.ai"
SECRET_FIELD = "WANDB_API_KEY"
RESUME_STATUS = """query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    bucket(name: $name, missingOk: true) { historyLineCount historyTail summaryMetrics }
  }
}"""
UPSERT = """mutation UpsertBucket(
  $name: String, $project: String, $entity: String, $groupName: String, $displayName: String, $config: JSONString, $jobType: String,
  $tags: [String!]
) {
  upsertBucket(input: {
    name: $name, modelName: $project, entityName: $entity, groupName: $groupName, displayName: $displayName, config: $config,
    jobType: $jobType, tags: $tags
  }) {
    bucket { name project { name entity { name } } }
  }
}"""
EXIT_CODES = {"succeeded": 0, "stopped": 255}
"""What the SDK sends: W&B shows 0 as finished, 255 (Ctrl-C) as killed, any other as failed."""


@dataclass(frozen=True, kw_only=True)
class WandbServer:
    """One project, and the key that it is asked with."""

    project: WandbProject
    secrets: Any
    """A boto3 client of Secrets Manager."""
    name: str = NAME
    values_per_call: int = 10_000
    """About 400 kB; the SDK sends up to 10 MB."""

    @functools.cached_property
    def api_key(self) -> str:
        """Read when it is first needed, and kept nowhere else."""
        return read_api_key(self.secrets, self.project)

    def call(self, path: str, what: str, body: Json) -> Json:
        """One request.

        Raises:
            SinkError: no answer, or one that is no success.
        """
        signed = base64.b64encode(f"api:{self.api_key}".encode()).decode()
        headers = {"Authorization": f"Basic {signed}", "Content-Type": "application/json", "User-Agent": "pretrain"}
        data = json.dumps(body, allow_nan=False).encode()
        return answer(AWSRequest(method="POST", url=f"{self.project.base_url}/{path}", headers=headers, data=data).prepare(), what)

    def graphql(self, query: str, variables: Json) -> Json:
        """One query's data. GraphQL answers an error with 200."""
        operation = re.split(r"[ (]", query)[1]
        found = self.call("graphql", operation, {"query": query, "operationName": operation, "variables": variables})
        errors, data = found.get("errors"), found.get("data")
        if errors or not isinstance(data, dict):
            said = errors[0].get("message", "") if isinstance(errors, list) and isinstance(errors[0], dict) else "no data"
            raise SinkError(f"{operation}: {str(said)[:200]}")
        return data

    def open(self, facts: RunFacts, leg: LegFacts) -> WandbRun:
        """The leg's run in the project, made where there is none, with its settings as they are now."""
        name = run_name(facts, leg)
        where = {"project": self.project.project, "entity": self.project.entity, "name": name}
        model = self.graphql(RESUME_STATUS, where).get("model") or {}
        had = model.get("bucket") or {}
        variables = where | {
            "groupName": facts.run_id,
            "displayName": f"{facts.run_id}/{leg.name}",
            "jobType": "train",
            "tags": [str(facts.run["recipe"])] if facts.run.get("recipe") else [],
            "config": json.dumps(config(facts, leg)),
        }
        made = _inner(self.graphql(UPSERT, variables), "upsertBucket", "bucket")
        project = _inner(made, "project")
        entity = str(_inner(project, "entity").get("name") or self.project.entity or "")
        path = "/".join(quote(str(part), safe="") for part in (entity, project.get("name"), made.get("name")))
        return WandbRun(
            server=self,
            path=path,
            exit_code=EXIT_CODES.get(facts.outcome, 1),
            started=leg.rows[0].get("time", facts.now),
            lines=int(had.get("historyLineCount") or 0),
            last=last_step(had),
            summary=_object(had.get("summaryMetrics")),
        )


@dataclass(kw_only=True)
class WandbRun:
    """One leg's run."""

    server: WandbServer
    path: str
    """Entity, project and run, for addresses."""
    exit_code: int
    started: float
    lines: int
    """Lines of history that it has."""
    last: int | None
    """The step of the last of them."""
    summary: Json
    """The newest value of each metric."""

    @property
    def place(self) -> str:
        """Its page."""
        base = self.server.project.base_url
        entity, project, run = self.path.split("/")
        return f"{PUBLIC_PAGES if base == PUBLIC_API else base}/{entity}/{project}/runs/{run}"

    def lacking(self, rows: Sequence[Row]) -> list[Row]:
        """Steps after the last one that it has: W&B's steps only go up, and a line is stored whole."""
        return [row for row in rows if self.last is None or row["step"] > self.last]

    def send(self, rows: Sequence[Row]) -> None:
        """Append lines at the offset that the server named; the same lines at the same offset again change nothing."""
        lines = [self._line(row) for row in rows]
        for line in lines:
            self.summary |= line
        files = {"wandb-history.jsonl": {"offset": self.lines, "content": [json.dumps(line) for line in lines]}}
        self._stream({"files": files})
        self.lines += len(lines)

    def end(self) -> None:
        """Put the summary and the exit code; W&B shows the run as crashed without one."""
        files = {"wandb-summary.json": {"offset": 0, "content": [json.dumps(self.summary)]}}
        self._stream({"files": files, "complete": True, "exitcode": self.exit_code})

    def _line(self, row: Row) -> Json:
        time = row.get("time", self.started)
        own = {"_step": int(row["step"]), "_timestamp": time, "_runtime": time - self.started}
        return {name.replace(".", "/"): value for name, value in measured(row).items()} | own

    def _stream(self, body: Json) -> None:
        self.server.call(f"files/{self.path}/file_stream", "file_stream", body)


def run_name(facts: RunFacts, leg: LegFacts) -> str:
    """The run's id in W&B: of this leg in this bucket, whatever else logs to the project."""
    return hashlib.sha256(uri(facts.bucket, RunLayout(facts.run_id).leg_prefix(leg.name)).encode()).hexdigest()[:16]


def config(facts: RunFacts, leg: LegFacts) -> Json:
    """The run's settings in the form of W&B: a leg's training settings, and where it comes from."""
    about = {
        "run_id": facts.run_id,
        "leg": leg.name,
        "recipe": facts.run.get("recipe"),
        "folder": uri(facts.bucket, RunLayout(facts.run_id).leg_prefix(leg.name)),
        "execution": facts.execution_arn,
        "outcome": facts.outcome,
    }
    # "t" is where the SDK keeps its versions; it takes a run without it for one that never began, and could not add to it.
    return {name: {"value": value} for name, value in {**leg.training, "pretrain": about, "_wandb": {"t": {}}}.items()}


def last_step(bucket: Json) -> int | None:
    """The step of the last line that the server has, from ``historyTail``: a list of lines, as text; None when there is none.

    Raises:
        SinkError: there are lines, and their last step is not told.
    """
    if not bucket.get("historyLineCount"):
        return None
    try:
        return int(json.loads(json.loads(bucket["historyTail"])[-1])["_step"])
    except (KeyError, IndexError, TypeError, ValueError):
        raise SinkError("RunResumeStatus: the server has lines of this run and does not tell their last step") from None


def read_api_key(secrets: Any, project: WandbProject) -> str:
    """The key in the secret, as its text or in a JSON object. Never part of an error.

    Raises:
        SinkError: it cannot be read, or is no key.
    """
    try:
        text = str(secrets.get_secret_value(SecretId=project.api_key_secret_arn).get("SecretString") or "").strip()
    except ClientError as error:
        raise SinkError(f"the secret of the API key cannot be read ({error.response['Error'].get('Code')})") from None
    except BotoCoreError as error:
        raise SinkError(f"the secret of the API key cannot be read ({type(error).__name__})") from None
    key = str(_object(text).get(SECRET_FIELD) or "").strip() if text.startswith("{") else text
    if not re.fullmatch(r"[!-9;-~]{20,}", key):  # printable, and no colon, which ends the user's name in the header
        raise SinkError(f"the secret holds no API key: neither its text nor {SECRET_FIELD} of a JSON object is one")
    return key


def _inner(value: Json, *names: str) -> Json:
    for name in names:
        found = value.get(name)
        if not isinstance(found, dict):
            raise SinkError(f"UpsertBucket: the answer has no {name}")
        value = found
    return value


def _object(text: Any) -> Json:
    """A JSON object of a text, {} for anything else."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
