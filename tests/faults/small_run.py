"""The run that faults are injected into: 48 steps of a small model on real text, and the results of an uninterrupted one."""

from __future__ import annotations

import copy
import gzip
import json
import sysconfig
from pathlib import Path
from typing import Any

from account import Account, Json, Unexpected, expect

SOURCE, MANY, BROKEN = "source/stdlib/", "source/many/", "source/broken/"
STEPS = 48
CHECKPOINT_STEPS = 8
FAULT_STEP = 12  # past the first checkpoint, far from the end
FAULT_LINE = f'"step": {FAULT_STEP},'
REFERENCE = "undisturbed"
ROUNDING = 1e-4  # relative: two ranks add the same samples in another order than one
DATA: Json = {
    "source": SOURCE,
    "tokenizer": {"train": {"vocab_size": 512, "sample_bytes": 1 << 18}},
    "validation_share": 0.05,
    "shard_tokens": 100_000,
    "workers_per_instance": 1,
}
TRAINING: Json = {
    "model": {"dim": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_dim": 128, "vocab_size": 512, "max_sequence_length": 128},
    "processes_per_host": 1,
    "steps": STEPS,
    "sequence_length": 128,
    "local_batch_size": 4,
    "global_batch_size": 8,
    "schedule": {"warmup_steps": 2, "total_steps": STEPS},
    "checkpoint": {"interval_steps": CHECKPOINT_STEPS, "async_mode": "async"},
    "validation": {"interval_steps": 0, "batches": 1},
    "export": {"dtype": "float32", "sample_prompt": ""},
    "log_interval_steps": 1,
}


def run_input(run: str, **changes: Any) -> Json:
    """The small run's input with another id and whatever else a fault needs."""
    value = {"run_id": run, "data": copy.deepcopy(DATA), "training": copy.deepcopy(TRAINING), "budget": {"max_usd": 500.0}}
    for section, change in changes.items():
        value[section] = {**value.get(section, {}), **change}
    return value


def upload_sources(account: Account) -> None:
    """Python's own library as JSONL: whole, in six objects, and with one object cut off."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    texts = [_jsonl(files), *(_jsonl(files[part::6]) for part in range(6))]
    names = [SOURCE + "a.jsonl.gz", *(f"{MANY}{part}.jsonl.gz" for part in range(6))]
    s3 = account.client("s3")
    for name, text in [*zip(names, texts, strict=True), (BROKEN + "good.jsonl.gz", texts[1]), (BROKEN + "bad.jsonl.gz", texts[1][:5000])]:
        s3.put_object(Bucket=account.bucket, Key=name, Body=text)


def _jsonl(files: list[Path]) -> bytes:
    paragraphs = [paragraph for file in files for paragraph in file.read_text(errors="replace").split("\n\n")]
    return gzip.compress("\n".join(json.dumps({"text": paragraph}) for paragraph in paragraphs).encode(), mtime=0)


def unbroken(account: Account, run: str, *, bitwise: bool = True, steps: int = STEPS) -> str:
    """What the run lost against the undisturbed one, in words; raises Unexpected unless that is nothing."""
    found, reference = account.metrics(run), account.metrics(REFERENCE)
    expect(f"{run}'s logged steps", [int(row["step"]) for row in found], list(range(1, steps + 1)))
    apart = max(abs(row["loss"] - other["loss"]) / other["loss"] for row, other in zip(found, reference, strict=False))
    if apart > (0.0 if bitwise else ROUNDING):
        raise Unexpected(f"{run}'s losses differ from the undisturbed run's by up to {apart:.1e}")
    curve = "losses bitwise those of an undisturbed run" if bitwise else f"losses within {ROUNDING:g} of an undisturbed run's"
    return f"nothing: each step logged once, {curve}"


def resumed(account: Account, run: str, *, bitwise: bool = True) -> str:
    """What a run that was cut off lost, and how much it trained again."""
    lost = unbroken(account, run, bitwise=bitwise)
    result = json.loads(account.read(f"{account.attempts(run)[-1]}metrics/result.json"))
    if not result["resumed_from"] or result["resumed_from"] < CHECKPOINT_STEPS:
        raise Unexpected(f"{run} did not resume: resumed_from is {result['resumed_from']}")
    trained = sum(len(account.steps_of(job["TrainingJobName"])) for job in account.training_jobs(run))
    return f"{lost}; resumed from step {result['resumed_from']}, {trained - STEPS} steps trained again"
