"""A second start with what the first one compiled: two attempts that go on from one checkpoint, with its compile cache and without.

    make bench-compile [ROUNDS=2]

Each round trains four steps with torch.compile on two CPU ranks and an empty cache (cold), then goes on from step 2's checkpoint
twice, with its compile cache (kept), and under another execution's key (anew). The first step, which compiles, is timed by the
job itself (result.json). The losses of both must be equal. One JSON line: ``ratio`` is the median of anew over kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

from job_runs import TINY, JobRun, give_checkpoint, start_job, tiny_channel, whole_checkpoints
from leg_corpus import write_job

from contracts.config import merge
from contracts.files import COMPILE_CACHE, COMPILE_CACHE_KEY

COMPILED = merge(TINY, {"compile": True, "steps": 4, "checkpoint": {"interval_steps": 2}, "export": {"enabled": False}})


def train(base: Path, tokens: Path, checkpoint: Path | None, *, key: str = "the execution's") -> JobRun:
    """One job to its end.

    Raises:
        SystemExit: it failed.
    """
    write_job(base, COMPILED, attempt=90)  # the attempt names the port: beside other benchmarks
    if checkpoint is not None:
        give_checkpoint(base, checkpoint)
    run = start_job(base, tokens, environment={COMPILE_CACHE_KEY: key})
    if run.finish() != 0:
        raise SystemExit(f"the job failed: {run.failure()}\n{run.log()}")
    return run


def first_step(run: JobRun) -> float:
    """Seconds of the first step as the job's result says them."""
    result = json.loads((run.kept / "metrics" / "result.json").read_text())
    return float(result["startup_seconds"]["first_step"])


def measured(root: Path, tokens: Path) -> dict[str, Any]:
    """One round."""
    cold = train(root / "cold", tokens, None)
    checkpoint = next(path for path in whole_checkpoints(cold.kept) if path.name == "step-2")
    kept = train(root / "kept", tokens, checkpoint)
    anew = train(root / "anew", tokens, checkpoint, key="another's")
    return {
        "cold": first_step(cold),
        "kept": first_step(kept),
        "anew": first_step(anew),
        "equal": kept.losses() == anew.losses() == {step: value for step, value in cold.losses().items() if step > 2},
        "bytes": (checkpoint / COMPILE_CACHE).stat().st_size,
    }


def main(rounds: int) -> int:
    """Print a table and one JSON line; 1 when a loss differs."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-compile-") as scratch:
        tokens = tiny_channel(Path(scratch) / "tokens")
        print("first step, s     cold     anew     kept  losses", flush=True)
        for number in range(1, rounds + 1):
            row = measured(Path(scratch) / str(number), tokens)
            found.append(row)
            words = "equal" if row["equal"] else "DIFFER"
            print(f"round {number:2}       {row['cold']:7.1f}  {row['anew']:7.1f}  {row['kept']:7.1f}  {words}", flush=True)
    ratio = statistics.median(row["anew"] / row["kept"] for row in found)
    equal = all(row["equal"] for row in found)
    print(json.dumps({"bench": "compile", "rounds": rounds, "ratio": round(ratio, 2), "equal": equal, "cache_bytes": found[-1]["bytes"]}))
    return 0 if equal else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    sys.exit(main(parser.parse_args().rounds))
