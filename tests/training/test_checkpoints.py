"""What a checkpoint is on disk, what damage does to it, and what may go on from it."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import xxhash
from torch.distributed.checkpoint.api import CheckpointException

from contracts.checkpoint_manifest import CheckpointFile, CheckpointManifest, manifest_bytes, parse_manifest
from training.checkpoint_reader import CheckpointPlanner, CheckpointReader, DamagedCheckpoint, open_checkpoint
from training.checkpoint_writer import CheckpointWriter
from training.checkpoints import step_folders
from training.leg_identity import mismatch

FILES = ("manifest.json", ".metadata", "checksums.json", "__0_0.distcp")
MUTATIONS = 1500
"""Of each kind of damage: left as it is, and signed anew as somebody would who may write the bucket."""


def state(fill: float = 0.0) -> dict[str, Any]:
    """Weights, and plain values as optimizers and loaders have them."""
    weights = torch.arange(600, dtype=torch.float32).reshape(20, 30) + fill
    return {"weights": weights, "norm": torch.full((3,), fill).bfloat16(), "step": 7, "loader": {"cursor": int(fill), "seeds": [1, 2]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "step-7"
    dcp.save(state(4.0), storage_writer=CheckpointWriter(target, leg={"model": {"dim": 64}, "data": {}}, step=7, world_size=1))
    return target


def load(folder: Path) -> dict[str, Any]:
    """The state in ``folder``; raises DamagedCheckpoint as the job does."""
    target, reader = state(), CheckpointReader(open_checkpoint(folder))
    try:
        dcp.load(target, storage_reader=reader, planner=CheckpointPlanner())
    except CheckpointException as error:
        raise DamagedCheckpoint(str(next(iter(error.failures.values()))[0])) from error
    return target


def equal(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Bit by bit."""
    return all(torch.equal(found[key], value) if torch.is_tensor(value) else found[key] == value for key, value in wanted.items())


def sign(folder: Path) -> None:
    """Give the files of ``folder`` a manifest that fits them."""
    files = []
    for name in FILES[1:]:
        body = (folder / name).read_bytes()
        files.append(CheckpointFile(name=name, bytes=len(body), checksum=xxhash.xxh3_128_hexdigest(body)))
    manifest = CheckpointManifest(format_version=1, step=7, world_size=1, leg={}, files=tuple(files))
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))


def test_what_is_saved_is_loaded_and_torchs_own_reader_reads_it_too(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert equal(load(folder), state(4.0))
    plain = state()
    dcp.load(plain, checkpoint_id=folder)
    assert equal(plain, state(4.0))


def test_the_manifest_is_written_after_everything_else(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (written.append(Path(target).name), replace(self, target))[1])
    monkeypatch.setattr(os, "rename", lambda a, b, rename=os.rename: (written.append(Path(b).name), rename(a, b))[1])
    dcp.save(state(), storage_writer=CheckpointWriter(tmp_path / "again", leg={}, step=7, world_size=1))
    assert written[-1] == "manifest.json"


def test_the_writer_travels_to_the_process_that_saves(tmp_path: Path) -> None:
    writer = pickle.loads(pickle.dumps(CheckpointWriter(tmp_path / "w", leg={"a": 1}, step=3, world_size=1)))
    dcp.save(state(), storage_writer=writer)
    assert parse_manifest((tmp_path / "w" / "manifest.json").read_bytes()).step == 3


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("__0_0.distcp", 99, "__0_0.distcp has 99 bytes of"),
        ("__0_0.distcp", None, "__0_0.distcp is missing"),
        ("manifest.json", None, "saving was cut off"),
        ("manifest.json", 0, "it is cut off or no JSON"),
        (".metadata", 10, ".metadata has 10 bytes of"),
    ],
)
def test_what_is_missing_is_named(folder: Path, name: str, size: int | None, words: str) -> None:
    body = (folder / name).read_bytes()
    (folder / name).unlink()
    if size is not None:
        (folder / name).write_bytes(body[:size])
    with pytest.raises(DamagedCheckpoint, match=words):
        open_checkpoint(folder)


def mutated(body: bytes, chance: random.Random) -> bytes:
    """``body`` with one thing wrong."""
    changed, at = bytearray(body), chance.randrange(len(body))
    kind = chance.randrange(7)
    if kind == 0:
        changed[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del changed[at:]
    elif kind == 2:
        changed[at:at] = chance.randbytes(chance.randint(1, 20))
    elif kind == 3:
        length = chance.randint(1, 50)
        changed[at : at + length] = chance.randbytes(length)
    elif kind == 4:
        changed[at : at + chance.randint(1, 200)] = b""
    elif kind == 5:
        other = chance.randrange(len(body))
        changed[at : at + 40] = body[other : other + 40]
    else:
        changed[:] = chance.randbytes(chance.randint(0, 300))
    return bytes(changed)


@pytest.mark.parametrize("signed", [False, True], ids=["as it is", "signed anew"])
def test_damaged_files_are_called_damaged_or_load_what_was_saved_and_nothing_else_happens(folder: Path, signed: bool) -> None:
    chance, bodies = random.Random(11), {name: (folder / name).read_bytes() for name in FILES}
    outcomes = {"damaged": 0, "unharmed": 0}
    for _ in range(MUTATIONS):
        name = chance.choice(FILES[1:] if signed else FILES)
        (folder / name).write_bytes(mutated(bodies[name], chance))
        if signed:
            sign(folder)
        try:
            found = load(folder)
        except DamagedCheckpoint as error:
            assert "\n" not in str(error)[:100]
            outcomes["damaged"] += 1
        else:
            assert signed or equal(found, state(4.0))  # who signs may also say what is in it
            outcomes["unharmed"] += 1
        for changed in (name, "manifest.json"):
            (folder / changed).write_bytes(bodies[changed])
    assert outcomes["damaged"] > (0.5 if signed else 0.98) * MUTATIONS, outcomes


class Runs:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_that_runs_something_is_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    pickle.loads(pickle.dumps(Runs(mark)))
    assert mark.exists()  # it does run where anything may
    mark.unlink()
    (folder / ".metadata").write_bytes(pickle.dumps(Runs(mark)))
    with pytest.raises(DamagedCheckpoint):
        open_checkpoint(folder)
    sign(folder)
    with pytest.raises(DamagedCheckpoint, match=r"it refers to posix\.system"):
        open_checkpoint(folder)
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("value", [{}, [], None, 7, "x", b"x" * 10, {"a": torch.Size([1])}])
def test_a_pickle_of_something_else_is_damage(folder: Path, value: object, protocol: int) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(value, protocol))
    sign(folder)
    with pytest.raises(DamagedCheckpoint):
        open_checkpoint(folder)


def test_a_plain_value_that_would_run_something_is_not_run(tmp_path: Path) -> None:
    """torch's own planner unpickles whatever lies where the state holds a plain value."""
    mark, folder = tmp_path / "it-ran", tmp_path / "step-7"
    dcp.save({**state(), "step": Runs(mark)}, storage_writer=CheckpointWriter(folder, leg={}, step=7, world_size=1))
    with pytest.raises(DamagedCheckpoint):
        load(folder)
    assert not mark.exists()
    dcp.load(state(), checkpoint_id=folder)
    assert mark.exists()  # so the checkpoint was able to


def test_parts_outside_the_folder_are_not_reached_for(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "__0_0.distcp", tmp_path / "outside")
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    moved = {index: type(place)("../outside", place.offset, place.length) for index, place in metadata.storage_data.items()}
    metadata.storage_data = moved
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    sums = json.loads((folder / "checksums.json").read_bytes())
    (folder / "checksums.json").write_text(json.dumps({"../outside": sums["__0_0.distcp"]}))
    sign(folder)
    with pytest.raises(DamagedCheckpoint, match="are not of one checkpoint"):
        open_checkpoint(folder)


def read_by_this_process() -> int:
    """Bytes of all read calls so far, as the kernel counts them."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def test_only_what_is_needed_is_read_and_the_kernel_counts_the_same(folder: Path) -> None:
    load(folder)  # what is imported on the way is read now
    before = read_by_this_process()
    checkpoint = open_checkpoint(folder)
    reader = CheckpointReader(checkpoint)
    dcp.load({"norm": torch.zeros(3).bfloat16()}, storage_reader=reader, planner=CheckpointPlanner())
    counted = read_by_this_process() - before
    (norm,) = (place.length for index, place in checkpoint.metadata.storage_data.items() if index.fqn == "norm")
    assert reader.bytes_read == checkpoint.index_bytes + norm
    assert reader.bytes_read <= counted <= reader.bytes_read + 500  # the kernel's own figures were read, too
    assert counted < checkpoint.manifest.bytes


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
