"""docs/corpus.md: the script for datatrove runs, and what it leaves is a source."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import planted

from contracts.shard_index import read_index
from data_prep.job import main as tokenise
from infra.run.run_spec import resolve

DOCUMENT = (Path(__file__).parents[2] / "docs" / "corpus.md").read_text()


def test_the_script_cleans_a_folder_that_data_preparation_reads(tmp_path: Path) -> None:
    planted.write_source(tmp_path / "raw")
    (script,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "clean.py").write_text(script)
    done = subprocess.run([sys.executable, "clean.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    tokens = tmp_path / "tokens"
    given = [
        "--source",
        str(tmp_path / "clean"),
        "--out",
        str(tokens),
        "--vocab-size",
        "300",
        "--workers",
        "1",
        "--gates",
        str(tmp_path / "g"),
    ]
    assert tokenise([*given, "--set", 'id_field="id"', "--set", "validation_share=0", "--set", 'encoder="huggingface"']) == 0
    index = read_index(tokens)
    left = [name for name in planted.documents() if not name.startswith(("lorem", "repeats", "german"))]  # the German repeats itself
    assert index.splits.train.documents == len(left)


def test_the_input_resolves() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    corpus = resolve(json.loads(text), default_recipe="local").data.corpus
    assert corpus is not None and len(corpus.steps) == 6


def test_every_step_has_a_row() -> None:
    from data_prep.corpus_spec import STEPS

    assert re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE) == list(STEPS)
