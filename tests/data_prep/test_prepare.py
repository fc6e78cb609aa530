"""The job as a process on local folders: exactness, restarts, faults."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from data_case import RunJob, contents, job_environment, jsonl, make_texts

from contracts.config import to_json
from contracts.shard_index import SPLITS, read_index
from data_prep.identify import identify
from data_prep.tokenizer import TokenizerFiles, load_reference
from data_prep.verify import document

SMALL = ("--set", "shard_tokens=2048", "--set", "validation_share=0.1")


def made(run_job: RunJob, source: Path, out: Path, tokenizer: Path, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_job("--source", str(source), "--out", str(out), "--tokenizer", str(tokenizer), *SMALL, *more)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_decoded_documents_equal_the_text_and_land_in_one_split_each(
    run_job, source, tokenizer_folder, tmp_path: Path, files: TokenizerFiles
):
    made(run_job, source, tmp_path / "out", tokenizer_folder)
    index = read_index(tmp_path / "out")
    tokenizer = load_reference(files)
    found: list[str] = []
    for name in SPLITS:
        for shard in index.splits[name].shards:
            assert shard.tokens >= 2048 or shard is index.splits[name].shards[-1]
            found += [
                tokenizer.decode(document(tmp_path / "out", index, shard, i), skip_special_tokens=False) for i in range(shard.documents)
            ]
    texts = [*make_texts(200, 1), *make_texts(200, 2), (source / "notes.md").read_text()]
    assert sorted(found) == sorted(texts)
    assert 0 < index.splits["validation"].documents < 100
    assert not (tmp_path / "out/.work").exists()


def test_workers_encoders_and_file_order_change_no_byte(run_job, source, tokenizer_folder, tmp_path: Path):
    made(run_job, source, tmp_path / "one", tokenizer_folder, "--workers", "1", "--set", 'encoder="huggingface"')
    made(run_job, source, tmp_path / "two", tokenizer_folder, "--workers", "3")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert json.loads(one.pop("index.json"))["splits"] == json.loads(two.pop("index.json"))["splits"]
    assert one == two
    assert json.loads((tmp_path / "one/card.json").read_text())["encoder"]["name"] == "huggingface"
    assert json.loads((tmp_path / "two/card.json").read_text())["encoder"]["documents_compared"] >= 4


def test_a_finished_data_set_is_never_rewritten(run_job, source, tokenizer_folder, tmp_path: Path):
    out = tmp_path / "out"
    made(run_job, source, out, tokenizer_folder)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert "complete already" in made(run_job, source, out, tokenizer_folder).stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    other = made(run_job, source, out, tokenizer_folder, "--set", 'empty_documents="fail"', code=1)
    assert "BadInput (stop)" in other.stderr
    assert "choose another folder" in other.stderr


def test_two_instances_make_the_same_bytes_as_one(source, make_spec, tokenizer_folder, run_job, gates, tmp_path: Path):
    for number in range(4):  # gz files that plan as parts of their own, so that both instances have work
        (source / f"big{number}.jsonl.gz").write_bytes(
            gzip.compress(b" " * (3 << 20) + b"\n" + jsonl(make_texts(50, 10 + number)), 0, mtime=0)
        )
    spec = make_spec(source, shard_tokens=2048, validation_share=0.1, workers_per_instance=1)
    name = identify(spec).fingerprint
    shutil.copytree(gates, tmp_path / "tokens/gates")
    run = {"data": to_json(spec), "tokens": {"fingerprint": name, "uri": str(tmp_path / "tokens" / name)}}
    jobs = []
    for host in ("algo-1", "algo-2"):
        base = tmp_path / host
        (base / "processing/input/run").mkdir(parents=True)
        (base / "config").mkdir()
        (base / "processing/input/run/run.json").write_text(json.dumps(run))
        (base / "config/resourceconfig.json").write_text(json.dumps({"current_host": host, "hosts": ["algo-1", "algo-2"]}))
        environment = job_environment({"SAGEMAKER_BASE_DIR": str(base)})
        jobs.append(
            subprocess.Popen(
                [sys.executable, "-m", "data_prep.job"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    said = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    totals = [json.loads([line for line in text.splitlines() if line.startswith('{"stage"')][-1])["total_bytes"] for text in said]
    assert min(totals) > 3 << 20
    made(run_job, source, tmp_path / "one", tokenizer_folder)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "tokens" / name)
    assert json.loads(one.pop("index.json"))["splits"] == json.loads(two.pop("index.json"))["splits"]
    assert one == two


def test_ten_thousand_small_objects_make_no_more_shards_than_one(run_job, tokenizer_folder, tmp_path: Path):
    texts = make_texts(10_000, 3, words=12)
    many, one = tmp_path / "many", tmp_path / "one"
    many.mkdir()
    one.mkdir()
    for number, text in enumerate(texts):
        (many / f"{number:05d}.jsonl").write_bytes(jsonl([text]))
    (one / "all.jsonl").write_bytes(jsonl(texts))
    counts = []
    for folder in (many, one):
        out = tmp_path / f"{folder.name}-out"
        made(run_job, folder, out, tokenizer_folder, "--set", "shard_tokens=65536")
        index = read_index(out)
        counts.append([len(index.splits[name].shards) for name in SPLITS])
        assert index.splits["train"].documents + index.splits["validation"].documents == 10_000
    assert counts[0] <= counts[1]


def test_a_truncated_archive_stops_the_job_and_leaves_nothing_that_looks_finished(run_job, source, tokenizer_folder, tmp_path: Path):
    damaged = source / "a/text.jsonl.gz"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    done = made(run_job, source, tmp_path / "out", tokenizer_folder, code=1)
    assert done.stderr.strip().splitlines()[-1].startswith(f"CorruptSource (stop): {damaged} is a truncated gzip file")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out/index.json").exists()
    damaged.write_bytes(gzip.compress(jsonl(make_texts(5))))
    made(run_job, source, tmp_path / "out2", tokenizer_folder)


def test_too_many_skipped_documents_stop_the_job(run_job, source, tokenizer_folder, tmp_path: Path):
    (source / "bad.jsonl").write_bytes(b"{broken\n" * 30)
    skip = ("--set", 'corrupt_records="skip"')
    done = made(run_job, source, tmp_path / "out", tokenizer_folder, *skip, code=1)
    assert "TooMuchSkipped (stop): 30 of 431 documents were skipped (30 corrupt_record)" in done.stderr
    assert not (tmp_path / "out/index.json").exists()
    made(run_job, source, tmp_path / "out2", tokenizer_folder, *skip, "--set", "max_skipped_share=0.1")
    card = json.loads((tmp_path / "out2/card.json").read_text())
    assert card["skipped"]["corrupt_record"]["documents"] == 30
    assert "bad.jsonl at byte 0" in card["skipped"]["corrupt_record"]["first"][0]


def test_a_tokenizer_is_trained_on_the_source(run_job, source, tmp_path: Path):
    for out in ("out", "again"):
        done = run_job("--source", str(source), "--out", str(tmp_path / out), "--vocab-size", "500", *SMALL)
        assert done.returncode == 0, done.stderr
    index = read_index(tmp_path / "out")
    assert index.tokenizer.vocab_size == 500
    assert index.dtype == "uint16"
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_verify_passes_a_good_data_set_and_names_a_damaged_shard(run_job, source, tokenizer_folder, tmp_path: Path):
    out = tmp_path / "out"
    made(run_job, source, out, tokenizer_folder)
    full = run_job("verify", str(out), "--full", str(source))
    assert full.returncode == 0, full.stderr
    assert "all 401 documents equal Hugging Face tokenizers" in full.stdout
    shard = read_index(out).splits["train"].shards[0]
    content = bytearray((out / shard.name).read_bytes())
    content[100] ^= 1
    (out / shard.name).write_bytes(content)
    damaged = run_job("verify", str(out))
    assert damaged.returncode == 1
    assert f"CorruptShard (stop): shard {shard.name}" in damaged.stderr


def test_verify_full_names_a_source_that_is_another(run_job, source, tokenizer_folder, tmp_path: Path):
    made(run_job, source, tmp_path / "out", tokenizer_folder)
    (source / "b/text.jsonl").write_bytes(jsonl(make_texts(199, 2)))
    done = run_job("verify", str(tmp_path / "out"), "--full", str(source))
    assert done.returncode == 1
    assert "it is not what they were made of" in done.stderr


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--set", "text_feld=1"), 'data.text_feld: unknown key, did you mean "text_field"?'),
        (("--set", "text_field"), "write KEY=JSON"),
        (("--set", "text_field=body"), "strings need quotes"),
    ],
)
def test_wrong_settings_are_sentences(run_job, source, tokenizer_folder, tmp_path: Path, change: tuple[str, ...], sentence: str):
    done = made(run_job, source, tmp_path / "out", tokenizer_folder, *change, code=1)
    assert done.stderr.startswith("BadInput (stop): ")
    assert sentence in done.stderr
