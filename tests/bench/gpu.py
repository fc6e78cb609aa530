"""CUDA devices of one host: the reference's four legs, single changes to the last, and the fastest combination of what helped.

    make bench-gpu [PYTHON=/path/to/python] [ARGS="--minutes 9 --devices 8"]     writes docs/gpu-bench.md; installs nothing

PYTHON needs torchtitan 0.3.0 with torch 2.14 and torchao 0.18, or with torch 2.11 to 2.13 (torchao 0.17) and the stand-ins of
gpu_torch_2_11.py. The model is Llama-3 8B with as many of its 32 layers as training.memory says fit. Every measurement has processes
of its own, so that memory and compiled code are its own too; rounds go through the settings in turn, so that what the devices
do meanwhile meets all. With ``--minutes`` a call is one piece: it begins no measurement that would not end in time, and the next
call goes on. Each measurement is a JSON file under ``--keep``/pieces; folders of several machines of one kind may be laid together.
The page is made of the pieces there are. The exit code is 1 when an aim is missed, on GPUs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

from gpu_document import aims, document, tables
from gpu_runs import BLOCK_STEPS, Bench, ratio
from gpu_settings import CHANGES, FIRST_LEG, LAST_LEG, LEGS, base_settings, changes_for

from contracts.config import Json


def bench(runs: Bench, only: list[str]) -> Json:
    """Everything, as one JSON value."""
    legs = runs.legs({name: (name, []) for name in LEGS})
    changes = {name: runs.run(LAST_LEG, [name]) for name in only}
    # What helps on top of what is known once every change has been measured.
    kept, tries = runs.combine(legs[LAST_LEG], changes) if not runs.missing else ([], [])
    together = {FIRST_LEG: (FIRST_LEG, []), LAST_LEG: (LAST_LEG, []), "fastest": (LAST_LEG, kept)}
    final = runs.legs(together, phase="final ") if kept else {}
    rows = [*legs.values(), *changes.values()]
    fp8 = ratio(legs[LAST_LEG], legs[FIRST_LEG])
    best = max([ratio(row, legs[FIRST_LEG]) for row in rows] if not final else [fp8, ratio(final["fastest"], final[FIRST_LEG])])
    errors = [row["memory_gib"] / row["estimate_gib"] - 1 for row in rows if row.get("estimate_gib") and "failed" not in row]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": next((row["machine"] for row in rows if "machine" in row), {}),
        "devices": runs.base["processes_per_host"],
        "layers": runs.base["model"]["layers"],
        "batch": runs.base["local_batch_size"],
        "sequence_length": runs.base["sequence_length"],
        "rounds": runs.rounds,
        "steps": runs.steps,
        "missing": runs.missing,
        "legs": legs,
        "changes": changes,
        "combination": {"kept": kept, "tries": tries, "measured": final},
        "fp8_over_eager": round(fp8, 3) or None,
        "best_over_eager": round(best, 3) or None,
        "memory_error": round(max(errors, key=abs), 3) if errors else None,
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
    folder = arguments.keep.resolve() / re.sub(r"[^A-Za-z0-9.]+", "-", f"{arguments.devices} x {name} torch {version('torch')}")
    runs = Bench(
        base_settings(arguments.device, memory, arguments.devices),
        folder,
        rounds=arguments.rounds,
        steps=arguments.blocks * BLOCK_STEPS,
        warmup=arguments.warmup,
        seconds=None if arguments.minutes is None else 60 * arguments.minutes,
        eager=arguments.device == "cpu" and not arguments.compile,
    )
    found = bench(runs, arguments.only or changes_for(arguments.devices))
    if not found["machine"]:
        print(f"Nothing ran; {folder / 'failures.log'} says why.", file=sys.stderr)
        return 1
    print(f"\n{tables(found)}\n")
    if arguments.write:
        arguments.write.write_text(document(found))
    print(json.dumps(found))
    missed = [aim for aim in aims(found) if aim.met is False]
    return 1 if missed and arguments.device == "cuda" else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--rounds", type=int, default=3)
    result.add_argument("--blocks", type=int, default=4, help=f"of {BLOCK_STEPS} timed steps in a measurement; the median counts")
    result.add_argument("--warmup", type=int, default=5)
    result.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    result.add_argument("--devices", type=int, default=1, help="of this host, all of one kind; some changes need several")
    result.add_argument("--compile", action="store_true", help="with --device cpu: compile, which is left out there")
    result.add_argument("--minutes", type=float, help="end this piece after so many; 0 writes the page of the pieces there are")
    result.add_argument("--only", action="append", choices=list(CHANGES), help="measure this change (several times: these)")
    result.add_argument("--keep", type=Path, default=Path(".cache/bench/gpu"), help="where results are kept; remove it to begin anew")
    result.add_argument("--write", type=Path, help="write the document here")
    return result


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
