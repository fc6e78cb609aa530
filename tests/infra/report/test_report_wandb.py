"""A run's curves in Weights & Biases: what the real SDK sends and leaves, sent once, and never at the cost of a report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from wandb_server import AUTHORIZATION, ENTITY, KEY, Run, WandbStandIn, serving

from infra.report import sinks, wandb
from infra.report.read import LegFacts, RunFacts
from infra.report.sinks import follow
from infra.report.wandb import WandbServer, run_name
from infra.run.sink_settings import WandbProject

RECORDED: Any = json.loads(Path(__file__).with_name("wandb_sdk.json").read_text())
SECRET = "arn:aws:secretsmanager:us-east-1:111122223333:secret:wandb-Ab12Cd"


class Secrets:
    """A boto3 client of Secrets Manager with one secret."""

    def __init__(self, text: str | None = KEY) -> None:
        self.text, self.reads = text, 0

    def get_secret_value(self, *, SecretId: str) -> dict[str, str]:
        assert SecretId == SECRET
        self.reads += 1
        if self.text is None:
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetSecretValue")
        return {"SecretString": self.text}


@pytest.fixture
def server() -> Iterator[WandbStandIn]:
    with serving() as found:
        yield found


def tracker(server: WandbStandIn, *, secret: str | None = KEY, **changes: Any) -> WandbServer:
    project = WandbProject(project="models", api_key_secret_arn=SECRET, base_url=server.url)
    return WandbServer(project=dataclasses.replace(project, **changes), secrets=Secrets(secret))


def facts(rows: list[dict[str, float]], outcome: str = "succeeded", training: dict[str, Any] | None = None, **changes: Any) -> RunFacts:
    leg = LegFacts(name="main", training=training or {"steps": 400}, rows=tuple(rows))
    never = LegFacts(name="never-begun", training={})
    return RunFacts(
        run_id="evening", bucket="data", region="us-east-1", outcome=outcome, now=2e9, run={"recipe": "local"}, legs=(leg, never), **changes
    )


def rows(first: int, last: int, **more: float) -> list[dict[str, float]]:
    return [{"step": float(step), "time": 1e9 + step, "loss": 5 - step / 1000, "lr": 1e-3, **more} for step in range(first, last + 1)]


def only(server: WandbStandIn) -> Run:
    (run,) = server.runs.values()
    return run


# -- against what the SDK sends --------------------------------------------------------------------------


def left_by_the_sdk() -> Run:
    """What the recorded requests leave on the server."""
    server = WandbStandIn()
    server.server_close()
    for one in RECORDED["requests"]:
        server.answer(one["path"], AUTHORIZATION, one["body"])
    return only(server)


def as_the_recorded_case(server: WandbStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sessions of the recorded case, by our code."""
    case = RECORDED["case"]
    monkeypatch.setattr(wandb, "run_name", lambda facts, leg: case["id"])
    seen: list[dict[str, float]] = []
    for session in case["sessions"]:
        seen += [{"time": 1e9 + row["step"], **{key.replace("/", "."): v for key, v in row.items()}} for row in session["rows"]]
        outcome = "succeeded" if session["exit_code"] == 0 else "failed"
        told = follow(tracker(server, entity=case["entity"]), facts(seen, outcome, training=case["config"]))
        assert told is not None and told.complete, told


def test_the_server_holds_what_the_sdk_would_have_left(server: WandbStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    as_the_recorded_case(server, monkeypatch)
    ours, sdk = only(server), left_by_the_sdk()
    assert list(server.runs) == ["team/models/0123456789abcdef"]
    times = {"_timestamp", "_runtime"}
    assert [{k: v for k, v in row.items() if k not in times} for row in ours.history] == [
        {k: v for k, v in row.items() if k not in times} for row in sdk.history
    ]
    assert all(times <= row.keys() for row in [*ours.history, *sdk.history])
    assert {k: v for k, v in ours.summary.items() if k not in times} == {
        k: v for k, v in sdk.summary.items() if k not in times and k != "_wandb"
    }
    assert {k: v for k, v in ours.config.items() if k != "pretrain"} == sdk.config
    for name in ("name", "project", "entity", "groupName", "displayName", "jobType", "tags"):
        assert ours.variables[name] == sdk.variables[name], name
    assert (ours.complete, ours.exit_code) == (sdk.complete, sdk.exit_code) == (True, 0)


def test_our_requests_are_those_of_the_sdk(server: WandbStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same addresses, the same operations with no variable, argument or field that the SDK's lack, and lines at the same offsets."""
    as_the_recorded_case(server, monkeypatch)
    assert {one["path"] for one in server.requests} <= {one["path"] for one in RECORDED["requests"]}
    theirs = {operation(one): one["body"] for one in RECORDED["requests"] if one["path"] == "/graphql"}
    for one in server.requests:
        if one["path"] != "/graphql":
            continue
        sdk = theirs[operation(one)]
        assert set(one["body"]["variables"]) <= set(sdk["variables"])
        assert words(one["body"]["query"]) <= words(sdk["query"]), words(one["body"]["query"]) - words(sdk["query"])
    assert placed(server.requests) == placed(RECORDED["requests"])


def operation(request: dict[str, Any]) -> str:
    return str(request["body"]["query"].split("(")[0].split()[1])


def words(query: str) -> set[str]:
    """Names, types and punctuation of a query."""
    for mark in "(){}:,$![]":
        query = query.replace(mark, f" {mark} ")
    return set(query.split())


def placed(requests: list[dict[str, Any]]) -> dict[int, int]:
    """Offset -> ``_step`` of every line of history that was sent."""
    found: dict[int, int] = {}
    for one in requests:
        chunk = (one["body"].get("files") or {}).get("wandb-history.jsonl")
        if chunk:
            found |= {chunk["offset"] + i: json.loads(line)["_step"] for i, line in enumerate(chunk["content"])}
    return found


# -- repeated, interrupted, refused ----------------------------------------------------------------------


def test_every_logged_value_arrives_once_however_often_the_report_is_written(server: WandbStandIn) -> None:
    told = follow(tracker(server), facts(rows(1, 400)))
    assert told is not None
    assert told.sentence == "Weights & Biases: 800 values of 1 leg were sent."
    before = only(server).history
    assert [row["_step"] for row in before] == list(range(1, 401))
    again = follow(tracker(server), facts(rows(1, 400)))  # Lambda tried again
    assert again is not None and (again.sent, again.complete) == (0, True)
    assert only(server).history == before
    assert (only(server).summary["_step"], only(server).exit_code) == (400, 0)
    assert told.places == {"main": f"{server.url}/{ENTITY}/models/runs/{run_name(facts(rows(1, 1)), LegFacts(name='main', training={}))}"}


def test_a_run_that_goes_on_adds_what_is_new(server: WandbStandIn) -> None:
    follow(tracker(server), facts(rows(1, 100), "failed"))
    assert only(server).exit_code == 1
    told = follow(tracker(server), facts(rows(1, 90) + rows(81, 150)))  # back to a checkpoint, as after a kill
    assert told is not None and told.sent == 100
    assert [row["_step"] for row in only(server).history] == list(range(1, 151))
    assert only(server).exit_code == 0


def test_what_was_cut_off_is_counted_and_sent_by_the_next_report(server: WandbStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = dataclasses.replace(tracker(server), values_per_call=200)
    clock = iter([0.0, 1.0, 2.0, 100.0])
    monkeypatch.setattr(sinks, "time", SimpleNamespace(monotonic=lambda: next(clock, 100.0)))
    told = follow(cut, facts(rows(1, 400)))
    assert told is not None and not told.complete
    assert (told.sent, told.left) == (200, 600)
    assert (
        "it took longer than 45 s; 200 values were sent, up to 600 are missing there; pretrain report evening --again sends them"
        in told.sentence
    )
    monkeypatch.undo()
    follow(tracker(server), facts(rows(1, 400)))
    assert [row["_step"] for row in only(server).history] == list(range(1, 401))


@pytest.mark.parametrize("where", ["RunResumeStatus", "UpsertBucket", "file_stream"])
def test_a_refusal_anywhere_is_one_sentence(server: WandbStandIn, where: str) -> None:
    server.refuse[where] = (403, "permission denied")
    told = follow(tracker(server), facts(rows(1, 10)))
    assert told is not None
    assert told.sentence.startswith(f"Weights & Biases: {where}: 403 permission denied; 0 values were sent, up to 20 are missing there")
    assert (told.complete, told.left) == (False, 20)
    server.refuse.clear()
    follow(tracker(server), facts(rows(1, 10)))
    assert len(only(server).history) == 10


def test_an_error_that_graphql_answers_with_200_is_told(server: WandbStandIn) -> None:
    server.refuse["UpsertBucket"] = (200, "run was deleted; use another id")
    told = follow(tracker(server), facts(rows(1, 10)))
    assert told is not None and "UpsertBucket: run was deleted; use another id" in told.sentence


def test_a_server_that_asks_to_wait_is_asked_once_more(server: WandbStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    server.refuse["file_stream"] = (429, "slow down")

    def wait(seconds: float) -> None:
        server.refuse.clear()

    monkeypatch.setattr(sinks, "time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
    told = follow(tracker(server), facts(rows(1, 10)))
    assert told is not None and told.complete
    assert len(only(server).history) == 10


def test_no_server_costs_a_sentence(server: WandbStandIn) -> None:
    told = follow(tracker(server, base_url="http://127.0.0.1:9"), facts(rows(1, 10)))
    assert told is not None and "RunResumeStatus: no answer (EndpointConnectionError)" in told.sentence


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (None, "the secret of the API key cannot be read (AccessDeniedException)"),
        ("", "the secret holds no API key"),
        ("two words that are no key at all", "the secret holds no API key"),
        ('{"OTHER": "x"}', "the secret holds no API key"),
        (KEY[:-1], "401 user is not logged in"),
    ],
)
def test_a_key_that_cannot_be_used_is_told_and_never_shown(server: WandbStandIn, secret: str | None, words: str, capsys: Any) -> None:
    told = follow(tracker(server, secret=secret), facts(rows(1, 10)))
    assert told is not None and words in told.sentence
    assert not secret or (secret not in told.sentence and secret not in capsys.readouterr().out)
    assert not server.runs


def test_the_key_may_lie_in_an_object_and_is_read_once(server: WandbStandIn) -> None:
    there = tracker(server, secret=json.dumps({"WANDB_API_KEY": f" {KEY}\n"}))
    follow(there, facts(rows(1, 2)))
    assert there.secrets.reads == 1
    assert len(only(server).history) == 2
    assert KEY not in repr(there)


def test_a_run_in_which_nothing_began_sends_nothing(server: WandbStandIn) -> None:
    assert follow(tracker(server), facts([])) is None
    assert server.requests == []


def test_runs_of_the_same_name_in_other_buckets_are_other_runs() -> None:
    leg = LegFacts(name="main", training={})
    here = facts([])
    assert run_name(here, leg) != run_name(dataclasses.replace(here, bucket="other"), leg)
    assert run_name(here, leg) != run_name(here, LegFacts(name="other", training={}))
