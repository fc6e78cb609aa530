"""`pretrain export`: a run's own weights, whole, or a refusal that says whose model lies there."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from cli_aws import ATTEMPT, Deployed, put_run
from report_runs import run_json

from contracts.export_manifest import ExportedFile, ExportManifest, manifest_bytes
from infra.cli.model_folder import EXPORT_FILE

EXPORT = f"runs/run-a/main/{ATTEMPT}export/"
RESULT = f"runs/run-a/main/{ATTEMPT}metrics/result.json"


def put_model(aws: Deployed, run_id: str, weights: bytes, **files: bytes) -> None:
    put_run(aws, run_json(run_id), {})
    prefix = f"runs/{run_id}/main/{ATTEMPT}export/"
    aws.s3.objects[f"runs/{run_id}/main/{ATTEMPT}metrics/result.json"] = b'{"steps": 1}'
    aws.s3.objects |= {f"{prefix}model.safetensors": weights, f"{prefix}README.md": run_id.encode()}
    aws.s3.objects |= {prefix + name: body for name, body in files.items()}


def test_another_runs_model_of_the_same_shape_is_refused_by_name(aws, pretrain, tmp_path):
    put_model(aws, "run-a", b"A" * 64)
    put_model(aws, "run-b", b"B" * 64)
    folder = tmp_path / "model"
    assert pretrain("export", str(folder), "--run", "run-a").code == 0
    result = pretrain("export", str(folder), "--run", "run-b")
    assert result.code == 1 and "holds the model of leg main of run run-a, not of leg main of run run-b" in result.out
    assert (folder / "model.safetensors").read_bytes() == b"A" * 64
    assert (folder / "README.md").read_text() == "run-a"


def test_a_folder_of_other_files_is_left_alone(aws, pretrain, tmp_path):
    put_model(aws, "run-a", b"A")
    (tmp_path / "thesis.tex").write_text("all of it")
    result = pretrain("export", str(tmp_path), "--run", "run-a")
    assert result.code == 1 and "no model of pretrain export" in result.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex"]


def test_a_file_that_changed_on_disk_is_fetched_again(aws, pretrain, tmp_path):
    put_model(aws, "run-a", b"A" * 64)
    folder = tmp_path / "model"
    pretrain("export", str(folder), "--run", "run-a")
    (folder / "model.safetensors").write_bytes(b"X" * 64)  # the same size
    assert pretrain("export", str(folder), "--run", "run-a").code == 0
    assert (folder / "model.safetensors").read_bytes() == b"A" * 64


def test_a_model_that_was_trained_on_takes_the_place_of_the_older_one(aws, pretrain, tmp_path):
    put_model(aws, "run-a", b"A" * 64, extra=b"gone later")
    folder = tmp_path / "model"
    pretrain("export", str(folder), "--run", "run-a")
    del aws.s3.objects[f"runs/run-a/main/{ATTEMPT}export/extra"]
    put_model(aws, "run-a", b"C" * 64)
    assert pretrain("export", str(folder), "--run", "run-a").code == 0
    assert (folder / "model.safetensors").read_bytes() == b"C" * 64
    assert not (folder / "extra").exists()


@pytest.mark.parametrize("when", [1, 2])
def test_an_interrupted_export_leaves_no_half_model_and_goes_on(aws, pretrain, tmp_path, monkeypatch, when):
    put_model(aws, "run-a", b"A" * 64)
    folder, real, fetched = tmp_path / "model", aws.s3.download_fileobj, []

    def download(bucket: str, key: str, stream: Any) -> None:
        fetched.append(key)
        if len(fetched) == when:
            stream.write(b"A" * 10)
            raise OSError(28, "No space left on device")
        real(bucket, key, stream)

    monkeypatch.setattr(aws.s3, "download_fileobj", download)
    with pytest.raises(OSError, match="No space left"):
        pretrain("export", str(folder), "--run", "run-a")
    assert not (folder / "model.safetensors").exists() and not (folder / "README.md").exists()
    assert json.loads((folder / EXPORT_FILE).read_text())["whole"] is False
    assert pretrain("export", str(folder), "--run", "run-a").code == 0
    assert len(fetched) == 3  # two files, one of them twice
    assert (folder / "model.safetensors").read_bytes() == b"A" * 64
    assert not list(folder.glob("*.part")) and json.loads((folder / EXPORT_FILE).read_text())["whole"] is True


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"run_id": "run-a"}', '{"run_id": "a", "leg": "b", "files": {"x": 3}}'])
def test_a_damaged_export_file_is_one_sentence(aws, pretrain, tmp_path, text):
    put_model(aws, "run-a", b"A")
    (tmp_path / EXPORT_FILE).write_text(text)
    result = pretrain("export", str(tmp_path), "--run", "run-a")
    assert result.code == 1 and "cannot be read" in result.out


def put_verified_model(aws: Deployed) -> None:
    """A model with the training job's checksums, and a sample, which is none of its files."""
    put_model(aws, "run-a", b"A" * 64)
    names = ("README.md", "model.safetensors")
    files = tuple(
        ExportedFile(name=name, bytes=len(body := aws.s3.objects[EXPORT + name]), sha256=hashlib.sha256(body).hexdigest()) for name in names
    )
    body = manifest_bytes(ExportManifest(format_version=1, files=files))
    aws.s3.objects |= {f"{EXPORT}manifest.json": body, f"{EXPORT}sample.txt": b"Once"}
    exported = {"files": 1, "bytes": 56, "manifest_sha256": hashlib.sha256(body).hexdigest()}
    aws.s3.objects[RESULT] = json.dumps({"steps": 1, "export": exported}).encode()


def test_a_model_is_verified_against_the_training_jobs_checksums(aws, pretrain, tmp_path):
    put_verified_model(aws)
    folder = tmp_path / "model"
    result = pretrain("export", str(folder), "--run", "run-a", "--json")
    assert result.code == 0 and json.loads(result.out)["verified"] is True
    assert (folder / "model.safetensors").read_bytes() == b"A" * 64 and (folder / "sample.txt").read_text() == "Once"
    assert "as the training job wrote it" in pretrain("export", str(folder), "--run", "run-a").out  # nothing is fetched again


def test_a_model_of_before_there_were_checksums_is_fetched_and_said_so(aws, pretrain, tmp_path):
    put_model(aws, "run-a", b"A" * 64)
    result = pretrain("export", str(tmp_path / "model"), "--run", "run-a")
    assert result.code == 0 and "compared by size only" in result.out


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("model.safetensors", b"A" * 63 + b"B", "model.safetensors is not what the training job wrote: its SHA-256 begins with"),
        ("model.safetensors", b"A" * 63, "model.safetensors has 63 bytes of 64, so the model has not arrived whole"),
        ("model.safetensors", None, "model.safetensors is missing, so the model has not arrived whole"),
        ("README.md", b"run-b", "README.md is not what the training job wrote"),
        ("manifest.json", None, "manifest.json is missing, so the model has not arrived whole, or was deleted"),
        ("manifest.json", b'{"format_version": 1, "files": []}', "result.json has another SHA-256 of it"),
    ],
)
def test_a_damaged_model_is_one_sentence_and_no_file_under_its_own_name(aws, pretrain, tmp_path, name, body, words):
    put_verified_model(aws)
    if body is None:
        del aws.s3.objects[EXPORT + name]
    else:
        aws.s3.objects[EXPORT + name] = body
    folder = tmp_path / "model"
    result = pretrain("export", str(folder), "--run", "run-a")
    assert result.code == 1 and words in re.sub(r"\s+", " ", result.out) and "the bucket keeps versions" in result.out
    assert not folder.exists() or {path.name for path in folder.iterdir() if path.suffix != ".part"} == {EXPORT_FILE}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b'{"format_version": 2, "files": []}',
        b'{"format_version": 1, "files": [{"name": "../x"}]}',
        b"[" * 50_000,
        b"\xff",
    ],
)
def test_a_damaged_manifest_is_one_sentence(aws, pretrain, tmp_path, body):
    put_verified_model(aws)
    aws.s3.objects[f"{EXPORT}manifest.json"] = body
    exported = {"files": 1, "bytes": 56, "manifest_sha256": hashlib.sha256(body).hexdigest()}
    aws.s3.objects[RESULT] = json.dumps({"steps": 1, "export": exported}).encode()
    result = pretrain("export", str(tmp_path / "model"), "--run", "run-a")
    assert result.code == 1 and "manifest.json cannot be used" in re.sub(r"\s+", " ", result.out)
    assert not (tmp_path / "model").exists()


def test_a_file_on_disk_that_is_not_the_training_jobs_is_fetched_again_although_it_was_taken_before(aws, pretrain, tmp_path):
    """It came before the checksums did: same ETag, another content by the manifest, as after a damage on the way."""
    put_verified_model(aws)
    folder = tmp_path / "model"
    assert pretrain("export", str(folder), "--run", "run-a").code == 0
    noted = json.loads((folder / EXPORT_FILE).read_text())
    (folder / "model.safetensors").write_bytes(b"X" * 64)
    noted["files"]["model.safetensors"]["sha256"] = hashlib.sha256(b"X" * 64).hexdigest()
    (folder / EXPORT_FILE).write_text(json.dumps(noted))
    assert pretrain("export", str(folder), "--run", "run-a").code == 0
    assert (folder / "model.safetensors").read_bytes() == b"A" * 64


RESULTS = {
    "held_out": {"novel": {"loss": 3.21, "perplexity": 24.8, "labels": 900}},
    "tasks": {"arc": {"seconds": 3.0, "results": {"arc_easy": {"metrics": {"acc": 0.31, "acc_stderr": 0.01}, "examples": 500}}}},
    "environment": {"lm-eval": "0.4.13", "image": None},
}


def test_the_evaluation_comes_along_and_ends_the_model_card(aws, pretrain, tmp_path):
    put_verified_model(aws)
    place, folder = f"runs/run-a/main/{ATTEMPT}evaluation/results.json", tmp_path / "model"
    pretrain("export", str(folder), "--run", "run-a")
    aws.s3.objects[place] = json.dumps(RESULTS).encode()  # it was evaluated later
    assert pretrain("export", str(folder), "--run", "run-a").code == 0
    card = (folder / "README.md").read_text()
    assert card.startswith("run-a\n## Evaluation") and "| arc_easy, acc | 0.31 |" in card and "| novel, perplexity | 24.8 |" in card
    assert json.loads((folder / "results.json").read_text()) == RESULTS and "lm-eval 0.4.13" in card

    assert pretrain("export", str(folder), "--run", "run-a").code == 0
    assert (folder / "README.md").read_text() == card  # it is not ended twice
    aws.s3.objects[place] = json.dumps(RESULTS | {"tasks": {}}).encode()
    pretrain("export", str(folder), "--run", "run-a")
    assert "arc_easy" not in (folder / "README.md").read_text() and "novel" in (folder / "README.md").read_text()
    aws.s3.objects[place] = b'{"held_out": {'
    assert pretrain("export", str(folder), "--run", "run-a").code == 0
    assert (folder / "README.md").read_text() == "run-a"
