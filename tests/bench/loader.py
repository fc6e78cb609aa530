"""``make bench-loader``: token loaders on the same tokens, one process, warm cache. Prints a table and one JSON line.

Run in .venv-bench: our loader, litdata's TokensLoader, MDS and torchtitan's own loader, which tokenises on the fly.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from bench_corpus import documents

from contracts.shard_index import FORMAT_VERSION, Shard, ShardIndex, Split, Splits, TokenizerFacts, index_bytes, read_index
from data_prep.shards import ShardWriter, open_tokens
from training.loader import ShardLoader
from training.loader_state import write_state
from training.mixture_order import Mixture, MixtureOrder, Position, Stage
from training.token_shards import TokenShards

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/bench"
LENGTH = 8192
BATCH = 8
TOKENS = 16 << 20
RESUME_TOKEN = 10**9
WEIGHTS = (50, 20, 15, 10, 5)
"""Of the mixture's five sources."""
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = 1.0
BOS, EOS, VOCABULARY = 128_000, 128_001, 128_256


def prepare_ours(folder: Path, tokens: int = TOKENS) -> np.ndarray[Any, Any]:
    """Shards of documents of about 500 tokens; the ids are drawn once, the same for every loader."""
    rng = np.random.default_rng(1)
    writer = ShardWriter(folder / "train/part-00000-000")
    while writer.tokens < tokens:
        document = rng.integers(0, BOS, int(rng.integers(50, 1000)), dtype=np.uint32)
        document[0], document[-1] = BOS, EOS
        writer.add(document, np.array([len(document)], np.uint64))
    write_index(folder, writer.close("train/part-00000-000.tokens"))
    index = read_index(folder)
    return np.asarray(open_tokens(folder, index, index.splits["train"].shards[0]))


def write_index(folder: Path, shard: Shard) -> None:
    """An index of one shard."""
    facts = TokenizerFacts(sha256="0" * 64, vocab_size=VOCABULARY, bos_id=BOS, eos_id=EOS, files=())
    split = Split(tokens=shard.tokens, documents=shard.documents, text_bytes=0, shards=(shard,))
    splits = Splits(train=split, validation=Split(tokens=0, documents=0, text_bytes=0))
    index = ShardIndex(format_version=FORMAT_VERSION, fingerprint="bench", dtype="uint32", tokenizer=facts, splits=splits)
    (folder / "index.json").write_bytes(index_bytes(index))


def sparse_shard(folder: Path) -> None:
    """A shard of 1.2 x 10^9 tokens that takes no disk: holes read as zeros."""
    tokens = RESUME_TOKEN + RESUME_TOKEN // 5
    (folder / "train").mkdir(parents=True)
    with (folder / "train/x.tokens").open("wb") as file:
        file.truncate(4 * tokens)
    ends = np.arange(1000, tokens + 1, 1000, dtype="<u8")
    (folder / "train/x.ends").write_bytes(ends.tobytes())
    blank = xxhash.xxh3_128_hexdigest(b"")
    write_index(
        folder,
        Shard(
            name="train/x.tokens", tokens=tokens, documents=len(ends), bytes=4 * tokens, checksum=blank, edges=blank, ends_checksum=blank
        ),
    )


class Rate(NamedTuple):
    """Mtok/s."""

    wall: float
    cpu: float
    """Per second of this process's CPU time: what the machine would give if nothing else ran on it."""


def rate(samples: Callable[[], Iterator[Any]]) -> Rate:
    """Median over rounds of about a second; the first round warms up."""
    found = []
    for _ in range(ROUNDS + 1):
        count, started, cpu = 0, time.perf_counter(), time.process_time()
        while (spent := time.perf_counter() - started) < SECONDS:
            for sample in samples():
                count += int(sample.size if isinstance(sample, np.ndarray) else sample.numel())
                if time.perf_counter() - started >= SECONDS:
                    break
        spent = time.perf_counter() - started
        found.append(Rate(count / spent / 1e6, count / (time.process_time() - cpu) / 1e6))
    return Rate(*(statistics.median(column) for column in zip(*found[1:], strict=True)))


def raw(folder: Path) -> Callable[[], Iterator[Any]]:
    """Our windows as int64, in order."""
    shards = TokenShards(folder, "train", LENGTH)
    whole = len(shards) - 1

    def samples() -> Iterator[Any]:
        for number in range(whole):
            yield shards.read(number * LENGTH, (number + 1) * LENGTH).astype(np.int64)

    return samples


def one_source(folder: Path) -> ShardLoader.Config:
    """Our complete batches: shuffled, labels masked at borders, positions."""
    return ShardLoader.Config(tokens_dir=str(folder), emit_positions=True, check="sizes")


def mixed(folders: Sequence[Path]) -> ShardLoader.Config:
    """The same of five sources."""
    named = {f"source-{number}": str(folder) for number, folder in enumerate(folders)}
    mixture = Mixture(folders=named, stages=(Stage(first=0, weights=WEIGHTS),))
    return ShardLoader.Config(mixture=mixture, emit_positions=True, check="sizes")


def batches(config: ShardLoader.Config) -> Callable[[], Iterator[Any]]:
    """What a training step takes."""
    made = iter(config.build(dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=LENGTH, local_batch_size=BATCH))

    def samples() -> Iterator[Any]:
        for inputs, _ in made:
            yield inputs["input"]

    return samples


class Blocks:
    """What litdata's optimize calls: the whole stream as one sample."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, number: int) -> Iterator[Any]:
        """Documents of the stream, as tensors."""
        import torch

        stream = np.load(self.path, mmap_mode="r")
        for start in range(0, len(stream), 4096):
            yield torch.from_numpy(stream[start : start + 4096].astype(np.int32))


def litdata(folder: Path, stream: Path) -> Callable[[], Iterator[Any]]:
    """litdata: StreamingDataset over TokensLoader."""
    from data_peers import keep_litdata_out_of_tmp

    keep_litdata_out_of_tmp(folder)
    from litdata import StreamingDataset, TokensLoader, optimize

    optimize(
        fn=Blocks(str(stream)),
        inputs=[0],
        output_dir=str(folder / "litdata"),
        num_workers=1,
        chunk_bytes="64MB",
        item_loader=TokensLoader(block_size=LENGTH),
    )
    data = StreamingDataset(str(folder / "litdata"), item_loader=TokensLoader(block_size=LENGTH), shuffle=False)
    return lambda: (sample.long() for sample in data)


def mds(folder: Path, stream: np.ndarray[Any, Any]) -> Callable[[], Iterator[Any]]:
    """mosaicml-streaming: one window per sample."""
    from streaming import LocalDataset, MDSWriter

    with MDSWriter(out=str(folder / "mds"), columns={"tokens": "ndarray:int32"}, size_limit=1 << 26) as writer:
        for start in range(0, len(stream) - LENGTH, LENGTH):
            writer.write({"tokens": stream[start : start + LENGTH].astype(np.int32)})
    data = LocalDataset(local=str(folder / "mds"))
    return lambda: (data[number]["tokens"].astype(np.int64) for number in range(len(data)))


def on_the_fly(folder: Path) -> Callable[[], Iterator[Any]]:
    """torchtitan's text loader on text of the same kind, Llama 3.1's tokenizer."""
    from data import tokenizer_folder
    from torchtitan.components.tokenizer import HuggingFaceTokenizer
    from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataset

    (folder / "text").mkdir()
    with (folder / "text/train.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(documents()):
            if number >= 200_000:  # past botocore's paragraphs there is longer text; both are in
                break
            file.write(json.dumps({"text": text}) + "\n")
    made = HuggingFaceTokenizer.Config().build(tokenizer_path=str(tokenizer_folder()))
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    data = HuggingFaceTextDataset("c4_test", str(folder / "text"), made, seq_len=LENGTH, infinite=True)
    endless = iter(data)
    return lambda: (inputs["input"] for inputs, _ in endless)


def state_at(config: ShardLoader.Config, token: int) -> dict[str, Any]:
    """What a checkpoint near this token holds, with a mixture at the end of a whole number of its periods."""
    places = token // LENGTH // 8 * 8
    if config.mixture is None:
        return {"cursor": places}
    weights = config.mixture.stages[0].weights
    periods = places // sum(weights) // 2 * 2
    counts = tuple(weight * periods for weight in weights)
    schedule = MixtureOrder(config.mixture.stages).schedule
    position = Position(place=sum(counts), cursors=counts, counts=counts, schedule=schedule)
    return write_state(position, tuple(config.mixture.folders))


def resume_ms(config: ShardLoader.Config) -> float:
    """From a loaded state to the first batch at token 10^9, median of fresh loaders; the map of the shards included."""
    state = state_at(config, RESUME_TOKEN)
    found = []
    for _ in range(21):
        loader = config.build(dp_world_size=8, dp_rank=3, tokenizer=None, seq_len=LENGTH, local_batch_size=1)
        started = time.perf_counter()
        loader.load_state_dict(state)
        next(iter(loader))
        found.append(1000 * (time.perf_counter() - started))
    return statistics.median(found)


def main() -> None:
    """Measure, print the table and the JSON line."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=CACHE))
    try:
        stream = prepare_ours(folder / "ours")
        np.save(folder / "stream.npy", stream)
        sparse_shard(folder / "sparse")
        parts = [folder / f"part-{number}" for number in range(len(WEIGHTS))]
        for part in parts:
            prepare_ours(part, TOKENS // len(WEIGHTS))
        found = {
            "ours, raw windows": rate(raw(folder / "ours")),
            "litdata TokensLoader": rate(litdata(folder, folder / "stream.npy")),
            "MDS": rate(mds(folder, stream)),
            "torchtitan, on the fly": rate(on_the_fly(folder)),
            "ours, complete batches": rate(batches(one_source(folder / "ours"))),
            "ours, of five sources": rate(batches(mixed(parts))),
        }
        resumed = resume_ms(one_source(folder / "sparse"))
        resumed_mixture = resume_ms(mixed([folder / "sparse"] * len(WEIGHTS)))
    finally:
        shutil.rmtree(folder)
    print(f"\n{TOKENS / 1e6:.0f} M tokens, sequences of {LENGTH}, one process; load {os.getloadavg()[0]:.1f} at the end\n")
    for name, value in found.items():
        print(f"{name:28}{value.wall:10.1f} Mtok/s{value.cpu:10.1f} by CPU time")
    print(f"{'resume at token 10^9':28}{resumed:10.2f} ms")
    print(f"{'the same, five sources':28}{resumed_mixture:10.2f} ms")
    result = {
        "bench": "loader",
        "ratio_litdata_raw": round(found["ours, raw windows"].wall / found["litdata TokensLoader"].wall, 2),
        "batch_mtok_s": round(found["ours, complete batches"].wall, 1),
        "mixture_mtok_s": round(found["ours, of five sources"].wall, 1),
        "resume_ms": round(resumed, 3),
        "mixture_resume_ms": round(resumed_mixture, 3),
        "mtok_s": {name: [round(one, 2) for one in value] for name, value in found.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
