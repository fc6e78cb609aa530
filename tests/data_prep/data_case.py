"""Shared by the data_prep tests: texts, records, environments."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = [
    *("the", "of", "token", "shard", "model", "loss", "learning", "rate", "training", "data", "é", "naïve", "Straße", "中文", "текст"),
    *("👩\u200d👩\u200d👧", "don't", "I'll", "12345", "3.14", "deploy()", "{}", "[]", "->", "!=", "<|end_of_text|>", "<s>"),
    *("\t", "\n", "\u00a0", "e\u0301"),
]


def make_texts(count: int, seed: int = 1, words: int = 60) -> list[str]:
    """Different texts of a few hundred bytes."""
    rng = random.Random(seed)
    return [f"{i} " + " ".join(rng.choices(WORDS, k=rng.randint(1, words))) for i in range(count)]


def jsonl(texts: list[str], ascii_only: bool = True) -> bytes:
    """One record per line."""
    return "".join(json.dumps({"id": f"d{i}", "text": text}, ensure_ascii=ascii_only) + "\n" for i, text in enumerate(texts)).encode()


def job_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The caller's environment without anything that reaches beyond loopback."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "HF_", "SAGEMAKER_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(extra or {})}


RunJob = Callable[..., subprocess.CompletedProcess[str]]


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a finished data set but those that name encoder, settings and folder: the card and parts.json."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: content for name, content in found.items() if not name.startswith(("card.", "parts."))}


def every_file(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
