"""What was compiled travels with a checkpoint, and nothing that lies in S3 is taken for it."""

from __future__ import annotations

import dataclasses
import gzip
import hmac
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
import xxhash
from job_runs import TINY
from leg_corpus import write_job
from torch.distributed.checkpoint import save

from contracts.checkpoint_manifest import CheckpointFile, manifest_bytes, parse_manifest
from contracts.config import merge
from contracts.files import CHECKPOINT_MANIFEST, COMPILE_CACHE, COMPILE_CACHE_KEY
from training import compile_cache
from training.checkpoint_writer import CheckpointWriter
from training.compile_cache import CacheKeeper, cache_folder, compiled_is_kept, restore
from training.leg_job import LegJob, read_job


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LegJob:
    """A job that compiles, whose checkpoint was saved by an attempt of the same execution with two compiled files."""
    monkeypatch.setenv(COMPILE_CACHE_KEY, "drawn by Admit")
    write_job(tmp_path, merge(TINY, {"compile": True}))
    found = read_job(tmp_path)
    compiled = tmp_path / "first" / "3e"
    compiled.mkdir(parents=True)
    (compiled / "kernel.so").write_bytes(b"machine code")
    (compiled / "kernel.lock").touch()
    (tmp_path / "first" / "graph").write_bytes(b"graph")
    CacheKeeper(tmp_path / "first").put_into(found.checkpoint)
    save({"weights": torch.ones(4)}, storage_writer=CheckpointWriter(found.checkpoint, leg={}, step=2, world_size=1))
    return found


def sign(job: LegJob, body: bytes) -> None:
    """Put another archive into the checkpoint, listed as it is by its manifest: as somebody may who writes the bucket."""
    (job.checkpoint / COMPILE_CACHE).write_bytes(body)
    manifest = parse_manifest((job.checkpoint / CHECKPOINT_MANIFEST).read_bytes())
    others = tuple(file for file in manifest.files if file.name != COMPILE_CACHE)
    entry = CheckpointFile(name=COMPILE_CACHE, bytes=len(body), checksum=xxhash.xxh3_128_hexdigest(body))
    (job.checkpoint / CHECKPOINT_MANIFEST).write_bytes(manifest_bytes(dataclasses.replace(manifest, files=(*others, entry))))


def test_the_next_attempt_finds_what_was_compiled(job):
    assert [file.name for file in parse_manifest((job.checkpoint / CHECKPOINT_MANIFEST).read_bytes()).files].count(COMPILE_CACHE) == 1
    assert restore(job).startswith("2 files")
    assert (cache_folder(job) / "3e" / "kernel.so").read_bytes() == b"machine code"
    assert (cache_folder(job) / "graph").read_bytes() == b"graph"
    assert not list(cache_folder(job).rglob("*.lock"))


def test_another_execution_compiles_anew(job, monkeypatch):
    monkeypatch.setenv(COMPILE_CACHE_KEY, "another execution's")
    assert restore(job) == "not used: no attempt of this execution made it"
    assert not cache_folder(job).exists()


def test_without_a_key_nothing_is_kept(job, monkeypatch):
    assert compiled_is_kept(job.spec)
    monkeypatch.delenv(COMPILE_CACHE_KEY)
    assert not compiled_is_kept(job.spec)


def test_who_may_write_the_bucket_cannot_run_code_in_the_job(job):
    """The archive is made as the job makes it, and listed in a manifest that fits; only the key is missing."""
    other = job.base / "planted"
    other.mkdir()
    (other / "kernel.so").write_bytes(b"anything")
    os.environ[COMPILE_CACHE_KEY], key = "guessed", os.environ[COMPILE_CACHE_KEY]
    planted = compile_cache._pack(other, [other / "kernel.so"])
    os.environ[COMPILE_CACHE_KEY] = key
    sign(job, planted)
    assert "no attempt of this execution" in restore(job)
    assert not cache_folder(job).exists()


def test_another_image_or_cpu_compiles_anew(job, monkeypatch):
    monkeypatch.setenv("IMAGE_URI", "another")
    assert restore(job) == "not used: another image, or another kind of CPU, made it"


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "no manifest"])
def test_damage_costs_a_compilation_and_nothing_else(job, damage):
    archive = job.checkpoint / COMPILE_CACHE
    body = archive.read_bytes()
    if damage == "cut":
        archive.write_bytes(body[: len(body) // 2])
    elif damage == "changed":
        archive.write_bytes(body[:-9] + b"?" + body[-8:])
    elif damage == "missing":
        archive.unlink()
    else:
        (job.checkpoint / CHECKPOINT_MANIFEST).unlink()
    assert restore(job).startswith(("not used", "none in"))
    assert not cache_folder(job).exists()


def test_no_archive_leaves_its_folder_or_fills_the_disk(job, monkeypatch):
    """Authentic archives of our own making, as a wrong compiler might leave them."""

    def authentic(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for info, body in members:
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
        return hmac.digest(b"drawn by Admit", packed.getvalue(), "sha256") + packed.getvalue()

    maker = (tarfile.TarInfo("made_by.json"), json.dumps(compile_cache.made_by_this()).encode())
    sign(job, authentic(maker, (tarfile.TarInfo("cache/../../outside"), b"x")))
    assert "cannot be unpacked" in restore(job)
    assert not (job.base.parent / "outside").exists() and not (job.base / "outside").exists()
    monkeypatch.setattr(compile_cache, "MAX_BYTES", 1 << 20)
    sign(job, authentic(maker, (tarfile.TarInfo("cache/zeros"), bytes(2 << 20))))
    assert "unpacks to more than" in restore(job)
    sign(job, hmac.digest(b"drawn by Admit", gzip.compress(b"no archive"), "sha256") + gzip.compress(b"no archive"))
    assert "cannot be unpacked" in restore(job)


def test_a_full_disk_costs_the_cache_and_not_the_checkpoint(job, monkeypatch, capsys):
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    keeper = CacheKeeper(job.base / "first")
    shutil.rmtree(job.checkpoint)
    monkeypatch.setattr(Path, "write_bytes", full)
    keeper.put_into(job.checkpoint)
    assert "not kept" in capsys.readouterr().out
    assert compile_cache.listed(job.checkpoint) == []
