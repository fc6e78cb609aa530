"""A tiny corpus, a tokenizer trained on it, and the job as a process."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from data_case import RunJob, job_environment, jsonl, make_texts
from data_s3_server import S3Server

from contracts.config import parse
from data_prep.gate import verdict_key, verdict_proof
from data_prep.spec import DataSpec, TokenizerTraining
from data_prep.tokenizer import TokenizerFiles, train


@pytest.fixture(scope="session")
def files() -> TokenizerFiles:
    """A byte-level BPE of 600 entries."""
    return train(make_texts(400), TokenizerTraining(vocab_size=600))


@pytest.fixture(scope="session")
def tokenizer_folder(files: TokenizerFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, content in files.named():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def gates(files: TokenizerFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of verdicts in which fastokens has passed with this tokenizer (test_gate shows that it does)."""
    folder = tmp_path_factory.mktemp("gates")
    (folder / verdict_key(files)).write_text(json.dumps({"equal": True, "reason": "test", **verdict_proof(files)}))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three objects in three formats, two with equal base names."""
    folder = tmp_path / "source"
    for name, content in {
        "a/text.jsonl.gz": gzip.compress(jsonl(make_texts(200, 1)), mtime=0),
        "b/text.jsonl": jsonl(make_texts(200, 2), ascii_only=False),
        "notes.md": b"# One document\n\nof plain text.\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def make_spec(tokenizer_folder: Path) -> Callable[..., DataSpec]:
    """A spec with the test tokenizer."""

    def make(source: Path | str, **changes: Any) -> DataSpec:
        return parse(DataSpec, {"source": str(source), "tokenizer": {"uri": str(tokenizer_folder)}, **changes})

    return make


@pytest.fixture
def s3() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def run_job(gates: Path, tmp_path: Path) -> RunJob:
    """``run_job(*arguments, env={...})``: ``python -m data_prep.job`` with the tests' verdicts, at a fresh disk."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "data_prep.job", *arguments]
        if "--source" in arguments:
            command += ["--gates", str(gates)]
        return subprocess.run(command, capture_output=True, text=True, env=job_environment(env), cwd=tmp_path, timeout=120)

    return run
