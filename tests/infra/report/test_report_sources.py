"""What the report says of one source, or of each source of a mixture."""

from __future__ import annotations

import json
from typing import Any

from report_runs import START, event, metrics_lines, result_json, run_json, stored

from contracts.metric_line import format_line
from infra.report.document import build_document
from infra.report.page import render
from infra.report.read import read_run
from infra.report.tables import data

SOURCES = [
    {"name": "web", "source": "source/web/", "weight": 3, "include": ["*.gz"], "curriculum": [{"from_step": 51, "weight": 1}]},
    {"name": "a-b", "source": "source/other/", "epochs": 2},
]


def mixed_run() -> dict[str, Any]:
    run = run_json(data={"sources": SOURCES})
    named = [{"name": name, "fingerprint": name * 2, "uri": f"s3://bucket/tokens/{name * 2}/"} for name in ("web", "a-b")]
    run["tokens"]["sources"] = named
    listed = {"uri": "s3://bucket/source/<web>/", "objects": 3, "bytes": 12_345_678}
    run["admitted"]["sources"] = {"web": listed, "a-b": listed | {"uri": "s3://bucket/source/other/"}}
    del run["admitted"]["source"]
    return run


def mixed_lines(steps: int) -> list[str]:
    """One step in five of them validates."""
    lines = []
    for step in range(1, steps + 1):
        given = {"web": {"share": 0.75 - step / 1000, "epochs": step / 100}, "a-b": {"share": 0.25 + step / 1000, "epochs": step / 50}}
        lines.append(format_line(step, START + step, {"loss": 5.0 - step / 100}, given))
        if step % 5 == 0:
            losses = {"web": {"held_out_loss": 4.0 - step / 100}, "a-b": {"held_out_loss": 3.0}}
            lines.append(format_line(step, START + step, {"validation_loss": 3.5 - step / 200}, losses))
    return lines


def document(
    run: dict[str, Any], indexes: dict[str, int] | None = None, lines: list[str] | None = None, result: dict[str, Any] | None = None
) -> Any:
    s3 = stored(run, {"main": (lines or metrics_lines(20), result or result_json())})
    for fingerprint, tokens in (indexes or {}).items():
        held_out = {"tokens": 90, "documents": 1, "unigram_entropy_nats": 6.0 if tokens > 1000 else 5.0}
        splits = {"train": {"tokens": tokens, "documents": 7}, "validation": held_out}
        body = {"splits": splits, "tokenizer": {"vocab_size": 4096, "sha256": "ab"}}
        s3.objects[f"tokens/{fingerprint}/index.json"] = json.dumps(body).encode()
    return build_document(read_run(event(), bucket="bucket", region="us-east-1", s3=s3, now=START + 400), lambda kind: 1.0)


def test_each_source_of_a_mixture_is_a_row() -> None:
    found = document(mixed_run(), {"webweb": 1_234_567, "a-ba-b": 800})
    web, other = found["data"]["sources"]
    assert (web["name"], web["train_tokens"], web["validation_tokens"], web["objects"]) == ("web", 1_234_567, 90, 3)
    assert (other["epochs"], other["weight"], other["train_tokens"]) == (2, None, 800)
    page = data(found)
    assert "weight 3.0, from step 51 1.0" in page
    assert "2 epochs" in page
    assert "1,234,567" in page
    assert "s3://bucket/source/&lt;web&gt;/ *.gz" in page
    assert page.count("<tr>") == 1 + 2 + 2  # head, sources, vocabulary and hash of the tokenizer


def test_a_mixture_whose_files_are_damaged_is_still_told() -> None:
    run = mixed_run()
    run["tokens"]["sources"] = [{"name": "web", "fingerprint": 7}, "x"]
    run["admitted"]["sources"] = {"web": []}
    run["data"]["sources"][0]["curriculum"] = "often"
    page = data(document(run))
    assert "web" in page and "2 epochs" in page


def test_one_source_is_as_before() -> None:
    found = document(run_json(), {"f" * 32: 500})
    assert found["data"]["sources"] == []
    assert "Train tokens" in data(found)
    assert "s3://bucket/source/botocore/" in data(found)


def test_each_source_has_its_shares_passes_and_curve() -> None:
    run = mixed_run()
    run["data"]["sources"] = [SOURCES[0] | {"curriculum": [{"from_step": 11, "weight": 1}]}, {"name": "a-b", "weight": 1}]
    found = document(run, {"webweb": 1_234_567, "a-ba-b": 800}, mixed_lines(20), result_json(unigram_entropy=None))
    other, web = found["legs"][0]["sources"]
    assert web == {"name": "web", "asked_share": 0.625, "share": 0.73, "epochs": 0.2, "held_out_loss": 3.8}  # 10 steps of 3/4, 10 of 1/2
    assert (other["name"], other["asked_share"], other["held_out_loss"]) == ("a-b", 0.375, 3.0)
    assert found["legs"][0]["figures"]["unigram_entropy"] == 5.5
    assert found["legs"][0]["series"]["columns"]["sources.web.held_out_loss"][-1] == 3.8
    page = render(found)
    assert "<h3>Validation loss by source <small>(nats per token)</small></h3>" in page
    assert "a-b 3; web 3.95 to 3.8." in page.replace("a-b 3 to 3", "a-b 3")
    assert '<th scope="row">web</th><td class="number">62.50%</td><td class="number">73.00%</td><td class="number">0.200</td>' in page


def test_the_result_counts_before_the_lines_and_epochs_need_sizes() -> None:
    result = result_json(sources={"web": {"share": 0.5, "epochs": 9.0, "held_out_loss": None}, "x": "damaged"})
    other, web = document(mixed_run(), {}, mixed_lines(20), result)["legs"][0]["sources"]
    assert (web["share"], web["epochs"], web["held_out_loss"]) == (0.5, 9.0, 3.8)
    assert (web["asked_share"], other["asked_share"]) == (None, None)


def test_a_leg_of_one_source_has_none() -> None:
    found = document(run_json())
    assert found["legs"][0]["sources"] == []
    assert "by source" not in render(found)
    assert "Sources of the mixture" not in render(found)
