"""One CUDA device: the reference's four legs, single changes to the last, and the fastest combination of what helped.

    make bench-gpu [PYTHON=/path/to/python]      writes docs/gpu-bench.md; installs nothing

PYTHON needs torchtitan 0.3.0 with torch 2.14 and torchao 0.18, or with torch 2.11 to 2.13 (torchao 0.17) and the stand-ins of
gpu_torch_2_11.py. The model is Llama-3 8B with as many of its 32 layers as training.memory says fit. Every measurement is a process of
its own, so that memory and compiled code are its own too; rounds go through the settings in turn, so that what the device
does meanwhile meets all. What was measured is kept in a file, and an interrupted bench goes on from it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

from gpu_document import document, tables
from gpu_settings import CHANGES, FIRST_LEG, LAST_LEG, LEGS, base_settings

from contracts.config import Json, merge, parse
from training.job import CUDA_ENVIRONMENT
from training.memory import estimate
from training.spec import TrainingSpec

HERE = Path(__file__).resolve().parent
BLOCK_STEPS = 5  # timed together, so that the device waits for the host as little as in training
GAIN = 1.01  # a change counts as a help from one per cent on: less is within what two processes differ by
TIMEOUT_SECONDS = 1800  # autotuning times thousands of kernels before the first step
TEXT_BYTES = 4_000_000

Row = dict[str, Any]


class Bench:
    """Measures settings, each in a process of its own, and keeps the results."""

    def __init__(self, base: dict[str, Any], folder: Path, *, rounds: int, steps: int, warmup: int) -> None:
        self.base, self.folder = base, folder
        self.rounds, self.steps, self.warmup = rounds, steps, warmup
        self.kept = folder / "results.json"
        self.results: dict[str, list[Row]] = json.loads(self.kept.read_text()) if self.kept.exists() else {}

    def run(self, leg: str, names: list[str], turn: int = 0, *, phase: str = "") -> Row:
        """Measurement number ``turn`` of a leg with the named changes, from the results file or measured now; phases share no results."""
        request = {
            "settings": merge(self.base, LEGS[leg]),
            "names": names,
            "steps": self.steps,
            "warmup": self.warmup,
            "block": BLOCK_STEPS,
        }
        if self.base["device"] == "cpu":
            request["settings"] = merge(request["settings"], {"compile": False})
        key = phase + json.dumps(request, sort_keys=True)
        done = self.results.setdefault(key, [])
        if len(done) <= turn:
            done.append(self._measured(request) | {"estimate_gib": self._estimate(request)})
            self.kept.write_text(json.dumps(self.results))
            what = done[-1].get("failed") or f"{done[-1]['tokens_per_second']:.0f} tokens/s"
            print(f"  {' + '.join([leg, *names])}: {what}", flush=True)
        return done[turn]

    def _estimate(self, request: dict[str, Any]) -> float | None:
        settings = request["settings"]
        for name in request["names"]:
            if CHANGES[name].titan is not None:
                return None
            settings = merge(settings, CHANGES[name].training)
        return None if settings["device"] == "cpu" else estimate(parse(TrainingSpec, settings), 1).total / 2**30

    def _measured(self, request: dict[str, Any]) -> Row:
        environment = CUDA_ENVIRONMENT | os.environ  # as the ranks of a job have it
        for name in request["names"]:
            environment |= CHANGES[name].environment
            if CHANGES[name].needs_compile and not request["settings"]["compile"]:
                return {"failed": "needs torch.compile, which is left out on CPUs"}
        command = [sys.executable, str(HERE / "gpu_measure.py"), json.dumps({**request, "tokens": str(tokens_channel(self.folder))})]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {TIMEOUT_SECONDS // 60} minutes"}
        last = done.stdout.strip().splitlines()[-1:] or [""]
        if done.returncode != 0 or not last[0].startswith("{"):
            return {"failed": f"ended with {done.returncode}: {' '.join(done.stderr.split())[-120:]}"}
        row: Row = json.loads(last[0])
        if "failed" in row:
            (self.folder / "failures.log").open("a").write(f"{request['names']}\n{done.stderr}\n")
        return row

    def legs(self, names: dict[str, tuple[str, list[str]]], *, phase: str = "") -> dict[str, Row]:
        """Medians over rounds that go through all settings in turn. ``names``: row to leg and changes."""
        runs: dict[str, list[Row]] = {row: [] for row in names}
        for turn in range(self.rounds):
            for row, (leg, changes) in names.items():
                if not any("failed" in run for run in runs[row]):
                    runs[row].append(self.run(leg, changes, turn, phase=phase))
        return {row: middle(found) for row, found in runs.items()}

    def combine(self, last: Row, found: dict[str, Row]) -> tuple[list[str], list[tuple[str, Row]]]:
        """Greedy: what helped alone, best first, is added one by one and stays when it helps on top. Names kept, and each try."""
        helped = (name for name in found if "failed" not in found[name] and speed(found[name]) >= GAIN * speed(last))
        ranked = sorted(helped, key=lambda name: -speed(found[name]))
        kept: list[str] = []
        tries: list[tuple[str, Row]] = []
        best = speed(last)
        for name in ranked:
            if any(CHANGES[name].group == CHANGES[other].group for other in kept):
                continue
            row = found[name] if not kept else self.run(LAST_LEG, [*kept, name])
            tries.append((" + ".join([*kept, name]), row))
            if speed(row) >= GAIN * best:
                kept, best = [*kept, name], speed(row)
        return kept, tries


def speed(row: Row) -> float:
    """Tokens/s; 0 for a setting that does not run."""
    return float(row.get("tokens_per_second", 0.0))


def ratio(row: Row, reference: Row) -> float:
    """Speed over another's; 0 when either does not run."""
    return speed(row) / speed(reference) if speed(reference) else 0.0


def middle(runs: list[Row]) -> Row:
    """The run of the median speed, or the first that failed."""
    failed = [run for run in runs if "failed" in run]
    return failed[0] if failed else sorted(runs, key=speed)[len(runs) // 2]


def tokens_channel(folder: Path) -> Path:
    """A tokens channel of text that every Python has; made once."""
    from bench_corpus import package_files
    from leg_corpus import write_channel

    channel = folder / "tokens"
    if not (channel / "index.json").exists():
        texts, total = [], 0
        for text in package_files():
            texts.append(text)
            total += len(text)
            if total > TEXT_BYTES:
                break
        write_channel(channel, texts, vocab_size=400)
    return channel


def bench(base: dict[str, Any], folder: Path, *, rounds: int, steps: int, warmup: int, only: list[str]) -> Json:
    """Everything, as one JSON value."""
    runs = Bench(base, folder, rounds=rounds, steps=steps, warmup=warmup)
    legs = runs.legs({name: (name, []) for name in LEGS})
    changes = {name: runs.run(LAST_LEG, [name]) for name in only}
    kept, tries = runs.combine(legs[LAST_LEG], changes)
    together = {FIRST_LEG: (FIRST_LEG, []), LAST_LEG: (LAST_LEG, []), "fastest": (LAST_LEG, kept)}
    final = runs.legs(together, phase="final ") if kept else {}
    fp8 = max((ratio(legs[name], legs[FIRST_LEG]) for name in LEGS if name.startswith("float8")), default=0.0)
    best = max(fp8, ratio(final["fastest"], final[FIRST_LEG])) if final else fp8
    machine = next((row["machine"] for row in [*legs.values(), *changes.values()] if "machine" in row), {})
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "layers": base["model"]["layers"],
        "batch": base["local_batch_size"],
        "sequence_length": base["sequence_length"],
        "rounds": rounds,
        "steps": steps,
        "legs": legs,
        "changes": changes,
        "combination": {"kept": kept, "tries": tries, "measured": final},
        "fp8_over_eager": round(fp8, 3) or None,
        "best_over_eager": round(best, 3) or None,
    }


def cuda_device() -> tuple[str | None, int]:
    """Name and bytes of the first device, read in a separate process: a CUDA context here would take memory from the measurements."""
    ask = "import torch; p = torch.cuda.get_device_properties(0); print(p.name, p.total_memory, sep='|')"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    name, _, size = done.stdout.strip().rpartition("|")
    return (name, int(size)) if name else (None, 0)


def main(arguments: argparse.Namespace) -> int:
    """Measure, print the tables and one JSON line, write the document."""
    name, memory = cuda_device() if arguments.device == "cuda" else ("CPU", 0)
    if name is None:
        print("There is no CUDA device here; `--device cpu` runs the bench's logic on a tiny model.", file=sys.stderr)
        return 1
    folder = arguments.keep / re.sub(r"[^A-Za-z0-9.]+", "-", f"{name} torch {version('torch')}")
    folder.mkdir(parents=True, exist_ok=True)
    found = bench(
        base_settings(arguments.device, memory),
        folder,
        rounds=arguments.rounds,
        steps=arguments.blocks * BLOCK_STEPS,
        warmup=arguments.warmup,
        only=arguments.only or list(CHANGES),
    )
    if not found["machine"]:
        print(f"Nothing ran; {folder / 'failures.log'} says why.", file=sys.stderr)
        return 1
    print(f"\n{tables(found)}\n")
    if arguments.write:
        arguments.write.write_text(document(found))
    print(json.dumps(found))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--rounds", type=int, default=3)
    result.add_argument("--blocks", type=int, default=4, help=f"of {BLOCK_STEPS} timed steps in a measurement; the median counts")
    result.add_argument("--warmup", type=int, default=5)
    result.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    result.add_argument("--only", action="append", choices=list(CHANGES), help="measure this change (several times: these)")
    result.add_argument("--keep", type=Path, default=Path(".cache/bench/gpu"), help="where results are kept; remove it to begin anew")
    result.add_argument("--write", type=Path, help="write the finished document here")
    return result


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
