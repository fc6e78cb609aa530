"""One CUDA device: the reference's four legs, then single changes to the fastest, on a Llama-3 8B-shaped model.

    make bench-gpu [PYTHON=/path/to/python]      installs nothing; needs torch 2.14, torchtitan 0.3.0, torchao 0.18

As many of the 32 layers as training.memory says fit. Every measurement is a process of its own, so that memory and compiled
code are its own too; rounds go through the legs in turn, so that what the device does meanwhile meets all. The all-gather
leg gathers over one device: it shows the cost of its casts and none of what it saves between devices.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from data_prep.strict import merge, parse
from training.memory import estimate
from training.recipes import RECIPES, REFERENCE_ABLATION
from training.spec import TrainingSpec

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "training"))  # leg_corpus, which measure() imports

LEGS: dict[str, dict[str, Any]] = {leg["name"]: leg["training"] for leg in REFERENCE_ABLATION}
CHANGES: dict[str, dict[str, Any]] = {
    "batch 1": {"local_batch_size": 1},
    "batch 4": {"local_batch_size": 4},
    "checkpoint nothing": {"activation_checkpointing": "none"},
    "checkpoint blocks": {"activation_checkpointing": "full"},
    "FlexAttention": {"attention": "flex"},
    "FP8 rowwise": {"float8": "rowwise"},
    "FP8 tensorwise, gather in BF16": {"float8": "tensorwise"},
    "no FP8": {"float8": "off"},
}
"""Each is one change to the last leg."""
FILL = 0.85  # of the device's memory: the estimate is within 15 %, and fragmentation takes some


def base_settings(device: str, memory_bytes: int) -> dict[str, Any]:
    """llama3_8b's settings on one device, with as many layers as fit; a tiny shape where there is no CUDA device."""
    shared = {
        "processes_per_host": 1,
        "checkpoint": {"interval_steps": 1_000_000},
        "export": {"enabled": False},
        "log_interval_steps": 1_000_000,
    }
    if device == "cpu":
        tiny = {"dim": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_dim": 192, "vocab_size": 400, "max_sequence_length": 64}
        small = {"device": "cpu", "precision": "float32", "sequence_length": 64, "checkpoint": {"async_mode": "disabled"}}
        return merge(merge(RECIPES["llama3_8b"]["training"], shared), {"model": tiny, **small, "steps": 1000})
    settings = merge(RECIPES["llama3_8b"]["training"], {**shared, "steps": 1000})
    return merge(settings, {"model": {"layers": layers_that_fit(settings, memory_bytes)}})


def layers_that_fit(settings: dict[str, Any], memory_bytes: int) -> int:
    """The largest number of layers whose estimate stays below FILL of the memory."""
    for layers in range(RECIPES["llama3_8b"]["training"]["model"]["layers"], 0, -1):
        spec = parse(TrainingSpec, merge(settings, {"model": {"layers": layers}}))
        if estimate(spec, 1).total < FILL * memory_bytes:
            return layers
    raise SystemExit("Not one layer of Llama-3 8B fits this device")


def measure(settings: dict[str, Any], steps: int, warmup: int) -> dict[str, Any]:
    """One leg in this process: median step, loss after the last step, peak memory."""
    from leg_corpus import documents, write_channel, write_job
    from train import stepper

    if settings["device"] == "cpu":
        from training.cpu_device import select_cpu

        select_cpu()
    import torch

    from training.leg_job import read_job
    from training.titan_config import trainer_config

    cuda = settings["device"] == "cuda"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]))
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        base = Path(folder)
        write_job(base, merge(settings, {"log_interval_steps": warmup + steps}))  # the last step's loss, and no other work
        write_channel(base / "input/data/tokens", documents(2_000_000), vocab_size=400)
        trainer = trainer_config(read_job(base), validation_tokens=0).build()
        step = stepper(trainer)
        for _ in range(warmup):
            step()
        seconds = []
        for _ in range(steps):
            begin = time.perf_counter()
            step()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
        metrics = trainer.metrics_processor
        losses = [row["loss"] for row in metrics.file.rows() if "loss" in row]
        rate = settings["local_batch_size"] * settings["sequence_length"] / statistics.median(seconds)
        peak = metrics.peak
        return {
            "tokens_per_second": rate,
            "mfu": 100 * metrics.num_flops_per_token * rate / peak if peak else None,
            "memory_gib": metrics.device_memory_monitor.get_peak_stats().max_reserved_gib,
            "loss": losses[-1] if losses else None,
            "device": metrics.device_memory_monitor.device_name,
        }


def in_own_process(settings: dict[str, Any], steps: int, warmup: int) -> dict[str, Any] | None:
    """``measure`` in a fresh process; None when the setting does not run here (out of memory, most often)."""
    command = [sys.executable, str(Path(__file__)), "--leg", json.dumps(settings), "--steps", str(steps), "--warmup", str(warmup)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parents[1])})
    if done.returncode != 0:
        print(f"  does not run: {done.stderr.strip().splitlines()[-1][:160] if done.stderr.strip() else 'no word'}", flush=True)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(named: dict[str, dict[str, Any]], base: dict[str, Any], *, rounds: int, steps: int, warmup: int) -> dict[str, dict[str, Any]]:
    """Medians of each named change over rounds that go through all of them in turn."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in named}
    for _ in range(rounds):
        for name, changes in named.items():
            result = in_own_process(merge(base, changes), steps, warmup)
            found[name] += [result] if result else []
    return {
        name: {**runs[0], "tokens_per_second": statistics.median(run["tokens_per_second"] for run in runs)}
        for name, runs in found.items()
        if runs
    }


def table(rows: dict[str, dict[str, Any]], first: str) -> str:
    """Markdown: tokens/s, ratio to ``first``, MFU, memory, loss."""
    lines = ["| setting | tokens/s | ratio | MFU % | memory GiB | loss |", "|---|---|---|---|---|---|"]
    reference = rows[first]["tokens_per_second"]
    for name, row in rows.items():
        mfu = "unknown" if row["mfu"] is None else f"{row['mfu']:.1f}"
        loss = "-" if row["loss"] is None else f"{row['loss']:.4f}"
        speed = row["tokens_per_second"]
        lines.append(f"| {name} | {speed:.0f} | {speed / reference:.3f} | {mfu} | {row['memory_gib']:.1f} | {loss} |")
    return "\n".join(lines)


def main(rounds: int, steps: int, warmup: int, device: str) -> int:
    """Both tables and one JSON line."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here; `--device cpu` runs the bench's logic on a tiny model.", file=sys.stderr)
        return 1
    memory = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else 0
    base = base_settings(device, memory)
    legs = {name: {**changes, "compile": False} for name, changes in LEGS.items()} if device == "cpu" else LEGS
    found = compare(legs, base, rounds=rounds, steps=steps, warmup=warmup)
    name = next(iter(found.values()))["device"]
    print(f"\n{name}, torch {torch.__version__}, {base['model']['layers']} layers\n\n{table(found, 'baseline')}")
    summary = {"layers": base["model"]["layers"], "legs": found}
    if device == "cuda":
        last = list(LEGS)[-1]
        changed = compare({last: {}} | CHANGES, merge(base, LEGS[last]), rounds=1, steps=steps, warmup=warmup)
        print(f"\nOne change each to {last}:\n\n{table(changed, last)}")
        summary["changes"] = changed
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leg", help="settings of one leg as JSON: measure it in this process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    chosen = parser.parse_args()
    if chosen.leg:
        print(json.dumps(measure(json.loads(chosen.leg), chosen.steps, chosen.warmup)))
        sys.exit(0)
    sys.exit(main(chosen.rounds, chosen.steps, chosen.warmup, chosen.device))
