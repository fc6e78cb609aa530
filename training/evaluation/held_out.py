"""Held-out text to token shards, as the preparation job makes them of training text: same reader, tokenizer and borders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from contracts.config import Json
from contracts.failure import read_failure
from training.failure_classes import BadInput


def shards_of(text: Path, tokenizer: Path, out: Path, *, text_field: str, named: Json) -> Path:
    """Token shards of all text below ``text``, in their ``train`` split.

    Args:
        text: folder with text files of any format that ``data.source`` may hold.
        tokenizer: the export, which holds tokenizer.json.
        out: an empty folder.
        text_field: field or column with the text.
        named: ``data.tokenizer`` of the run, which may name BOS and EOS.

    Raises:
        BadInput: the text cannot be read; the sentence is data_prep's.
    """
    settings = {"text_field": text_field, "validation_share": 0.0}
    settings |= {f"tokenizer.{key}": named[key] for key in ("bos_token", "eos_token") if named.get(key)}
    command = [sys.executable, "-m", "data_prep.job", "--source", str(text), "--out", str(out), "--tokenizer", str(tokenizer)]
    command += ["--gates", str(out.parent / "gates"), *(f"--set={key}={json.dumps(value)}" for key, value in settings.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        failure = read_failure(lines[-1]) if lines else None
        raise BadInput(f"held-out text {text.name}: {failure.sentence if failure else lines[-1] if lines else 'no output'}")
    return out
