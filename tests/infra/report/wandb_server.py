"""A server that speaks W&B's protocol as far as its SDK does for a run: GraphQL, file_stream, files. Loopback only, in memory.

    python tests/infra/report/wandb_server.py PORT      serve until Ctrl-C

Written from the SDK's source (wandb/wandb, core/internal: runupserter, runbranch, filestream), and proven against the SDK itself:
record_wandb.py lets it log to this server. What only W&B's own server does is in docs/unproven.md.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
KEY = "local-" + "0123456789abcdef" * 2 + "01234567"
AUTHORIZATION = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
ENTITY = "team"


@dataclass
class Run:
    """What the server has of one run."""

    variables: Json = field(default_factory=dict)
    """The newest value of each variable of UpsertBucket."""
    files: dict[str, list[str]] = field(default_factory=dict)
    """Lines of the streamed files."""
    exit_code: int | None = None
    complete: bool = False

    @property
    def history(self) -> list[Json]:
        return [json.loads(line) for line in self.files.get("wandb-history.jsonl", [])]

    @property
    def summary(self) -> Json:
        """The last line of the summary counts."""
        lines = self.files.get("wandb-summary.json") or ["{}"]
        return dict(json.loads(lines[-1]))

    @property
    def config(self) -> Json:
        """Settings as a person sees them."""
        found = json.loads(self.variables.get("config") or "{}")
        return {key: one["value"] for key, one in found.items() if key != "_wandb"}

    def stream(self, body: Json) -> None:
        """Lines at their offsets: the same lines at the same place again change nothing; a hole is no offset of the SDK's."""
        for name, chunk in (body.get("files") or {}).items():
            lines, at = self.files.setdefault(name, []), int(chunk["offset"])
            if at > len(lines):
                raise ValueError(f"{name}: offset {at}, and there are {len(lines)} lines")
            lines[at : at + len(chunk["content"])] = chunk["content"]
        self.complete = bool(body.get("complete"))
        self.exit_code = body.get("exitcode", self.exit_code)


class WandbStandIn(ThreadingHTTPServer):
    """The server; ``url`` is its address."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.runs: dict[str, Run] = {}
        """By entity/project/run."""
        self.requests: list[Json] = []
        """Path, authorization and body of each."""
        self.refuse: dict[str, tuple[int, str]] = {}
        """Operation or "file_stream" -> status and message."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, authorization: str, body: Json) -> tuple[int, Json]:
        """Status and JSON of one request."""
        self.requests.append({"path": path, "authorization": authorization, "body": body})
        if authorization != AUTHORIZATION:
            return 401, {"errors": [{"message": "user is not logged in"}]}
        if path == "/graphql":
            return self._graphql(str(body["query"]), body.get("variables") or {})
        streamed = re.fullmatch(r"/files/([^/]+/[^/]+/[^/]+)/file_stream", path)
        if streamed is None:
            return (200, {}) if path.startswith("/storage/") else (404, {"error": f"there is no {path}"})
        if "file_stream" in self.refuse:
            return self.refuse["file_stream"][0], {"error": self.refuse["file_stream"][1]}
        if streamed[1] not in self.runs:
            return 404, {"error": "run not found"}
        self.runs[streamed[1]].stream(body)
        return 200, {"exitcode": None, "limits": {}}

    def _graphql(self, query: str, given: Json) -> tuple[int, Json]:
        operation = re.findall(r"(?:query|mutation) (\w+)", query)[0]
        if operation in self.refuse:
            status, message = self.refuse[operation]
            return status, {"errors": [{"message": message}], "data": None}
        entity, project = given.get("entity") or ENTITY, str(given.get("project"))
        path = f"{entity}/{project}/{given.get('name')}"
        match operation:
            case "RunResumeStatus":
                known = any(run.startswith(f"{entity}/{project}/") for run in self.runs)
                return 200, {"data": {"model": {"id": "p", "name": project, "bucket": self._bucket(path)} if known else None}}
            case "UpsertBucket":
                inserted = path not in self.runs
                run = self.runs.setdefault(path, Run())
                run.variables |= {key: value for key, value in given.items() if value is not None}
                return 200, {"data": {"upsertBucket": {"bucket": self._bucket(path), "inserted": inserted}}}
            case "CreateRunFiles":
                run_path = f"{entity}/{project}/{given['run']}"
                files = [{"name": name, "uploadUrl": f"{self.url}/storage/{run_path}/{name}"} for name in given["files"]]
                return 200, {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
            case "Viewer":
                return 200, {"data": {"viewer": {"id": "v", "entity": ENTITY, "username": "u", "flags": "{}", "teams": {"edges": []}}}}
            case _:  # what a server of another version has: the SDK goes on without
                return 200, {"data": None, "errors": [{"message": f"Cannot query {operation}"}]}

    def _bucket(self, path: str) -> Json | None:
        if path not in self.runs:
            return None
        run, (entity, project, name) = self.runs[path], path.split("/")
        history = run.files.get("wandb-history.jsonl", [])
        return {
            "id": f"id-{name}",
            "name": name,
            "displayName": run.variables.get("displayName"),
            "description": None,
            "config": run.variables.get("config"),
            "sweepName": None,
            "tags": run.variables.get("tags") or [],
            "historyLineCount": len(history),
            "historyTail": json.dumps(history[-1:]),
            "eventsLineCount": len(run.files.get("wandb-events.jsonl", [])),
            "eventsTail": json.dumps(run.files.get("wandb-events.jsonl", [])[-1:]),
            "logLineCount": len(run.files.get("output.log", [])),
            "summaryMetrics": json.dumps(run.summary),
            "wandbConfig": json.dumps({"t": json.loads(run.variables.get("config") or "{}").get("_wandb", {}).get("value", {}).get("t")}),
            "project": {"id": "p", "name": project, "entity": {"id": "e", "name": entity}},
        }


class _Handler(BaseHTTPRequestHandler):
    server: WandbStandIn
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(data or b"{}")
        except ValueError:
            body = {}  # a file's bytes
        status, given = self.server.answer(self.path.partition("?")[0], self.headers.get("Authorization", ""), body)
        content = json.dumps(given).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _handle

    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""


@contextmanager
def serving(port: int = 0) -> Iterator[WandbStandIn]:
    """The server, while the block runs."""
    server = WandbStandIn(port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


if __name__ == "__main__":
    WandbStandIn(int(sys.argv[1])).serve_forever()
