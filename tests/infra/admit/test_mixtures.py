"""Admit and `plan` of a run with several sources: prepared once each, mixed exactly, refused in one sentence."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import botocore.session
import pytest
from admission_values import DEPLOYMENT, EXECUTION, spec
from botocore.exceptions import ClientError
from rich.console import Console
from test_gather_check_commit import DEPLOYED, account

from contracts.config import SpecError
from contracts.failure import JobFailure
from contracts.mixture import MAX_SOURCES, LegSamples, read_legs, read_mixture, read_tokens
from infra.admit.admission import Refused, admit
from infra.admit.checks import check
from infra.admit.gather import Clients, gather
from infra.cli.mixture_screen import mixture_value, show_mixture
from infra.edge.transient import transient_cause
from infra.run.layout import RunLayout, index_key
from training.leg_identity import leg_identity

Json = Any
WEB = {"name": "web", "source": "source/web/", "weight": 3}
CODE = {"name": "code", "source": "source/code/", "weight": 1, "text_field": "content"}
BOOKS = {"name": "books", "source": "source/books/", "epochs": 2}
BUDGET = {"recipe": "local", "run_id": "r", "budget": {"max_usd": 100}}  # 100 steps of 8 samples of 256 tokens


def asked(*sources: Json, **changes: Json) -> Json:
    return BUDGET | {"data": {"sources": list(sources), "tokenizer": {"uri": "source/tokenizer/"}}} | changes


def clients() -> Clients:
    found = account()
    for name in ("web", "code", "books"):
        found.s3.put(f"source/{name}/a.jsonl", f"text of {name}")
    found.s3.put("source/tokenizer/tokenizer.json", "{}")
    return found


def prepared(found: Clients, tokens: dict[str, int], value: Json) -> None:
    """Put an index of so many training tokens for sources of an input."""
    for one in gather(spec(value), None, DEPLOYED, found, "us-east-1").data_sets or ():
        if one.name in tokens:
            found.s3.put(index_key(one.identified.fingerprint), json.dumps({"splits": {"train": {"tokens": tokens[one.name]}}}))


def admitted(found: Clients, value: Json) -> tuple[Json, Json]:
    plan = admit(value, EXECUTION, DEPLOYMENT, found)
    return plan, json.loads(found.s3.objects["runs/r/run.json"][0])


def problems(value: Json, found: Clients | None = None) -> list[str]:
    facts = gather(spec(value), RunLayout("r"), DEPLOYED, found or clients(), "us-east-1")
    return [str(finding.problem) for finding in check(facts)]


def test_each_source_is_a_channel_and_run_json_names_them() -> None:
    plan, run = admitted(clients(), asked(WEB, CODE, BOOKS))
    channels = plan["train"]["request"]["InputDataConfig"]
    assert [channel["ChannelName"] for channel in channels] == ["run", "tokens-web", "tokens-code", "tokens-books"]
    tokens = read_tokens(run)
    assert [channel["DataSource"]["S3DataSource"]["S3Uri"] for channel in channels[1:]] == [item.uri for item in tokens]
    assert [(item.name, item.weight, item.epochs) for item in read_mixture(run)] == [
        ("web", 3, None),
        ("code", 1, None),
        ("books", None, 2),
    ]
    assert run["tokens"]["uri"] == tokens[0].uri
    assert run["tokens"]["fingerprint"] == plan["tokens"]["fingerprint"] not in {item.fingerprint for item in tokens}
    assert run["data"]["source"] is None
    assert read_legs(run) == (LegSamples(leg="main", steps=100, samples_per_step=8, sequence_length=256),)
    assert [source["source"] for source in run["data"]["sources"]] == [f"s3://data/source/{name}/" for name in ("web", "code", "books")]
    assert run["admitted"]["sources"]["web"] == {"uri": "s3://data/source/web/", "objects": 1, "bytes": 11}
    assert plan["tokens"]["exist"] is False


def test_one_source_is_as_before() -> None:
    plan, run = admitted(clients(), BUDGET)
    assert [channel["ChannelName"] for channel in plan["train"]["request"]["InputDataConfig"]] == ["run", "tokens"]
    assert set(run["tokens"]) == {"fingerprint", "uri"}
    assert (run["data"]["sources"], set(run["admitted"]["source"])) == ([], {"uri", "objects", "bytes"})
    assert "mixture" not in leg_identity(spec(BUDGET).legs[0].training, "f", 1)["data"]


def test_another_weight_prepares_nothing_and_another_source_prepares_itself() -> None:
    found = clients()
    prepared(found, {"web": 10**6, "code": 10**6}, asked(WEB, CODE))
    for weight in (1, 0.001, 99):
        assert admitted(found, asked(WEB | {"weight": weight}, CODE))[0]["tokens"]["exist"] is True
    curriculum = {"curriculum": [{"from_step": 50, "weight": 0}]}
    assert admitted(found, asked(CODE, WEB | curriculum))[0]["tokens"]["exist"] is True
    facts = gather(spec(asked(WEB, CODE, BOOKS)), None, DEPLOYED, found, "us-east-1")
    assert [(one.name, one.written is not None) for one in facts.data_sets or ()] == [("web", True), ("code", True), ("books", False)]
    assert facts.prepared is False
    alone = gather(
        spec(BUDGET | {"data": {"source": "source/web/", "tokenizer": {"uri": "source/tokenizer/"}}}), None, DEPLOYED, found, "x"
    )
    assert alone.prepared is True


def test_epochs_beyond_the_steps_are_refused_where_the_size_is_known() -> None:
    found, value = clients(), asked(WEB, BOOKS)
    assert problems(value, found) == []  # nothing is prepared yet: the training job tells
    prepared(found, {"books": 110_000}, value)
    assert problems(value, found) == [
        "data.sources: the epochs asked for are 860 samples (books 860), and the run has 800; ask for fewer epochs, or train more steps"
    ]
    legs = [{"name": "short", "training": {"steps": 40}}, {"name": "long", "training": {"steps": 900}}]
    assert problems(value | {"legs": legs}, found)[0].startswith("data.sources: leg short: the epochs asked for are 860 samples")
    prepared(found, {"web": 0}, value)
    assert "source web holds 0 training tokens, not one sequence of 256" in problems(value, found)[0]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"source": "source/web/", "sources": [WEB]}, 'data: give exactly one of "source" and "sources"'),
        ({"sources": []}, 'data: give exactly one of "source" and "sources"'),
        ({"sources": [WEB, WEB | {"weight": 1}]}, 'data.sources: the name "web" is used 2 times; each source needs its own'),
        ({"sources": [WEB | {"name": "Web 1"}]}, 'data.sources[0].name: "Web 1" is not a source\'s name: 1 to 24 lower-case'),
        ({"sources": [WEB | {"weight": -2}]}, "data.sources[0].weight: -2.0 must be at least 0"),
        ({"sources": [WEB | {"weight": 0}, CODE]}, "data.sources[0].weight: it is 0 in every step"),
        ({"sources": [WEB | {"epochs": 1}]}, 'data.sources[0]: give exactly one of "weight" and "epochs"'),
        ({"sources": [{"name": "web", "weight": 1}]}, "data.sources[0].source: is required"),
        ({"sources": [WEB | {"wieght": 1}]}, 'data.sources[0].wieght: unknown key, did you mean "weight"?'),
        ({"sources": [WEB | {"tokenizer": {}}]}, "data.sources[0].tokenizer: unknown key"),
        ({"sources": [WEB | {"curriculum": [{"from_step": 9, "weight": 0}]}]}, "data.sources: every weight is 0 from step 9 on"),
        ({"sources": [WEB], "text_field": ""}, 'data.text_field: length of "" must be at least 1'),
        (
            {"sources": [WEB | {"name": f"w{i}", "source": f"source/{i}/"} for i in range(17)]},
            "data.sources: 17 sources are more than the 16",
        ),
        ({"sources": {"web": WEB}}, "data.sources: must be a list"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_bad_mixture_is_one_sentence(data: Json, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec(BUDGET | {"data": data})
    (problem,) = caught.value.problems
    assert str(problem).startswith(sentence)


def test_a_continued_schedule_has_no_epochs() -> None:
    schedule = {"schedule": {"name": "s", "time": "2026-11-22T06:00:00Z", "resume": "latest"}}
    training = {"training": {"schedule": {"total_steps": 900}}}
    assert spec(asked(WEB, CODE) | schedule | training)
    with pytest.raises(SpecError, match=r"data\.sources\[1\]\.epochs: resume=latest adds steps with every firing"):
        spec(asked(WEB, BOOKS) | schedule | training)
    assert spec(asked(BOOKS, CODE | {"weight": None, "epochs": 1}) | schedule | training)


def test_what_a_source_leaves_out_is_as_in_data_and_the_recipes_globs_are_not() -> None:
    found = spec(asked(WEB, CODE) | {"recipe": "llama3_8b"}).data
    assert [source.include for source in found.sources] == [(), ()]
    value = asked(WEB, CODE)
    value["data"] |= {"text_field": "body", "include": ["*.jsonl"], "max_document_bytes": 5}
    web, code = spec(value).data.sources
    assert (web.text_field, code.text_field) == ("body", "content")
    assert (web.include, code.include, code.max_document_bytes) == (("*.jsonl",), ("*.jsonl",), 5)


def test_every_problem_of_every_source_is_told() -> None:
    found = problems(asked(WEB | {"source": "source/no/"}, CODE | {"source": "source/none/"}))
    assert len(found) == 1
    assert 'source "web": data.source s3://data/source/no/ holds 0 objects' in found[0]
    assert 'source "code": data.source s3://data/source/none/ holds 0 objects' in found[0]
    assert problems(asked(WEB | {"source": "/home/me/web"}, CODE)) == [
        'data.sources[0].source: "/home/me/web" is a path on one machine; upload it to s3://data/source/ and name that'
    ]


def test_a_prefix_inside_another_is_refused() -> None:
    found = clients()
    found.s3.put("source/web/code/b.jsonl", "text")
    assert problems(asked(WEB, CODE | {"source": "source/web/code/", "text_field": "text"}), found) == [
        'data: sources "web" and "code" both read s3://data/source/web/code/b.jsonl: the text would count for both; '
        "set include in one of them, or leave it out"
    ]
    assert problems(asked(WEB, CODE | {"source": "source/web2/"}), found)  # a name that begins alike is another folder
    found.s3.put("source/web2/b.jsonl", "text")
    assert problems(asked(WEB, CODE | {"source": "source/web2/"}), found) == []


def test_a_checkpoint_goes_on_with_other_weights_but_not_with_other_epochs() -> None:
    found, books = clients(), CODE | {"weight": None, "epochs": 1}
    value = asked(WEB, books)
    plan, _ = admitted(found, value)
    chosen = spec(value)
    leg = leg_identity(chosen.legs[0].training, plan["tokens"]["fingerprint"], 1, chosen.data.sources)
    found.s3.put_checkpoint("runs/r/main/attempts/20261122T000000-abcdef-1/", 50, of=leg)
    assert problems(value, found) == []
    assert problems(asked(books, WEB | {"weight": 2}), found) == []
    (problem,) = problems(asked(WEB, books | {"epochs": 2}), found)
    assert problem == (
        'data.sources: run "r" has checkpoints of leg main made with {"epochs": {"code": 1.0}}, and this input has '
        '{"epochs": {"code": 2.0}}; go back to {"epochs": {"code": 1.0}}, or choose another run_id to start afresh'
    )


def test_a_refusal_names_what_changed_of_which_source() -> None:
    found = clients()
    admitted(found, asked(WEB, CODE))
    again = dataclasses.replace(EXECUTION, arn=EXECUTION.arn + "2", name="e12")
    with pytest.raises(Refused):
        admit(asked(WEB | {"weight": 2}, CODE, budget={"max_usd": 1e-6}), again, DEPLOYMENT, found)
    record = json.loads(found.s3.objects["runs/r/executions/e12.json"][0])
    assert {change["path"]: (change["old"], change["new"]) for change in record["changes"]} == {
        "data.sources.web.weight": (3.0, 2.0),
        "budget.max_usd": (100.0, 1e-6),
    }


def screen(value: Json, found: Clients) -> str:
    facts = gather(spec(value), None, DEPLOYED, found, "us-east-1")
    console = Console(file=io.StringIO(), width=140)
    show_mixture(facts.spec, facts.data_sets, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_plan_shows_each_source() -> None:
    found = clients()
    value = asked(WEB | {"curriculum": [{"from_step": 51, "weight": 1}, {"from_step": 500, "weight": 9}]}, CODE, BOOKS)
    assert "2 epochs" in screen(value, found)
    prepared(found, {"web": 512_000, "books": 25_601}, value)
    rows = [line.split("  ") for line in screen(value, found).splitlines()]
    cells = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}
    assert cells["web"] == ["there", "512 k", "56.2%, from step 51 37.5%", "96 k", "0.188"]
    assert cells["code"] == ["to make", "?", "18.8%, from step 51 37.5%", "57.6 k", "?"]
    assert cells["books"] == ["there", "25.6 k", "25.0%", "51.2 k", "2"]
    assert "Not reached, after the last step: the curriculum's step 500." in screen(value, found)
    assert "times;" not in screen(value, found)
    prepared(found, {"web": 10_000}, value)
    assert "web is read 9.38 times; passes beyond about 4 teach little" in screen(value, found).replace("\n", " ")
    facts = gather(spec(value), None, DEPLOYED, found, "us-east-1")
    told = mixture_value(facts.spec, facts.data_sets)
    assert told["legs"]["main"][2] == {
        "name": "books", "shares": [{"from_step": 1, "share": 0.25}, {"from_step": 51, "share": 0.25}], "tokens": 51_200, "epochs": 2.0,
    }  # fmt: skip
    assert [one["prepared"] for one in told["sources"]] == [True, False, True]


def test_as_many_sources_as_channels_allow() -> None:
    found, sources = clients(), []
    for number in range(MAX_SOURCES):
        found.s3.put(f"source/{number}/a.jsonl", f"{number}")
        sources.append({"name": f"s{number}", "source": f"source/{number}/", "weight": number + 1})
    plan, _ = admitted(found, asked(*sources))
    most = botocore.session.get_session().get_service_model("sagemaker").shape_for("InputDataConfig").metadata["max"]
    assert len(plan["train"]["request"]["InputDataConfig"]) + 1 <= most  # a checkpoint is one more


def test_a_throttled_look_at_one_source_is_tried_again_and_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    found = clients()
    monkeypatch.setattr(found.s3, "get_paginator", lambda name: _Throttled())
    with pytest.raises(JobFailure, match='source "web": ') as caught:
        gather(spec(asked(WEB, CODE)), None, DEPLOYED, found, "us-east-1")
    assert transient_cause(caught.value) is not None


class _Throttled:
    def paginate(self, **_: Any) -> Any:
        raise ClientError({"Error": {"Code": "SlowDown", "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": 503}}, "ListObjectsV2")
        yield
