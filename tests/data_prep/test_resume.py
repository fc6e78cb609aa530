"""Whatever a stopped run left in the destination, the next one makes what a run from nothing makes."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from data_case import RunJob, every_file, make_texts
from data_s3_server import S3Server
from resume_trials import Trials

from contracts.failure import CorruptShard
from contracts.shard_index import SPLITS, read_index
from data_prep.spec import TokenizerTraining
from data_prep.tokenizer import train
from data_prep.verify import verify

SMALL = ("--set", "shard_tokens=2048", "--set", "validation_share=0.1")
ROWS = 30


def part_of_its_own(texts: list[str], **more: str) -> bytes:
    """gzip that plans as a part, whatever it holds: 4 MiB of text are expected in it, and nearly all of them are spaces."""
    rows = [{"id": f"d{i}", "text": text, **{key: f"{value} {i}" for key, value in more.items()}} for i, text in enumerate(texts)]
    return gzip.compress(b" " * (3 << 19) + b"\n" + "".join(json.dumps(row) + "\n" for row in rows).encode(), 0, mtime=0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jsonl.gz").write_bytes(part_of_its_own(make_texts(ROWS, number), title="title"))
    return folder


def prepare(run_job: RunJob, source: Path, out: Path, tokenizer: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run_job("--source", str(source), "--out", str(out), "--tokenizer", str(tokenizer), "--workers", "1", *SMALL, *more)


def stopped(run_job: RunJob, source: Path, out: Path, tokenizer: Path, *more: str) -> bytes:
    """Run until a cut line in the last part stops the job; the good content of that part."""
    last = source / "3.jsonl.gz"
    good = last.read_bytes()
    last.write_bytes(part_of_its_own([]) + gzip.compress(b'{"text": "cut'))
    done = prepare(run_job, source, out, tokenizer, *more)
    assert done.returncode == 1, done.stdout
    assert "CorruptSource (stop)" in done.stderr
    assert len(list((out / ".work/parts").iterdir())) == 3
    return good


def as_from_nothing(run_job: RunJob, source: Path, out: Path, tokenizer: Path, *more: str) -> str:
    """Run again and compare with a run into an empty folder; what the run said."""
    done = prepare(run_job, source, out, tokenizer, *more)
    assert done.returncode == 0, done.stderr
    fresh = out.with_name("fresh")
    assert prepare(run_job, source, fresh, tokenizer, *more).returncode == 0
    assert every_file(out) == every_file(fresh)
    verify(out)
    return done.stdout


def test_a_cut_line_is_repaired(run_job, source, tokenizer_folder, tmp_path: Path):
    good = stopped(run_job, source, tmp_path / "out", tokenizer_folder)
    (source / "3.jsonl.gz").write_bytes(good)
    said = as_from_nothing(run_job, source, tmp_path / "out", tokenizer_folder)
    assert "3 finished parts of an earlier run" in said
    assert "they were made of other source files; they are set aside in .work/aside-1/" in said
    assert sum(read_index(tmp_path / "out").splits[name].documents for name in SPLITS) == 4 * ROWS


def test_the_text_field_was_wrong(run_job, source, tokenizer_folder, tmp_path: Path):
    good = stopped(run_job, source, tmp_path / "out", tokenizer_folder, "--set", 'text_field="title"')
    (source / "3.jsonl.gz").write_bytes(good)
    said = as_from_nothing(run_job, source, tmp_path / "out", tokenizer_folder)
    assert "they were made of other settings (text_field) and other source files" in said


def test_every_file_was_replaced_by_as_many_bytes_and_its_time_put_back(run_job, source, tokenizer_folder, tmp_path: Path):
    good = stopped(run_job, source, tmp_path / "out", tokenizer_folder)
    (source / "3.jsonl.gz").write_bytes(good)
    for path in source.iterdir():
        before = path.stat()
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"token", b"nekot"), 0, mtime=0))
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    as_from_nothing(run_job, source, tmp_path / "out", tokenizer_folder)


def test_the_tokenizer_was_another(run_job, source, tokenizer_folder, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    for name, content in train(make_texts(200, 9), TokenizerTraining(vocab_size=400)).named():
        (other / name).write_bytes(content)
    good = stopped(run_job, source, tmp_path / "out", other)
    (source / "3.jsonl.gz").write_bytes(good)
    said = as_from_nothing(run_job, source, tmp_path / "out", tokenizer_folder)
    assert "other settings (tokenizer)" in said


def test_only_the_tokenizer_s_config_was_another(run_job, source, tokenizer_folder, files, tmp_path: Path):
    folder = tmp_path / "tok"
    folder.mkdir()
    for name, content in files.named():
        (folder / name).write_bytes(content)
    stopped(run_job, source, tmp_path / "out", folder)
    (source / "3.jsonl.gz").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": None}))
    said = as_from_nothing(run_job, source, tmp_path / "out", folder)
    assert "another tokenizer" in said


def test_nothing_is_made_again_when_nothing_changed(run_job, source, tokenizer_folder, tmp_path: Path):
    out = tmp_path / "out"
    whole = ("--set", 'corrupt_records="fail"')
    assert prepare(run_job, source, out, tokenizer_folder, *whole, "--set", 'id_field="nothing"').returncode == 0
    # Killed before the index: everything but the index is there.
    held = every_file(out)
    (out / "index.json").unlink()
    said = prepare(run_job, source, out, tokenizer_folder, *whole, "--set", 'id_field="nothing"').stdout
    assert "nothing proves what they were made of" in said  # .work/ went with the first run
    assert every_file(out) == held


def test_a_shard_that_was_edited_meanwhile_is_made_again(run_job, source, tokenizer_folder, tmp_path: Path):
    several_in_a_part = ("--set", "shard_tokens=1024")
    stopped(run_job, source, tmp_path / "out", tokenizer_folder, *several_in_a_part)
    shard = min((tmp_path / "out/train").glob("part-*.tokens"))
    content, before = shard.read_bytes(), shard.stat()
    shard.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = prepare(run_job, source, tmp_path / "out", tokenizer_folder, *several_in_a_part)
    assert "1 records of parts are not used: they do not read, or prove neither this origin nor their pieces" in done.stdout
    assert "2 of 4 parts are finished already" in done.stdout
    assert shard.read_bytes() == content


def test_a_stranger_s_files_in_the_destination_stay(run_job, source, tokenizer_folder, tmp_path: Path):
    out = tmp_path / "out"
    (out / "train").mkdir(parents=True)
    (out / "train/mine.txt").write_text("mine")
    (out / "train/part-00000-000.tokens").write_text("of nobody knows what")
    assert prepare(run_job, source, out, tokenizer_folder).returncode == 0
    assert (out / "train/mine.txt").read_text() == "mine"
    verify(out)


def test_a_verdict_of_another_tokenizer_is_not_believed(files, tmp_path: Path):
    from data_prep.gate import decide, verdict_key, verdict_proof
    from data_prep.local_store import LocalStore

    gates = LocalStore(tmp_path)
    for kept in ({"equal": True, "reason": "x"}, {"equal": True, "reason": "x", **verdict_proof(files), "tokenizer_sha256": "0"}, [], 3):
        gates.write(verdict_key(files), json.dumps(kept).encode())
        assert decide(files, False, 0, gates, lambda chunks: iter(())).encoder == "huggingface"


# -- verify ----------------------------------------------------------------------------------------


def rewritten(out: Path, change: Any) -> None:
    """parts.json changed, and the index with it, as a program would that mixed two runs."""
    import hashlib

    parts = json.loads((out / "parts.json").read_text())
    change(parts["parts"])
    content = json.dumps(parts).encode()
    (out / "parts.json").write_bytes(content)
    index = json.loads((out / "index.json").read_text())
    (out / "index.json").write_text(json.dumps({**index, "parts_sha256": hashlib.sha256(content).hexdigest()}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda parts: parts[1].update(made_of="0" * 32), "part 1 of .* was made with other settings, another tokenizer or another source"),
        (lambda parts: parts[2]["source"][0].update(etag="other"), "part 2 of .* was made with other settings"),
        (lambda parts: parts.pop(1), "part 2 of .* was made with other settings"),
        (lambda parts: parts[1]["pieces"][0].update(checksum="0" * 32), "does not hold what part 1 of"),
        (lambda parts: parts[3]["pieces"].pop(), "holds tokens that no part of parts.json made|does not hold what part 3"),
        (lambda parts: parts[0]["pieces"][0].update(shard="train/none.tokens"), "shard train/none.tokens does not hold"),
    ],
)
def test_verify_finds_a_mixture(run_job, source, tokenizer_folder, tmp_path: Path, change: Any, sentence: str):
    out = tmp_path / "out"
    assert prepare(run_job, source, out, tokenizer_folder).returncode == 0
    verify(out)
    rewritten(out, change)
    with pytest.raises(CorruptShard, match=sentence):
        verify(out)


def test_verify_finds_a_swapped_parts_file_and_config(run_job, source, tokenizer_folder, tmp_path: Path):
    out = tmp_path / "out"
    assert prepare(run_job, source, out, tokenizer_folder).returncode == 0
    good = (out / "parts.json").read_bytes()
    (out / "parts.json").write_bytes(good + b" ")
    with pytest.raises(CorruptShard, match=r"parts.json is not the one that index.json names"):
        verify(out)
    (out / "parts.json").write_bytes(good)
    (out / "tokenizer_config.json").unlink()
    with pytest.raises(CorruptShard, match=r"tokenizer_config.json is not the one"):
        verify(out)


# -- S3 and several instances ----------------------------------------------------------------------


def test_in_s3_another_run_s_parts_are_set_aside_too(run_job, s3: S3Server, source, tokenizer_folder, tmp_path: Path):
    out = "s3://bucket/out/"
    arguments = ("--out", out, "--tokenizer", str(tokenizer_folder), "--workers", "1", *SMALL)
    for path in source.iterdir():
        s3.objects[f"source/{path.name}"] = path.read_bytes()
    s3.objects["source/3.jsonl.gz"] = part_of_its_own([]) + gzip.compress(b'{"text": "cut')
    first = run_job("--source", "s3://bucket/source/", *arguments, "--set", 'text_field="title"', env=s3.environment())
    assert first.returncode == 1
    assert len(s3.puts("/.work/parts/")) == 3
    s3.objects["source/3.jsonl.gz"] = (source / "3.jsonl.gz").read_bytes()
    again = run_job("--source", "s3://bucket/source/", *arguments, env=s3.environment())
    assert again.returncode == 0, again.stderr
    assert "other settings (text_field) and other source files; they are set aside in .work/aside-1/" in again.stdout
    fresh = run_job("--source", "s3://bucket/source/", "--out", "s3://bucket/fresh/", *arguments[2:], env=s3.environment())
    assert fresh.returncode == 0, fresh.stderr
    assert s3.below("out/") == s3.below("fresh/")


def test_trials(gates: Path, tmp_path: Path):
    """A few of ``make bench-prepare-resume``: killed at random moments, a random change in between."""
    trials = Trials(tmp_path, gates)
    verdicts = [trials.run(seed) for seed in range(8)]
    assert all(verdict.good for verdict in verdicts), verdicts
