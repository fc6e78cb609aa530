"""data.deduplicate: exact. The first of equal texts stays, whatever cuts the work."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_case import RunJob, every_file, job_environment, make_texts
from data_s3_server import S3Server

from contracts.config import to_json
from contracts.failure import BadInput, CorruptShard
from contracts.shard_index import SPLITS, read_index
from data_prep import deduplicate, duplicates
from data_prep.deduplicate import BucketedRun, Buckets, bucket_edges
from data_prep.duplicate_files import PREFIX_BITS, packed, unpacked
from data_prep.duplicates import HashTask, Repeats, compare_bucket, hash_part
from data_prep.identify import identify
from data_prep.local_store import LocalStore
from data_prep.partition import make_plan
from data_prep.sources import list_source
from data_prep.spec import fingerprinted
from data_prep.tokenizer import TokenizerFiles, load_reference
from data_prep.verify import check_distinct, document, verify_full

EXACT = ("--set", 'deduplicate="exact"', "--set", "shard_tokens=2048", "--set", "validation_share=0.1")
SPACES = b" " * (3 << 19) + b"\n"  # stored, so that gzip of it plans as a part of its own


def rows(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.fixture
def repeating(tmp_path: Path) -> tuple[Path, list[str]]:
    """Four parts whose texts repeat inside a part and across parts, and the texts of which one each must stay, in order."""
    folder, rng, texts = tmp_path / "repeating", random.Random(3), make_texts(150, 5)
    folder.mkdir()
    written: list[str] = []
    for number in range(4):
        chosen = rng.choices(texts, k=120)
        written += chosen
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(SPACES + rows(chosen), 0, mtime=0))
    return folder, list(dict.fromkeys(written))


def decoded(folder: Path, files: TokenizerFiles, split: str) -> list[str]:
    index, tokenizer = read_index(folder), load_reference(files)
    shards = index.splits[split].shards
    return [tokenizer.decode(document(folder, index, s, i), skip_special_tokens=False) for s in shards for i in range(s.documents)]


def test_the_first_of_equal_texts_stays_for_any_number_of_instances_and_workers(
    run_job: RunJob, repeating, make_spec, tokenizer_folder, files, gates, tmp_path: Path
):
    source, expected = repeating
    one = tmp_path / "one"
    done = run_job("--source", str(source), "--out", str(one), "--tokenizer", str(tokenizer_folder), "--workers", "1", *EXACT)
    assert done.returncode == 0, done.stderr
    train, validation = decoded(one, files, "train"), decoded(one, files, "validation")
    assert sorted([*train, *validation]) == sorted(expected)
    assert len(train) > 90
    # Shards hold the documents part by part; with few tokens a part nothing else reorders them.
    assert [text for text in expected if text in set(validation)] == validation
    assert read_index(one).skipped == {"duplicate": 480 - len(expected)}
    assert f"{480 - len(expected)} documents are left out, since their texts came before; the first: {source}/0.jsonl.gz" in done.stdout
    first = json.loads((one / "card.json").read_text())["skipped"]["duplicate"]["first"][0]
    assert f" repeats {source}/0.jsonl.gz at byte " in first
    assert f"skipped: {480 - len(expected)} duplicate" in done.stdout

    spec = make_spec(source, deduplicate="exact", shard_tokens=2048, validation_share=0.1, workers_per_instance=2)
    name = identify(spec).fingerprint
    shutil.copytree(gates, tmp_path / "tokens/gates")
    hosts = ["algo-1", "algo-2", "algo-3"]
    jobs = []
    run = {"data": to_json(spec), "tokens": {"fingerprint": name, "uri": str(tmp_path / "tokens" / name)}}
    for host in hosts:
        base = tmp_path / host
        for path, content in (
            ("processing/input/run/run.json", run),
            ("config/resourceconfig.json", {"current_host": host, "hosts": hosts}),
        ):
            (base / path).parent.mkdir(parents=True)
            (base / path).write_text(json.dumps(content))
        command, environment = [sys.executable, "-m", "data_prep.job"], job_environment({"SAGEMAKER_BASE_DIR": str(base)})
        jobs.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0], said
    assert every_file(tmp_path / "tokens" / name) == every_file(one)

    assert verify_full(one, str(source), 1) == len(expected)


def test_repeats_are_found_in_s3_too(run_job: RunJob, s3: S3Server, repeating, tokenizer_folder):
    source, expected = repeating
    for path in source.iterdir():
        s3.objects[f"source/{path.name}"] = path.read_bytes()
    arguments = ("--out", "s3://bucket/out/", "--tokenizer", str(tokenizer_folder), "--workers", "2", *EXACT)
    done = run_job("--source", "s3://bucket/source/", *arguments, env=s3.environment())
    assert done.returncode == 0, done.stderr
    index = json.loads(s3.objects["out/index.json"])
    assert sum(index["splits"][name]["documents"] for name in SPLITS) == len(expected)
    assert not [key for key in s3.objects if ".work" in key]


def test_equal_means_the_same_text_whatever_holds_it(run_job: RunJob, tokenizer_folder, files, tmp_path: Path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for name, content in {
        "a.jsonl": rows(["kept \ufffd", "Twice", "twice", "twice ", "e\u0301", "\u00e9"]),
        "b.txt": b"\xef\xbb\xbftwice",  # a byte order mark is no text
        "c.csv": b'text,other\ntwice,1\n"twice ",2\nTWICE,3\n',
        "d.jsonl": b'{"text": "kept \\ud800"}\n{"text": "  "}\n{"text": "twice", "id": 7}\n',  # the surrogate becomes U+FFFD
    }.items():
        (source / name).write_bytes(content)
    settings = (*EXACT[:2], "--set", "validation_share=0")
    done = run_job("--source", str(source), "--out", str(out), "--tokenizer", str(tokenizer_folder), *settings)
    assert done.returncode == 0, done.stderr
    assert decoded(out, files, "train") == ["kept \ufffd", "Twice", "twice", "twice ", "e\u0301", "\u00e9", "TWICE"]
    assert read_index(out).skipped == {"duplicate": 5, "empty": 1}


@pytest.mark.parametrize(("run", "bucket"), [(1 << 22, 1 << 22), (7, 40), (1, 10)])
def test_what_is_left_out_depends_on_no_size(make_spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: int, bucket: int):
    rng, source, out = random.Random(run), LocalStore(tmp_path / "source"), LocalStore(tmp_path / "out")
    texts = [f"text {n}" for n in range(60)]
    written: list[tuple[int, int, int, str]] = []
    for number in range(3):
        chosen = rng.choices(texts, k=rng.randint(1, 90))
        source.write(f"{number}.jsonl.gz", gzip.compress(SPACES + rows(chosen), 0, mtime=0))
        at = len(SPACES)
        for text in chosen:
            written.append((number, 0, at, text))
            at += len(rows([text]))
    spec = make_spec(source.uri, deduplicate="exact")
    plan = make_plan(spec, list_source(source.uri))
    assert len(plan) == 3
    monkeypatch.setattr(duplicates, "RUN_DOCUMENTS", run)
    hashed = [hash_part(HashTask(part, "origin"), spec, source, out, tmp_path / "scratch", lambda *counts: None) for part in plan]
    assert sum(part.documents for part in hashed) == len(written)
    runs = [(part.number, run) for part, found in zip(plan, hashed, strict=True) for run in found.runs]
    counts = [unpacked(run.prefixes) for _, run in runs]
    edges = bucket_edges(sum(counts, np.zeros(1 << PREFIX_BITS, np.int64)), bucket)
    assert len(edges) > (1 if bucket > 100 else 2)
    buckets = Buckets(
        made_of="all",
        count=len(edges) - 1,
        runs=tuple(
            BucketedRun(part=n, name=r.name, entries=r.entries, repeats=r.repeats, begins=packed(np.cumsum([0, *c])[edges]))
            for (n, r), c in zip(runs, counts, strict=True)
        ),
    )
    compared = [compare_bucket(deduplicate._task(buckets, n, 3), out, tmp_path / "scratch") for n in range(buckets.count)]
    slices = deduplicate._slices(buckets, compared, {0, 1, 2})
    left_out = {(n, 0, place) for n in range(3) for place in Repeats(out, slices[n]).of(0) if place >= 0}
    seen: set[str] = set()
    assert left_out == {(*place,) for *place, text in written if text in seen or seen.add(text)}
    for number in range(3):
        read = Repeats(out, slices[number])
        by_place = {tuple(place): text for *place, text in written}
        for row in read.rows.tolist():
            segment, position, *of = row
            assert by_place[(number, segment, position)] == by_place[tuple(of)]
            assert tuple(of) < (number, segment, position)


def test_more_texts_than_buckets_hold_are_refused():
    with pytest.raises(BadInput, match=r"at most about 40,960 different texts, and one of 4096 equal shares of them holds 11, more"):
        bucket_edges(np.array([11] + [0] * ((1 << PREFIX_BITS) - 1)), 10)


def test_verify_full_finds_a_repeat(run_job: RunJob, repeating, tokenizer_folder, tmp_path: Path):
    out = tmp_path / "out"
    done = run_job("--source", str(repeating[0]), "--out", str(out), "--tokenizer", str(tokenizer_folder), *EXACT[2:])
    assert done.returncode == 0, done.stderr
    with pytest.raises(CorruptShard, match=r"document \d+ of shard train/\S+ repeats document \d+ of shard train/\S+ \(\d+ repeats"):
        check_distinct(out, read_index(out))


def test_off_leaves_the_fingerprint_alone(make_spec, tmp_path: Path):
    (tmp_path / "a.txt").write_text("a text")
    assert "deduplicate" not in fingerprinted(make_spec(tmp_path))
    assert identify(make_spec(tmp_path)).fingerprint == identify(make_spec(tmp_path, deduplicate="none")).fingerprint
    assert identify(make_spec(tmp_path)).fingerprint != identify(make_spec(tmp_path, deduplicate="exact")).fingerprint
