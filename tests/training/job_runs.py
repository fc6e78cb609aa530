"""Real jobs for tests and benches: ``python -m training.job`` in a folder of its own, killed, stopped and resumed.

Each attempt has an empty disk and, as Admit and Triage do it, the newest whole checkpoint of the earlier ones as a channel.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from leg_corpus import documents, write_channel, write_job

from contracts.checkpoint_manifest import DamagedManifest, parse_manifest
from contracts.config import merge

ROOT = Path(__file__).resolve().parents[2]
TINY: dict[str, Any] = {
    "model": {"dim": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_dim": 192, "vocab_size": 400, "max_sequence_length": 64},
    "device": "cpu",
    "processes_per_host": 2,
    "steps": 24,
    "sequence_length": 64,
    "local_batch_size": 2,
    "global_batch_size": 4,
    "optimizer": {"lr": 3e-3},
    "schedule": {"warmup_steps": 4},
    "precision": "float32",
    "compile": False,
    "activation_checkpointing": "none",
    "checkpoint": {"interval_steps": 5, "keep_latest": 3, "async_mode": "async"},
    "validation": {"interval_steps": 0, "batches": 2},
    "export": {"dtype": "float32", "sample_prompt": "The"},
    "log_interval_steps": 1,
}
"""24 steps of 256 tokens over about 4,200: an epoch ends in step 17."""


def tiny_channel(folder: Path) -> Path:
    """A tokens channel of a few thousand tokens."""
    write_channel(folder, documents(12_000), vocab_size=400, validation_every=8)
    return folder


@dataclass
class JobRun:
    """One attempt in one folder."""

    base: Path
    process: subprocess.Popen[str]

    @property
    def kept(self) -> Path:
        """What SageMaker would sync."""
        return self.base / "checkpoints"

    def rows(self) -> list[dict[str, Any]]:
        """Metrics lines so far."""
        path = self.kept / "metrics" / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def losses(self) -> dict[int, tuple[float, float]]:
        """Loss and gradient norm of each step."""
        return {row["step"]: (row["loss"], row["grad_norm"]) for row in self.rows() if "loss" in row}

    def wait_until(self, condition: Callable[[], bool], timeout: float = 180.0, *, every: float = 0.02) -> bool:
        """True when the condition came true while the job lived; looked at ``every`` so many seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            if condition():
                return True
            time.sleep(every)
        return condition()

    def wait_until_saving(self, after_step: int) -> bool:
        """True when a checkpoint was being written after a step; that lasts milliseconds."""
        return self.wait_until(lambda: self.step() >= after_step) and self.wait_until(lambda: saving_now(self), every=0.002)

    def kill(self) -> None:
        """SIGKILL to the job. The kernel ends torchrun and the ranks after it, and a rank may write until then."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        while any(alive(process) for process in started):
            time.sleep(0.002)

    def step(self) -> int:
        """Last step logged."""
        return max(self.losses(), default=0)

    def finish(self, timeout: float = 300.0) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(timeout=timeout)

    def failure(self) -> str:
        """The failure sentence, or nothing."""
        path = self.base / "output" / "failure"
        return path.read_text() if path.exists() else ""

    def log(self) -> str:
        """What the job printed."""
        return (self.base / "log.txt").read_text()

    def export_hash(self) -> str:
        """SHA-256 over the exported weights."""
        digest = hashlib.sha256()
        for path in sorted((self.kept / "export").glob("*.safetensors")):
            digest.update(path.read_bytes())
        return digest.hexdigest()


@dataclass
class Leg:
    """Attempts at one leg."""

    root: Path
    tokens: Path
    training: dict[str, Any] = field(default_factory=dict)
    attempts: list[JobRun] = field(default_factory=list)
    unusable: set[Path] = field(default_factory=set)
    """Checkpoints that an attempt called damaged."""
    given: Path | None = None
    """The checkpoint that the last attempt was given."""
    run_id: str = "test-run"
    """Two jobs of one run, leg and attempt cannot run at the same time: their ranks meet at one port."""

    def start(self, changes: dict[str, Any] | None = None, *, environment: dict[str, str] | None = None) -> JobRun:
        """The next attempt: an empty disk, and the channel of the checkpoint to go on from when there is one."""
        base = self.root / f"attempt-{len(self.attempts) + 1}"
        write_job(base, merge(merge(TINY, self.training), changes or {}), attempt=len(self.attempts) + 1, run_id=self.run_id)
        if self.attempts and self.given is not None and "CheckpointDamaged" in self.attempts[-1].failure():
            self.unusable.add(self.given)
        self.given = next((folder for folder in self.whole() if folder not in self.unusable), None)
        if self.given is not None:
            give_checkpoint(base, self.given)
        self.attempts.append(start_job(base, self.tokens, environment=environment))
        return self.attempts[-1]

    def whole(self) -> list[Path]:
        """Whole checkpoints of all attempts, the newest attempt's newest first."""
        return [folder for run in reversed(self.attempts) for folder in whole_checkpoints(run.kept)]

    def losses(self) -> dict[int, tuple[float, float]]:
        """Loss and gradient norm of each step; of a step that was trained twice the later attempt counts."""
        return {step: value for run in self.attempts for step, value in run.losses().items()}


def whole_checkpoints(kept: Path) -> list[Path]:
    """Folders below ``kept`` that a Lambda would call whole by their listing, newest first."""
    return [path for _, path in sorted(step_folders(kept / "checkpoints").items(), reverse=True) if is_whole(path)]


def is_whole(folder: Path) -> bool:
    """The manifest is there, and every part has its size."""
    try:
        manifest = parse_manifest((folder / "manifest.json").read_bytes())
    except (FileNotFoundError, DamagedManifest):
        return False
    return manifest.missing({path.name: path.stat().st_size for path in folder.iterdir()}) is None


def give_checkpoint(base: Path, folder: Path) -> None:
    """The channel of a checkpoint: a copy of hard links, which the attempt it comes from may delete."""
    shutil.copytree(folder, base / "input" / "data" / "checkpoint", copy_function=os.link)


def step_folders(folder: Path) -> dict[int, Path]:
    """Step folders, whole or not."""
    return {int(path.name.removeprefix("step-")): path for path in folder.glob("step-*")}


def start_job(base: Path, tokens: Path | None, *, environment: dict[str, str] | None = None) -> JobRun:
    """Start the job whose files are under ``base``; with None its tokens channels are there as well."""
    channel = base / "input" / "data" / "tokens"
    if tokens is not None and not channel.exists():
        channel.symlink_to(tokens)
    log = (base / "log.txt").open("w")
    settings = {**os.environ, "SAGEMAKER_BASE_DIR": str(base), "PYTHONPATH": str(ROOT), **(environment or {})}
    command = [sys.executable, "-m", "training.job"]
    return JobRun(base, subprocess.Popen(command, cwd=ROOT, env=settings, stdout=log, stderr=subprocess.STDOUT, text=True))


def alive(process: psutil.Process) -> bool:
    """Running, and not only waiting for its parent to look."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def saving_now(run: JobRun) -> bool:
    """A checkpoint is being written at this moment."""
    folders = (run.kept / "checkpoints").glob("step-*")
    return any(any(folder.glob("*.distcp")) and not (folder / "manifest.json").exists() for folder in folders)
