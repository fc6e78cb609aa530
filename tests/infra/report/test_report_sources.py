"""The report's section on data: one source, or each of a mixture."""

from __future__ import annotations

import json
from typing import Any

from report_runs import START, event, metrics_lines, result_json, run_json, stored

from infra.report.document import build_document
from infra.report.read import read_run
from infra.report.tables import data

SOURCES = [
    {"name": "web", "source": "source/web/", "weight": 3, "curriculum": [{"from_step": 51, "weight": 1}]},
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


def document(run: dict[str, Any], indexes: dict[str, int] | None = None) -> Any:
    s3 = stored(run, {"main": (metrics_lines(20), result_json())})
    for fingerprint, tokens in (indexes or {}).items():
        splits = {"train": {"tokens": tokens, "documents": 7}, "validation": {"tokens": 90, "documents": 1}}
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
    assert "s3://bucket/source/&lt;web&gt;/" in page
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
