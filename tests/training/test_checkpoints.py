"""Which folders are checkpoints, and what may resume from which."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from training.checkpoints import damage, mismatch, step_folders


class Part(SimpleNamespace):
    """As torch's _StorageInfo."""


class Metadata(SimpleNamespace):
    """As torch's Metadata, as far as damage() reads it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    parts = {"a": Part(relative_path="__0_0.distcp", offset=0, length=60), "b": Part(relative_path="__0_0.distcp", offset=60, length=40)}
    parts["c"] = Part(relative_path="__1_0.distcp", offset=0, length=10)
    (tmp_path / "__0_0.distcp").write_bytes(bytes(100))
    (tmp_path / "__1_0.distcp").write_bytes(bytes(10))
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata(storage_data=parts)))
    return tmp_path


def test_a_whole_checkpoint_has_nothing_wrong(folder: Path) -> None:
    assert damage(folder) is None


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("__0_0.distcp", 99, "__0_0.distcp has 99 bytes of 100"),
        ("__1_0.distcp", None, "__1_0.distcp is missing"),
        (".metadata", None, "saving was cut off"),
        (".metadata", 0, "cannot be read"),
    ],
)
def test_what_is_missing_is_named(folder: Path, name: str, size: int | None, words: str) -> None:
    (folder / name).unlink()
    if size is not None:
        (folder / name).write_bytes(bytes(size))
    assert words in (damage(folder) or "")


def test_only_step_folders_count(tmp_path: Path) -> None:
    for name in ("step-5", "step-10", "step-x", "old-step-3", ".step-7.part"):
        (tmp_path / name).mkdir()
    assert sorted(step_folders(tmp_path)) == [5, 10]


def test_only_what_changes_the_meaning_of_the_numbers_keeps_a_leg_from_resuming() -> None:
    saved = {"model": {"dim": 64}, "data": {"seed": 1}, "training": {"compile": False}, "attempt": 1}
    assert mismatch(saved, {**saved, "training": {"compile": True}, "attempt": 2}) is None
    assert mismatch(saved, {**saved, "data": {"seed": 2}}) == "data.seed was 1 there and is 2 here"
    assert mismatch(saved, {**saved, "optimizer": {"name": "muon"}}) == "optimizer.name was None there and is muon here"
    assert mismatch(saved, {**saved, "model": {"dim": 64, "layers": 2}}) == "model.layers was None there and is 2 here"
