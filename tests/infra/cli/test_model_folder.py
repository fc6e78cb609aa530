"""`pretrain export`: a run's own weights, whole, or a refusal that says whose model lies there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_aws import ATTEMPT, Deployed, put_run
from report_runs import run_json

from infra.cli.model_folder import EXPORT_FILE


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
    folder, real, fetched = tmp_path / "model", aws.s3.download_file, []

    def download(bucket: str, key: str, path: str) -> None:
        fetched.append(key)
        if len(fetched) == when:
            Path(path).write_bytes(b"A" * 10)
            raise OSError(28, "No space left on device", path)
        real(bucket, key, path)

    monkeypatch.setattr(aws.s3, "download_file", download)
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
