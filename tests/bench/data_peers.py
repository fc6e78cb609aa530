"""One peer library: JSONL.gz to token shards, two workers, Llama-3.1 vocabulary. Run by ``make bench-data`` in .venv-bench.

    python data_peers.py datatrove|datasets|litdata|mds CORPUS TOKENIZER_JSON OUT

Each does what its documentation shows for tokenising for pre-training, with Hugging Face tokenizers, BOS and EOS around
each document.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

WORKERS = 2
BOS, EOS = 128_000, 128_001


def tokenizer(path: str) -> Any:
    """The tokenizer, special tokens in text taken as text."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(path)
    made.encode_special_tokens = True
    return made


def texts(path: str) -> Iterator[str]:
    """The documents of one file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def run_datatrove(corpus: Path, tokenizer_json: str, out: Path) -> None:
    """datatrove's DocumentTokenizer over JsonlReader."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    stages = [
        JsonlReader(str(corpus), glob_pattern="*.jsonl.gz"),
        DocumentTokenizer(
            str(out), local_working_dir=str(out / "work"), tokenizer_name_or_path=tokenizer_json, eos_token="<|end_of_text|>"
        ),
    ]
    LocalPipelineExecutor(pipeline=stages, tasks=WORKERS, workers=WORKERS, logging_dir=str(out / "logs")).run()


def run_datasets(corpus: Path, tokenizer_json: str, out: Path) -> None:
    """datasets: load_dataset, map with two processes, save."""
    from datasets import load_dataset

    held: dict[str, Any] = {}

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        if not held:
            held["tokenizer"] = tokenizer(tokenizer_json)
        found = held["tokenizer"].encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"input_ids": [[BOS, *encoding.ids, EOS] for encoding in found]}

    files = sorted(str(path) for path in corpus.glob("*.jsonl.gz"))
    data = load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    data.map(encode, batched=True, num_proc=WORKERS, remove_columns=data.column_names).save_to_disk(str(out / "shards"))


class LitdataEncoder:
    """litdata's optimize takes a generator of one file's samples."""

    def __init__(self, path: str) -> None:
        self.path, self.made = path, None

    def __call__(self, file: str) -> Iterator[Any]:
        import torch

        if self.made is None:
            self.made = tokenizer(self.path)
        for text in texts(file):
            yield torch.tensor([BOS, *self.made.encode(text, add_special_tokens=False).ids, EOS], dtype=torch.int32)


def keep_litdata_out_of_tmp(folder: Path) -> None:
    """litdata by default works in /tmp/data and /tmp/chunks and empties them, even when another user owns them."""
    for name in ("DATA_OPTIMIZER_CACHE_FOLDER", "DATA_OPTIMIZER_DATA_CACHE_FOLDER"):
        os.environ[name] = str(folder / name.lower())


def run_litdata(corpus: Path, tokenizer_json: str, out: Path) -> None:
    """litdata's optimize with a TokensLoader."""
    keep_litdata_out_of_tmp(out)
    from litdata import TokensLoader, optimize

    files = sorted(str(path) for path in corpus.glob("*.jsonl.gz"))
    optimize(
        fn=LitdataEncoder(tokenizer_json), inputs=files, output_dir=str(out / "shards"), num_workers=WORKERS, chunk_bytes="64MB",
        item_loader=TokensLoader(block_size=8192),
    )  # fmt: skip


def mds_file(arguments: tuple[str, str, str]) -> None:
    """One file into one MDS folder."""
    from streaming import MDSWriter

    file, tokenizer_json, out = arguments
    made = tokenizer(tokenizer_json)
    with MDSWriter(out=out, columns={"tokens": "ndarray:int32"}, size_limit=1 << 26, hashes=["xxh128"]) as writer:
        for text in texts(file):
            writer.write({"tokens": np.array([BOS, *made.encode(text, add_special_tokens=False).ids, EOS], np.int32)})


def run_mds(corpus: Path, tokenizer_json: str, out: Path) -> None:
    """mosaicml-streaming's MDSWriter, one folder per file, as its multiprocessing example has it."""
    from concurrent.futures import ProcessPoolExecutor

    files = sorted(corpus.glob("*.jsonl.gz"))
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(mds_file, [(str(path), tokenizer_json, str(out / path.name)) for path in files]))


PEERS = {"datatrove": run_datatrove, "datasets": run_datasets, "litdata": run_litdata, "mds": run_mds}

if __name__ == "__main__":
    PEERS[sys.argv[1]](Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
