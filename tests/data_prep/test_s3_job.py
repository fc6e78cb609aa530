"""The job against S3: kills, throttling, changed objects. Every attempt starts on an empty disk."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from data_case import job_environment, jsonl, make_texts
from data_s3_server import S3Server

from contracts.config import to_json
from contracts.failure import read_failure
from contracts.shard_index import parse_index
from data_prep.failure_classes import SourceChanged, StoreUnavailable
from data_prep.fingerprint import SourceObject
from data_prep.identify import identify
from data_prep.s3_store import S3Store

PARTS = 4


@pytest.fixture
def run(s3: S3Server, make_spec, tokenizer_folder: Path, files, gates: Path):
    """A run over four parts, whose text, tokenizer and verdict are in S3."""
    for number in range(PARTS):  # stored so that each plans as a part of its own
        text = b" " * (3 << 20) + b"\n" + jsonl(make_texts(120, number))
        s3.objects[f"source/{number}.jsonl.gz"] = gzip.compress(text, 0, mtime=0)
    for path in tokenizer_folder.iterdir():
        s3.objects[f"tok/{path.name}"] = path.read_bytes()
    for path in gates.iterdir():
        s3.objects[f"tokens/gates/{path.name}"] = path.read_bytes()
    spec = make_spec(
        "s3://bucket/source/", tokenizer={"uri": "s3://bucket/tok/"}, shard_tokens=2048, validation_share=0.1, workers_per_instance=1
    )
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    name = identify(spec, client).fingerprint
    return {"data": to_json(spec), "tokens": {"fingerprint": name, "uri": f"s3://bucket/tokens/{name}/"}}


def start(s3: S3Server, run: dict, base: Path) -> subprocess.Popen[str]:
    """An attempt in a fresh container."""
    (base / "processing/input/run").mkdir(parents=True)
    (base / "processing/input/run/run.json").write_text(json.dumps(run))
    (base / "tmp").mkdir()
    environment = job_environment({**s3.environment(), "SAGEMAKER_BASE_DIR": str(base), "TMPDIR": str(base / "tmp")})
    return subprocess.Popen(
        [sys.executable, "-m", "data_prep.job"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(job: subprocess.Popen[str], code: int = 0) -> str:
    out, error = job.communicate(timeout=120)
    assert job.returncode == code, out + error
    return out + error


def result(s3: S3Server, run: dict) -> dict[str, bytes]:
    return {
        name: content for name, content in s3.below("tokens/" + run["tokens"]["fingerprint"] + "/").items() if not name.startswith("card.")
    }


def test_killed_at_any_moment_it_goes_on_from_finished_parts_to_the_same_bytes(s3: S3Server, run: dict, tmp_path: Path):
    finish(start(s3, run, tmp_path / "whole"))
    expected = result(s3, run)
    index = parse_index(json.loads(expected["index.json"]))
    assert set(expected) == {
        "index.json",
        "parts.json",
        *index.tokenizer.files,
        *(n for shard in index.shards for n in (shard.name, shard.ends_name)),
    }
    puts = [key for method, key in s3.requests if method == "PUT"]
    assert puts[-1].endswith("/index.json")
    records = [n for n, key in enumerate(puts) if "/.work/parts/" in key]
    packed = next(n for n, key in enumerate(puts) if "/packed-" in key)
    for key in list(s3.objects):
        if key.startswith("tokens/" + run["tokens"]["fingerprint"]):
            del s3.objects[key]
    # One data set, killed four times: inside the first part, after two records, while packing, just before the index.
    for attempt, victim in enumerate((records[0] - 1, records[1] + 1, packed, len(puts) - 1)):
        s3.requests.clear()
        target = puts[victim]
        job = start(s3, run, tmp_path / f"attempt{attempt}")
        s3.before = lambda method, key, job=job, target=target: (
            os.kill(job.pid, signal.SIGKILL) if (method, key) == ("PUT", target) else None
        )
        job.communicate(timeout=120)
        assert job.returncode == -signal.SIGKILL
        s3.before = lambda method, key: None
        s3.objects.pop(puts[-1], None)  # the request that was under way when the kill came may still have been served
        assert len(s3.puts("/.work/parts/")) <= PARTS
    kept = [key for key in s3.objects if "/.work/parts/" in key]
    assert len(kept) == PARTS
    s3.requests.clear()
    said = finish(start(s3, run, tmp_path / "last"))
    assert f"{PARTS} of {PARTS} parts are finished already" in said
    assert s3.puts("/.work/") == [key for key in s3.puts("/.work/") if key.endswith("manifest.json")]  # no part was made again
    assert result(s3, run) == expected


def test_throttling_is_waited_out(s3: S3Server, run: dict, tmp_path: Path):
    slow = {"GET": 2, "PUT": 2}

    def throttle(method: str, key: str) -> int | None:
        if ("source/0" in key or "packed" in key) and slow.get(method, 0):
            slow[method] -= 1
            return 503
        return None

    s3.before = throttle
    finish(start(s3, run, tmp_path / "ml"))
    assert slow == {"GET": 0, "PUT": 0}
    assert "index.json" in result(s3, run)


def test_an_object_that_changes_while_the_job_runs_is_refused(s3: S3Server, run: dict, tmp_path: Path):
    def change(method: str, key: str) -> None:
        if method == "PUT" and key.endswith("manifest.json"):
            s3.objects["source/3.jsonl.gz"] = gzip.compress(jsonl(["another text"]))

    s3.after = change
    said = finish(start(s3, run, tmp_path / "ml"), code=1)
    failure = read_failure((tmp_path / "ml/output/message").read_text())
    assert failure is not None, said
    assert failure.name == "SourceChanged"
    assert "s3://bucket/source/3.jsonl.gz was changed since this run was admitted" in failure.sentence
    assert "index.json" not in result(s3, run)


def test_a_store_that_stays_away_is_a_sentence_that_allows_a_retry(s3: S3Server):
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=s3.endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x",
        config=Config(retries={"max_attempts": 1}),
    )  # fmt: skip
    s3.objects["a/x"] = b"1"
    s3.before = lambda method, key: 503
    store = S3Store("s3://bucket/a", client)
    with pytest.raises(StoreUnavailable, match=r"reading s3://bucket/a/x failed after all retries \(SlowDown"):
        store.read("x")
    s3.before = lambda method, key: None
    with pytest.raises(SourceChanged, match="was removed"):
        store.open(SourceObject("y", 1, "e")).read()
